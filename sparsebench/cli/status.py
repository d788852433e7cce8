"""``sparsebench status``: the state of runs, read from disk."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsebench.cli.subcommand import Section, Subcommand, number
from sparsebench.errors import SettingError, one_of, printable

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from sparsebench.records.states import RunState

COLUMNS = ("state", "run", "epoch", "top1", "sparsity", "images/s", "heartbeat", "ETA", "")
FORMATS = ("text", "json")


def run(args: Namespace) -> int:
    """Print the states of a folder's runs, once or repeatedly.

    Returns:
        The exit status: 0, or 1 if there are damaged runs.

    Raises:
        SettingError: There is no such folder.
    """
    from sparsebench.cli.left_out import LeftOut
    from sparsebench.records.states import states

    if not args.path.is_dir():
        raise SettingError("path", args.path, "a folder of results")
    if args.format not in FORMATS:
        raise SettingError("--format", args.format, one_of(FORMATS, args.format))
    if args.watch is not None and args.watch <= 0:
        raise SettingError("--watch", args.watch, "a number of seconds above 0")
    left_out = LeftOut()
    while True:
        found = states(args.path, left_out)
        text = _json(found) if args.format == "json" else _text(found, args.all)
        if args.watch is None:
            print(text)
            return int(bool(left_out.found) or any(run.state == "damaged" for run in found))
        clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
        print(f"{clear}{text}", flush=True)
        try:
            time.sleep(args.watch)
        except KeyboardInterrupt:
            return 0


def _json(found: Sequence[RunState]) -> str:
    import json

    from sparsebench.records.states import age

    return json.dumps(
        [
            {
                "run_id": run.run_id,
                "state": run.state,
                "name": run.name,
                "folder": run.folder and str(run.folder),
                "heartbeat": run.heartbeat and round(age(run.heartbeat), 1),
                "error": run.error,
                **{
                    name: run.row.get(name)
                    for name in ("epoch", "epochs", "val_top1", "top1", "sparsity", "eta")
                },
            }
            for run in found
        ],
        indent=2,
    )


def _text(found: Sequence[RunState], everything: bool) -> str:
    import shutil

    from sparsebench.records.states import STATES

    counts = Counter(run.state for run in found)
    summary = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    shown = [run for run in found if everything or run.state != "finished"]
    rows = [
        tuple(map(printable, _cells(run))) for run in sorted(shown, key=lambda run: STATES.index(run.state))
    ]
    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS) - 1)]
    room = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 10**6
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
        for row in [COLUMNS, *rows]
    ]
    return "\n".join(
        [f"{len(found)} runs: {summary or 'none'}", *(line[:room].rstrip() for line in lines if rows)]
    )


def _cells(run: RunState) -> tuple[str, ...]:
    from sparsebench.clock import format_duration
    from sparsebench.records.states import age

    row = run.row
    epoch = _number(row.get("epoch"), ".1f")
    if epoch and row.get("epochs"):
        epoch += f"/{_number(row['epochs'], 'g')}"
    eta = _number(row.get("eta"), ".3f") if run.state == "running" else ""
    return (
        run.state,
        run.name,
        epoch if run.state != "finished" else "",
        _number(row.get("top1") or row.get("val_top1"), ".2f"),
        _number(row.get("sparsity"), ".4f"),
        _number(row.get("images_per_second"), ",.0f"),
        "" if run.heartbeat is None else f"{age(run.heartbeat):.0f} s ago",
        format_duration(float(eta)) if eta not in ("", "nan", "inf", "-inf") else "",
        run.error or (f"process {row.get('pid')} on {row.get('host')}" if run.state == "running" else ""),
    )


def _number(value: Any, form: str) -> str:
    """A number of a row or a heartbeat; empty if it is missing or none."""
    try:
        return format(float(value), form)
    except (TypeError, ValueError):
        return ""


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("path", type=Path, metavar="RESULTS", help="folder of results")
    parser.add_argument("--all", action="store_true", help="also list finished runs")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=number,
        const=5.0,
        metavar="SECONDS",
        help="refresh every SECONDS until Ctrl-C",
    )
    parser.add_argument("--format", default="text", metavar="FORMAT", help=f"{' or '.join(FORMATS)}")


COMMAND = Subcommand(
    name="status",
    help="the state of the runs in a folder",
    section=Section.FOLLOW,
    order=0,
    description="Shows planned, queued, running, interrupted, failed, diverged and finished runs. If the files of any "
    "are damaged, the exit status is 1.",
    files=True,
    arguments=arguments,
    run=run,
)
