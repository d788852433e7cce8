"""Runs that several tables hold: the same result, or other results of one run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from sparsebench.records import schema

NAMED = 3
"""Runs named in a note."""


def shared_runs(tables: Sequence[tuple[str, pd.DataFrame]]) -> list[str]:
    """Notes on runs that two tables have in common: how many are equal, and which are not.

    They are never averaged with each other, because each table has its own means; but a difference between two tables
    of the same runs says nothing about their seeds.

    Args:
        tables: (label, summary rows) of each; those of other programs have no ids of ours, and are skipped.
    """
    ours = [(label, frame) for label, frame in tables if "schema" in frame and "run_id" in frame]
    return [note for (a, one), (b, other) in combinations(ours, 2) if (note := _shared(a, one, b, other))]


def _shared(a: str, one: pd.DataFrame, b: str, other: pd.DataFrame) -> str:
    same = one["run_id"].isin(other["run_id"])
    if not same.any():
        return ""
    columns = [c for c in schema.REPEATED_COLUMNS if c in one and c in other and c != "run_id"]
    first, second = (
        frame.set_index(frame["run_id"].astype(str))[columns].astype(object) for frame in (one[same], other)
    )
    second = second.loc[first.index]
    unequal = (first != second) & ~(first.isna() & second.isna())
    differing = unequal.any(axis=1)
    text = f"note: {_runs(len(first))} in both {a} and {b}"
    if not differing.any():
        return f"{text}, with equal results"
    named = []
    for run in first.index[differing][:NAMED]:
        changed = [c for c in columns if unequal.loc[run, c]]
        values = [f"{c} {first.loc[run, c]} -> {second.loc[run, c]}" for c in changed[:NAMED]]
        named.append(f"{run}: {', '.join(values)}")
    more = "; ..." if differing.sum() > NAMED else ""
    return f"{text}, {int(differing.sum())} of them with other results: {'; '.join(named)}{more}"


def _runs(count: int) -> str:
    return "1 run is" if count == 1 else f"{count} runs are"
