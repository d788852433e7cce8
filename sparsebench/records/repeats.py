"""Runs that were made more than once: which rows of one ``run_id`` are the same result, and what others differ in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparsebench.records import schema

if TYPE_CHECKING:
    import pandas as pd

REPEATS = "repeats.csv"
"""File of a results folder with the rows of runs that were made again with other numerics; no command counts them."""

MACHINE = ("device", "torch")
"""Columns that stand for the numerics of rows of earlier versions, which have no column for them."""


def same_numerics(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two rows of one run must be equal to the bit: they have the same numerics from the first step on."""
    if one.get("numerics_changed_at") or other.get("numerics_changed_at"):
        return False
    column = ("numerics",) if one.get("numerics") and other.get("numerics") else MACHINE
    return all(one.get(name) == other.get(name) for name in column)


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The columns in which two rows differ that executions of one run with the same numerics have in common.

    Returns:
        ``column value and value`` of each; columns that only one of them has are not compared.
    """
    columns = [*schema.REPEATED_COLUMNS, *schema.HASHES]
    return [
        f"{name} {one[name] or 'nothing'} and {other[name] or 'nothing'}"
        for name in columns
        if name in one and name in other and one[name] != other[name]
        if name not in schema.HASHES or (one[name] and other[name])
    ]


def numerics(row: Mapping[str, str]) -> str:
    """The numerics of a row in one line."""
    text = row.get("numerics") or " torch ".join(row.get(name) or "?" for name in MACHINE)
    changed = row.get("numerics_changed_at")
    return f"{text}, changed at step {changed}" if changed else text


def repeated(frame: pd.DataFrame) -> list[str]:
    """One line for every run of a table whose rows are not equal."""
    twice = frame[frame["run_id"].duplicated(keep=False)]
    lines = []
    for run_id, part in twice.groupby("run_id", observed=True):
        rows = [
            {str(name): "" if value != value or value is None else str(value) for name, value in row.items()}
            for row in part.astype(object).to_dict("records")
        ]
        lines += disagreement(str(run_id), rows[0], *rows[1:])
    return lines


def disagreement(run_id: str, first: Mapping[str, str], *others: Mapping[str, str]) -> list[str]:
    """A line that says in what the rows of one run differ; none if they are equal."""
    for other in others:
        if found := differences(first, other):
            made = "" if same_numerics(first, other) else f" ({numerics(first)}; {numerics(other)})"
            return [f"run {run_id} was made more than once{made}, with other results: {', '.join(found[:3])}"]
    return []
