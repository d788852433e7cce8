"""The dense runs that sparse ones are measured against: the same in everything but pruning."""

from __future__ import annotations

import pandas as pd

from sparsebench.compare.configurations import Joined
from sparsebench.compare.statistics import differences
from sparsebench.records.settings import dense_command, is_pruning_setting

NOT_TRAINING = ("method", "target_sparsity", "round", "config_hash", "seed")
"""Keys that say how a run was pruned, or only name it."""


def training_keys(keys: list[str]) -> list[str]:
    """Those of ``keys`` that a dense run has too: data set, model, recipe and the like."""
    return [key for key in keys if key not in NOT_TRAINING and not is_pruning_setting(key)]


def against_dense(joined: Joined, table: int = 0) -> pd.DataFrame:
    """Every configuration's difference to its dense baseline, by seed where both have it.

    Args:
        joined: One or several tables.
        table: Which.

    Returns:
        By number of the configuration, as :func:`sparsebench.compare.statistics.differences`, and ``dense_command``:
        what makes the dense runs of the seeds that have none; missing where there is none to make.
    """
    runs = joined.runs[table]
    baseline = _dense(joined, runs)
    wanted = pd.DataFrame({"key": baseline.index, "dense": baseline.to_numpy()}).dropna()
    mine = runs.loc[runs["good"], ["key", "seed"]].drop_duplicates()
    dense = runs.rename(columns={"key": "dense"}).merge(wanted, on="dense")
    found = differences(dense, runs) if len(dense) else differences(runs.iloc[:0], runs)
    there = dense.loc[dense["good"], ["key", "seed"]].drop_duplicates().assign(there=True)
    alone = mine.merge(there, on=["key", "seed"], how="left")
    alone = alone[alone["there"].isna()]
    missing = {int(str(key)): sorted(map(int, seeds.dropna())) for key, seeds in alone.groupby("key")["seed"]}
    result = found.reindex(joined.table.index)
    commands = {key: _command(joined.commands.get(key, ""), seeds) for key, seeds in missing.items()}
    result["dense_command"] = pd.Series(commands, dtype=object).reindex(result.index)
    if "method" in joined.table:
        is_dense = joined.table["method"] == "dense"
        result.loc[is_dense, ["low", "high", "pairs", "interval", "dense_command"]] = None
    return result


def _dense(joined: Joined, runs: pd.DataFrame) -> pd.Series:
    """Number of the configuration -> that of its dense baseline; NaN if there is none, or more than one."""
    nothing = pd.Series(float("nan"), index=joined.table.index)
    if "method" not in joined.table:
        return nothing
    present = joined.table.index.isin(runs["key"].unique())
    dense = joined.table[(joined.table["method"] == "dense") & present]
    same = training_keys(joined.keys)
    if dense.empty or not same:
        return nothing
    group = joined.table.groupby(same, dropna=False).ngroup()
    of_group = group[dense.index]
    one = of_group[~of_group.duplicated(keep=False)]
    return group.map(pd.Series(one.index, index=one.to_numpy())).astype(float)


def _command(command: str, seeds: list[int]) -> str:
    if not command.startswith("sparsebench train"):
        return ""
    train_command = dense_command(command, ",".join(map(str, seeds)) or None)
    return (
        train_command
        if len(seeds) < 2
        else train_command.replace("sparsebench train", "sparsebench sweep", 1)
    )
