"""``sparsebench collect``: the results of many runs as one CSV."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import SettingError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def run(options: Namespace) -> int:
    """Print one row per finished run, and per unfinished one if asked for; or write them with ``-o``.

    Raises:
        SettingError: A folder holds no such runs, or FILE is not writable.
    """
    import csv
    import io

    from sparsebench.files import write_text

    found = [row for path in options.paths for row in _rows(path, options.unfinished)]
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


def _rows(path: Path, with_unfinished: bool) -> list[dict[str, str]]:
    from sparsebench.records.collect import rows
    from sparsebench.records.run_folder import unfinished
    from sparsebench.records.unfinished import unfinished_rows

    found = rows(path)
    if with_unfinished and path.is_dir():
        found += unfinished_rows(path).values()
    elif left_out := len(unfinished(path)):
        print(
            f"sparsebench: {path}: {left_out} unfinished runs left out (--unfinished shows them)",
            file=sys.stderr,
        )
    if not found:
        raise SettingError("path", path, f"a folder with {'' if with_unfinished else 'finished '}runs")
    return found


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="FOLDER", help="a run folder, or a folder of runs"
    )
    parser.add_argument(
        "--unfinished",
        action="store_true",
        help="also a row for each run that has begun and has no result: its status (running, interrupted, failed, ...) "
        "and its last evaluation; nothing takes such a row for a result",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE instead of printing")


COMMAND = Subcommand(
    name="collect",
    help="the results of many runs as one CSV",
    section=Section.FOLLOW,
    order=2,
    description="Writes one CSV of all finished runs in the folders: one row per run, all summary columns. Paths "
    "(results_dir, data_root) are removed from the commands.",
    examples=("sparsebench collect results/runs -o table.csv",),
    files=True,
    arguments=arguments,
    run=run,
)
