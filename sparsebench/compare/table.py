"""Render a data frame as a text table, CSV, Markdown, LaTeX or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsebench.errors import printable

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("table", "csv", "markdown", "latex", "json")

WITH_NOTES = ("table", "markdown", "latex")
"""Formats for reading: cells are shortened, and notes follow the table."""

PLUS_MINUS = r"$\pm$"

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def exact(frame: pd.DataFrame, form: str) -> str:
    """``frame`` as ``csv`` or ``json`` in full precision."""
    if form == "csv":
        return frame.to_csv(index=False, lineterminator="\n")
    return json.dumps(json.loads(frame.to_json(orient="records", double_precision=15)), indent=2) + "\n"


def render(cells: pd.DataFrame, form: str, notes: Sequence[str] = ()) -> str:
    """Render strings as a text ``table``, ``markdown`` or ``latex`` (booktabs), followed by ``notes``."""
    rows = [[printable(cell) for cell in row] for row in cells.to_numpy()]
    header, notes = [printable(column) for column in cells.columns], [printable(note) for note in notes]
    if form == "latex":
        return _latex(header, rows, notes)
    if form == "markdown":
        header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in [header, *rows])
    right = _right(len(header), rows)
    least = 3 if form == "markdown" else 0  # Markdown rules have at least three characters
    widths = [max(least, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]

    def line(row: list[str], separator: str) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        return separator.join(padded)

    if form == "markdown":
        rule = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)]
        table = "".join(f"| {line(row, ' | ')} |\n" for row in [header, rule, *rows])
        return table + "".join(f"\n{note.strip()}\n" for note in notes)
    table = "".join(line(row, "  ").rstrip() + "\n" for row in [header, *rows])
    return table + "".join(f"{note}\n" for note in notes)


def _right(columns: int, rows: list[list[str]]) -> list[bool]:
    """Which columns hold numbers and are right-aligned."""
    filled = [[row[i] for row in rows if row[i]] for i in range(columns)]
    return [bool(f) and all(re.match(r"[+-]?(\d|no )", cell) for cell in f) for f in filled]


def _latex(header: list[str], rows: list[list[str]], notes: Sequence[str]) -> str:
    align = "".join("r" if right else "l" for right in _right(len(header), rows))
    body = [" & ".join(_math(_escaped(cell)) for cell in row) + r" \\" for row in rows]
    head = " & ".join(_escaped(cell) for cell in header) + r" \\"
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    note_lines = [
        rf"\par\smallskip\footnotesize {_escaped(note.strip()).replace('±', PLUS_MINUS)}" for note in notes
    ]
    return "\n".join(["% needs \\usepackage{booktabs}", *lines, r"\end{tabular}", *note_lines]) + "\n"


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text).replace(
        r"-\textgreater{}", r"$\to$"
    )


def _math(cell: str) -> str:
    """Put signed numbers, and means with their deviations, into math mode."""
    digits = r"\d[\d.]*(?:e[+-]?\d+)?"
    cell = re.sub(rf"(?<![\w.-])([+-]?{digits}) ± ({digits})", r"$\1 \\pm \2$", cell)
    return re.sub(rf"(?<![\w$.-])([+-]{digits})", r"$\1$", cell)
