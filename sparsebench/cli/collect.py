"""``sparsebench collect``: the results of many runs as one CSV."""

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
    """Print one row per finished run, or write them with ``-o``.

    Raises:
        SettingError: A folder holds no finished runs, or FILE is not writable.
    """
    parser = argparse.ArgumentParser(
        prog="sparsebench collect",
        description="Writes one CSV of all finished runs in the folders: one row per run, all summary columns. Paths "
        "(results_dir, data_root) are removed from the commands.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="FOLDER", help="a run folder, or a folder of runs"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE instead of printing")
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
