"""Which runs count, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd  # at run time only a method of the frames that are given is needed

FINISHED, MISSED, EARLIER = "finished", "missed its sparsity", "earlier round"
"""States of runs that ended well, with another number of zeros than requested, or before their method's last round."""

TRUE = ("True", "true")
"""How a CSV, and pandas, write that something holds."""


def is_valid(row: Mapping[str, str]) -> bool:
    """Whether the run of a summary row counts: it finished with exactly the requested number of zeros."""
    return row["status"] == FINISHED and row["sparsity_ok"] in TRUE


def valid_runs(frame: pd.DataFrame) -> pd.Series:
    """:func:`is_valid` of every row of a table of summaries."""
    return (frame["status"] == FINISHED) & frame["sparsity_ok"].astype(str).isin(TRUE)


def run_states(frame: pd.DataFrame) -> pd.Series:
    """The validity of every row of a table of summaries: :data:`FINISHED`, or the reason why it is invalid.

    An earlier round of a multi-round method is valid too, as a separate configuration, but is not a result of
    the method.
    """
    valid, status = valid_runs(frame), frame["status"].astype(object)
    states = status.where(status != FINISHED, MISSED).where(status.notna(), "no status").mask(valid, FINISHED)
    if "round" in frame and "rounds" in frame:
        states = states.mask(valid & frame["round"].notna() & (frame["round"] != frame["rounds"]), EARLIER)
    return states
