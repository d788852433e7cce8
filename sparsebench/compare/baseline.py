"""The dense baselines of sparse runs: the same except for pruning."""

from __future__ import annotations

import pandas as pd

from sparsebench.compare.configurations import Joined
from sparsebench.compare.statistics import differences
from sparsebench.records.settings import dense_command, is_pruning_setting

NOT_TRAINING = ("method", "target_sparsity", "round", "config_hash", "seed")
"""Keys that describe the pruning of a run, or only identify it."""


def training_keys(keys: list[str]) -> list[str]:
    """Those of ``keys`` that also apply to dense runs: data set, model, recipe, ..."""
    return [key for key in keys if key not in NOT_TRAINING and not is_pruning_setting(key)]


def against_dense(joined: Joined, table: int = 0) -> pd.DataFrame:
    """Every configuration's difference to its dense baseline, paired by seed if both have common seeds.

    The baseline is the one configuration of the same training with ``method`` dense. Where there are several (two
    ``config_hash`` of one wording), none is chosen.

    Args:
        joined: One or several tables.
        table: Which.

    Returns:
        By number of the configuration, as :func:`sparsebench.compare.statistics.differences`, and ``dense_command``:
        what makes the dense runs of the seeds that have none; missing where there is none to make.
    """
    runs = joined.runs[table]
    baseline, _ = _dense(joined, runs)
    wanted = pd.DataFrame({"key": baseline.index, "dense": baseline.to_numpy()}).dropna()
    dense = runs.rename(columns={"key": "dense"}).merge(wanted, on="dense")
    result = (differences(dense, runs) if len(dense) else differences(runs.iloc[:0], runs)).reindex(
        joined.table.index
    )
    lacking = runs[runs_against_dense(joined, table)["lacks_dense"]]
    missing = {int(str(key)): seeds.dropna().unique() for key, seeds in lacking.groupby("key")["seed"]}
    commands = {
        key: _command(joined.commands.get(key, ""), sorted(map(int, s))) for key, s in missing.items()
    }
    result["dense_command"] = pd.Series(commands, dtype=object).reindex(result.index)
    if "method" in joined.table:
        result.loc[joined.table["method"] == "dense", ["low", "high", "pairs", "interval"]] = None
    return result


def runs_against_dense(joined: Joined, table: int = 0) -> pd.DataFrame:
    """Every run's difference to the dense run of its training and seed, in the order of the table.

    Returns:
        ``difference``: of a run that counts, to the dense run of its seed that counts, or to the mean of several; not
        a number where there is none. ``lacks_dense``: whether a run that counts has none, and one could be made.
    """
    runs = joined.runs[table]
    baseline, ambiguous = _dense(joined, runs)
    seeds = pd.DataFrame({"key": runs["key"].map(baseline), "seed": runs["seed"]})
    valid = runs[runs["good"]].groupby(["key", "seed"], dropna=False)["value"]
    there, value = valid.size().rename("there"), valid.mean().rename("dense")
    dense = seeds.join(pd.concat([there, value], axis=1), on=["key", "seed"])
    lacks = runs["good"] & dense["there"].isna() & ~runs["key"].isin(ambiguous)
    if "method" in joined.table:
        lacks &= runs["key"].map(joined.table["method"]) != "dense"
    difference = (runs["value"] - dense["dense"]).where(runs["good"] & runs["seed"].notna())
    return pd.DataFrame({"difference": difference, "lacks_dense": lacks})


def _dense(joined: Joined, runs: pd.DataFrame) -> tuple[pd.Series, list[int]]:
    """Number of the configuration -> that of its dense baseline, NaN if there is no single one; those with several."""
    nothing = pd.Series(float("nan"), index=joined.table.index)
    if "method" not in joined.table:
        return nothing, []
    present = joined.table.index.isin(runs["key"].unique())
    dense = joined.table[(joined.table["method"] == "dense") & present]
    same = training_keys(joined.keys)
    if dense.empty or not same:
        return nothing, []
    group = joined.table.groupby(same, dropna=False).ngroup()
    of_group = group[dense.index]
    several = of_group.duplicated(keep=False)
    one = of_group[~several]
    baseline = group.map(pd.Series(one.index, index=one.to_numpy())).astype(float)
    return baseline, list(group.index[group.isin(of_group[several])])


def _command(command: str, seeds: list[int]) -> str:
    if not command.startswith("sparsebench train"):
        return ""
    train_command = dense_command(command, ",".join(map(str, seeds)) or None)
    return (
        train_command
        if len(seeds) < 2
        else train_command.replace("sparsebench train", "sparsebench sweep", 1)
    )
