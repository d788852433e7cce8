"""Means over seeds and their differences, joined by configuration."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from sparsebench.errors import SettingError, one_of

DESCRIBING = ("dataset", "model", "method", "target_sparsity", "epochs", "batch_size", "precision")
"""What a configuration is called in a table; ``config_hash`` is added where this is not enough."""


def counted(frame: pd.DataFrame) -> pd.Series:
    """Which rows count: runs that finished with exactly the asked number of zeros."""
    return (frame["status"] == "finished") & frame["sparsity_ok"].astype(str).isin(["True", "true"])


def compare(
    tables: Sequence[tuple[str, pd.DataFrame]], metric: str = "top1", on: Sequence[str] | None = None
) -> pd.DataFrame:
    """One row a configuration: for each table the number of seeds, mean and sample standard deviation.

    With several tables, columns carry the table's label, and each after the first has ``difference``: its mean
    minus the first's. With one, ``difference_to_dense`` is the mean minus that of the dense runs (target
    sparsity 0) of the same data set, model, epochs, batch size and precision. Runs that diverged or
    missed their sparsity are counted in ``excluded`` and in nothing else.

    Args:
        tables: (label, summary rows) of each.
        metric: A numeric column.
        on: Columns that make a configuration, instead of the describing ones.

    Raises:
        SettingError: ``metric`` or ``on`` names no suitable column.
    """
    for label, frame in tables:
        numeric = [c for c in frame if is_numeric_dtype(frame[c]) and not is_bool_dtype(frame[c])]
        if metric not in numeric:
            raise SettingError("metric", metric, f"a numeric column of {label}: {one_of(numeric, metric)}")
        for column in on or ():
            if column not in frame:
                raise SettingError("on", column, f"a column of {label}: {one_of(frame.columns, column)}")
    keys = list(on or _keys([frame for _, frame in tables]))
    parts = []
    for label, frame in tables:
        part = _statistics(frame, keys, metric)
        parts.append(part if len(tables) == 1 else part.add_suffix(f" [{label}]"))
    joined = pd.concat(parts, axis=1).sort_index()
    if len(tables) == 1:
        joined["difference_to_dense"] = _difference_to_dense(joined["mean"], keys)
    for label, _ in tables[1:]:
        joined[f"difference [{label}]"] = joined[f"mean [{label}]"] - joined[f"mean [{tables[0][0]}]"]
    for column in joined.columns:
        if column.split(" [")[0] in ("n", "excluded"):
            joined[column] = joined[column].astype("Int64")
    return joined.reset_index()


def _keys(frames: Sequence[pd.DataFrame]) -> list[str]:
    together = pd.concat(frames, ignore_index=True)
    if together.groupby(list(DESCRIBING), dropna=False)["config_hash"].nunique().max() > 1:
        return [*DESCRIBING, "config_hash"]
    return list(DESCRIBING)


def _statistics(frame: pd.DataFrame, keys: list[str], metric: str) -> pd.DataFrame:
    good = counted(frame)
    groups = frame.assign(value=frame[metric].where(good), bad=~good).groupby(keys, dropna=False)
    return pd.DataFrame({
        "n": groups["value"].count(), "mean": groups["value"].mean(), "std": groups["value"].std(ddof=1),
        "excluded": groups["bad"].sum(),
    })  # fmt: skip


def _difference_to_dense(means: pd.Series, keys: list[str]) -> pd.Series:
    if "target_sparsity" not in keys:
        return pd.Series(float("nan"), index=means.index)
    frame = means.rename("value").reset_index()
    same: list[str] = [k for k in ("dataset", "model", "epochs", "batch_size", "precision") if k in keys]
    dense = frame[(frame["target_sparsity"] == 0) & (frame.get("method", "dense") == "dense")]
    if not same or dense.empty:
        return pd.Series(float("nan"), index=means.index)
    baseline = dense.groupby(same)["value"].agg(
        lambda values: values.iloc[0] if len(values) == 1 else float("nan")
    )
    matched = frame.join(baseline.rename("baseline"), on=same)
    return pd.Series((matched["value"] - matched["baseline"]).to_numpy(), index=means.index)
