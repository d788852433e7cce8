"""``sparsebench compare``: tables over runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sparsebench.errors import SettingError
from sparsebench.files import write_text
from sparsebench.records.collect import read, unfinished
from sparsebench.records.comparison import compare, counted
from sparsebench.records.table import FORMATS, render


def main(arguments: Sequence[str]) -> int:
    """Print, or write with ``-o``, the comparison of the named results.

    Raises:
        SettingError: A path holds no results, a column does not exist, or FILE cannot be one.
    """
    parser = argparse.ArgumentParser(
        prog="sparsebench compare",
        description="Means over seeds, sample standard deviations and differences, joined by configuration. The "
        "first of several paths is what the others are compared to.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="run folder, folder of runs, or CSV"
    )
    parser.add_argument("--metric", default="top1", help="numeric column to compare (default: top1)")
    parser.add_argument(
        "--on", type=lambda text: text.split(","), metavar="COLUMN,...", help="columns to join on"
    )
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write to FILE instead of the screen"
    )
    options = parser.parse_args(arguments)
    tables = []
    for label, path in zip(_labels(options.paths), options.paths, strict=True):
        frame = read(path)
        if warning := _left_out(frame, len(unfinished(path))):
            print(f"sparsebench: {path}: {warning}", file=sys.stderr)
        tables.append((label, frame))
    decimals = 2 if "top" in options.metric else None  # accuracies are per cent; the rest is of any size
    text = render(compare(tables, options.metric, options.on), options.format, decimals)
    if options.output:
        if options.output.is_dir() or not options.output.parent.is_dir():
            raise SettingError("output", options.output, "a file in a folder that exists")
        write_text(options.output, text)
    else:
        sys.stdout.write(text)
    return 0


def _labels(paths: Sequence[Path]) -> list[str]:
    """The shortest names that tell the paths apart: the last part, or the whole."""
    names = [path.name or str(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    whole = [str(path) for path in paths]
    return whole if len(set(whole)) == len(whole) else [f"{name} ({i})" for i, name in enumerate(whole, 1)]


def _left_out(frame: pd.DataFrame, running: int) -> str:
    """How many runs do not count, why, and which (the first three of a reason); empty if all do."""
    bad = frame[~counted(frame)]
    why = bad["status"].where(bad["status"] != "finished", "missed the asked sparsity").fillna("no status")
    reasons = []
    for reason, ids in bad.groupby(why, sort=True)["run_id"]:
        named = [*ids.astype(str)[:3], *(["..."] if len(ids) > 3 else [])]
        reasons.append(f"{len(ids)} {reason} ({', '.join(named)})")
    if running:
        reasons.append(f"{running} unfinished")
    total = len(frame) + running
    return f"{len(bad) + running} of {total} runs left out: {', '.join(reasons)}" if reasons else ""
