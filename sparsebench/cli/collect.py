"""``sparsebench collect``: the results of many runs as one CSV."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import SettingError, printable

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from sparsebench.cli.left_out import LeftOut


def run(options: Namespace) -> int:
    """Print one row per finished run, and per unfinished one if asked for; or write them with ``-o``.

    Raises:
        SettingError: A folder holds no such runs, or FILE is not writable.
        RunError: Runs could not be read; the others have been written.
    """
    from sparsebench.cli.left_out import LeftOut
    from sparsebench.files import check_output, csv_text, write_output

    check_output(options.output)
    left_out = LeftOut()
    found = _once(
        [row for path in options.paths for row in _rows(path, options.unfinished, left_out)], left_out
    )
    text = csv_text(list(dict.fromkeys(column for row in found for column in row)), found)
    if options.output is None:
        sys.stdout.write(text)
    else:
        write_output(options.output, text)
        print(f"{len(found)} runs in {printable(options.output)}", file=sys.stderr)
    left_out.check()
    return 0


def _once(found: Sequence[dict[str, str]], left_out: LeftOut) -> list[dict[str, str]]:
    """Each run once, where it is first; of those that were made more than once, the one started last."""
    from sparsebench.records.repeats import disagreement

    rows: dict[str, list[dict[str, str]]] = {}
    for row in found:
        rows.setdefault(row["run_id"], []).append(row)
    for run_id, (first, *others) in rows.items():
        for line in disagreement(run_id, first, *others):
            left_out.note(f"{line}; the row is that of the one started last")
    return [max(same, key=lambda row: row.get("started", "")) for same in rows.values()]


def _rows(path: Path, with_unfinished: bool, left_out: LeftOut) -> list[dict[str, str]]:
    from sparsebench.records.collect import rows
    from sparsebench.records.run_folder import unfinished
    from sparsebench.records.unfinished import unfinished_rows

    found = rows(path, left_out)
    if with_unfinished and path.is_dir():
        found += unfinished_rows(path, left_out).values()
    elif count := len(unfinished(path)):
        left_out.note(f"{path}: {count} unfinished runs left out (--unfinished shows them)")
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
