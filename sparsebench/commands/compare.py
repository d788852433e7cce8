"""``sparsebench compare``: tables over runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sparsebench.files import write_text
from sparsebench.records.collect import read
from sparsebench.records.comparison import compare, counted
from sparsebench.records.table import FORMATS, render


def main(arguments: Sequence[str]) -> int:
    """Print, or write with ``-o``, the comparison of the named results.

    Raises:
        SettingError: A path holds no results, or a column does not exist.
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
        bad = frame[~counted(frame)]
        for _, row in bad.iterrows():
            print(f"sparsebench: {path}: run {row['run_id']} left out: {_reason(row)}", file=sys.stderr)
        tables.append((label, frame))
    text = render(compare(tables, options.metric, options.on), options.format)
    if options.output:
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


def _reason(row: object) -> str:
    status = row["status"]  # type: ignore[index]
    return f"status {status}" if status != "finished" else "its sparsity is not the asked one"
