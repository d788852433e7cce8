"""A frame as text: for people, CSV, Markdown, JSON."""

from __future__ import annotations

import json

import pandas as pd
from pandas.api.types import is_numeric_dtype

FORMATS = ("table", "csv", "markdown", "json")


def render(frame: pd.DataFrame, form: str, decimals: int | None = 2) -> str:
    """``frame`` in one of :data:`FORMATS`; CSV and JSON keep every digit, the others are for reading.

    Args:
        frame: What :func:`sparsebench.records.comparison.compare` returns.
        form: One of :data:`FORMATS`.
        decimals: Of means, deviations and differences in the formats for reading: 2 for per cent; ``None`` for
            four significant digits, whatever the metric's size.
    """
    if form == "csv":
        return frame.to_csv(index=False, lineterminator="\n")
    if form == "json":
        return json.dumps(json.loads(frame.to_json(orient="records", double_precision=15)), indent=2) + "\n"
    rows = frame.to_dict("records")
    cells = [[_cell(str(column), value, decimals) for column, value in row.items()] for row in rows]
    header = [str(column) for column in frame.columns]
    if form == "markdown":
        header, *cells = ([cell.replace("|", "\\|") for cell in row] for row in [header, *cells])
    right = [is_numeric_dtype(frame[column]) for column in frame.columns]
    least = 3 if form == "markdown" else 0  # a rule is at least "--:"
    widths = [max(least, *(len(row[i]) for row in [header, *cells])) for i in range(len(header))]

    def line(row: list[str], separator: str) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        return separator.join(padded)

    if form == "markdown":
        rule = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)]
        return "".join(f"| {line(row, ' | ')} |\n" for row in [header, rule, *cells])
    return "".join(line(row, "  ").rstrip() + "\n" for row in [header, *cells])


def _cell(column: str, value: object, decimals: int | None) -> str:
    if value is None or value is pd.NA or value != value:
        return ""
    if not isinstance(value, float):
        return str(value)
    kind = column.split(" [")[0]
    form = ".4g" if decimals is None else f".{decimals}f"
    if kind.startswith("difference"):
        return f"{value:+{form}}"
    return f"{value:{form if kind in ('mean', 'std') else '.4g'}}"
