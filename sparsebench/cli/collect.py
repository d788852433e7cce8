"""``sparsebench collect``: the rows of many runs as one CSV."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from sparsebench.errors import SettingError
from sparsebench.files import write_text
from sparsebench.records.collect import rows


def main(arguments: Sequence[str]) -> int:
    """Print, or write with ``-o``, one row a finished run.

    Raises:
        SettingError: A folder holds no finished runs, or FILE cannot be one.
    """
    parser = argparse.ArgumentParser(
        prog="sparsebench collect",
        description="One CSV of the finished runs under folders: a row each, every column, the texts of the runs' own "
        "summaries. Where a run was kept (results_dir, data_root) is left out of its command.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="FOLDER", help="a run folder, or one of runs")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write here instead of printing")
    options = parser.parse_args(arguments)
    found = [row for path in options.paths for row in rows(path)]
    columns = list(dict.fromkeys(column for row in found for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    if options.output is None:
        sys.stdout.write(text.getvalue())
        return 0
    if options.output.is_dir() or not options.output.parent.is_dir():
        raise SettingError("output", options.output, "a file in a folder that exists")
    write_text(options.output, text.getvalue())
    print(f"{len(found)} runs in {options.output}", file=sys.stderr)
    return 0
