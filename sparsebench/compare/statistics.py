"""Vectorised means, deviations and confidence intervals of many configurations."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import special

CONFIDENCE = 0.95


def statistics(runs: pd.DataFrame) -> pd.DataFrame:
    """``n``, ``mean``, ``std`` (sample standard deviation) and ``excluded`` of every configuration.

    Args:
        runs: One row per run: ``key`` (number of its configuration), ``value``, and ``good`` (whether it is valid).
    """
    # A run without a value counts neither as valid nor as excluded: it did not measure this.
    groups = runs.assign(value=runs["value"].where(runs["good"]), bad=~runs["good"]).groupby("key")
    return pd.DataFrame({
        "n": groups["value"].count(), "mean": groups["value"].mean(), "std": groups["value"].std(ddof=1),
        "excluded": groups["bad"].sum(),
    })  # fmt: skip


def differences(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Second minus first of every configuration, with its 95 % confidence interval.

    If both have at least two seeds in common, runs are paired by seed: the difference is the mean over the pairs, with
    Student's interval. Otherwise it is the difference of the means, with Welch's interval, which needs two runs in
    each. A configuration in which a seed occurs twice is not paired.

    Args:
        first: One row per run: ``key``, ``seed``, ``value``, ``good``.
        second: The same.

    Returns:
        Indexed by the keys of both: ``difference``, ``low``, ``high``, ``pairs`` (0 if not paired) and ``interval``
        (``paired``, ``welch``, or empty if there is none).

    References:
        B. L. Welch, "The generalization of 'Student's' problem when several different population variances are
        involved", Biometrika 1947.
    """
    first, second = (runs[runs["good"] & runs["value"].notna()] for runs in (first, second))
    a, b = (runs.groupby("key")["value"].agg(["count", "mean", "var"]) for runs in (first, second))
    a, b = a.align(b, join="inner", axis=0)
    paired = _paired(first, second).reindex(a.index)
    with np.errstate(divide="ignore", invalid="ignore"):
        wa, wb = a["var"] / a["count"], b["var"] / b["count"]
        squares = wa**2 / (a["count"] - 1) + wb**2 / (b["count"] - 1)
        freedom = ((wa + wb) ** 2 / squares).where(squares > 0, 1.0)  # if all runs are equal: width 0
        half = _quantile(freedom) * np.sqrt(wa + wb)
    half = half.where((a["count"] > 1) & (b["count"] > 1))
    by_seed = (paired["count"] >= 2).fillna(False)
    difference = (b["mean"] - a["mean"]).mask(by_seed, paired["mean"])
    width = _quantile(paired["count"] - 1) * paired["std"] / np.sqrt(paired["count"])
    half = half.mask(by_seed, width)
    interval = np.where(by_seed, "paired", np.where(half.notna(), "welch", ""))
    return pd.DataFrame({
        "difference": difference, "low": difference - half, "high": difference + half,
        "pairs": paired["count"].where(by_seed, 0).astype("int64"), "interval": interval,
    })  # fmt: skip


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Count, mean and deviation of the differences between runs with equal configuration and seed."""
    columns = ["key", "seed", "value"]
    sides = [runs.loc[runs["seed"].notna(), columns] for runs in (first, second)]
    twice = {key for runs in sides for key in runs.loc[runs.duplicated(["key", "seed"]), "key"].unique()}
    if twice:
        sides = [runs[~runs["key"].isin(twice)] for runs in sides]
    pairs = sides[0].merge(sides[1], on=["key", "seed"], suffixes=("_first", "_second"))
    change = (pairs["value_second"] - pairs["value_first"]).groupby(pairs["key"])
    return pd.DataFrame({"count": change.count(), "mean": change.mean(), "std": change.std(ddof=1)})


def _quantile(freedom: pd.Series) -> pd.Series:
    """Quantile of Student's t for a two-sided interval with these degrees of freedom."""
    values = special.stdtrit(freedom.to_numpy(dtype=float, na_value=np.nan), 0.5 + CONFIDENCE / 2)
    return pd.Series(values, index=freedom.index)
