"""Means over seeds and their differences, joined on configurations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from sparsebench.compare.baseline import against_dense, training_keys
from sparsebench.compare.configurations import Joined, describe_differences, join
from sparsebench.compare.mixed import mixed, mixed_notes
from sparsebench.compare.shared import shared_runs
from sparsebench.compare.statistics import differences, statistics
from sparsebench.errors import SettingError, one_of
from sparsebench.records.schema import lower_is_better
from sparsebench.records.settings import is_pruning_setting

LISTED = 5
"""Maximum number of commands in the notes."""

UNEQUAL = 0.01
"""Relative difference up to which two budgets are considered equal."""


@dataclass
class Comparison:
    """A table of configurations with notes.

    Attributes:
        frame: One row per configuration; with several tables, columns end in ``[label]``.
        keys: The columns that identify a configuration.
        labels: Labels of the tables; the others are compared with the first.
        metric: The compared metric.
        notes: Notes for the reader: what differs between the tables, what is unfair, what is missing.
    """

    frame: pd.DataFrame
    keys: list[str]
    labels: list[str]
    metric: str
    notes: list[str] = field(default_factory=list)


def compare(
    tables: Sequence[tuple[str, pd.DataFrame]], metric: str = "top1", on: Sequence[str] | None = None
) -> Comparison:
    """Compare tables: number of runs, mean, sample standard deviation and rank of each configuration.

    Runs that diverged or missed their sparsity only count in ``excluded``. With one table, ``difference_to_dense`` is
    the difference to the dense runs with the same training settings; with several, ``difference [label]`` is the
    difference to the first, paired by seed if possible. ``low`` and ``high`` are 95 % confidence intervals. Ranks (1 is
    best) are among the configurations that all tables have, within one training setup and target sparsity. ``mixed``
    says what the runs of a mean were computed with where that is not one version, device and numerics.

    Args:
        tables: (label, summary rows) of each.
        metric: A numeric column.
        on: Columns or settings that identify a configuration; detected by default.

    Raises:
        SettingError: ``metric`` or ``on`` is not a suitable column.
    """
    for label, frame in tables:
        numeric = [c for c in frame if is_numeric_dtype(frame[c]) and not is_bool_dtype(frame[c])]
        if metric not in numeric:
            raise SettingError("metric", metric, f"a numeric column of {label}: {one_of(numeric, metric)}")
    joined = join(tables, metric, on)
    labels = [label for label, _ in tables]
    result = Comparison(joined.table.copy(), joined.keys, labels, metric, joined.notes)
    several, mixed_runs = len(tables) > 1, list[str]()
    for number, (label, frame) in enumerate(tables):
        part = statistics(joined.runs[number]).reindex(joined.table.index)
        for column in ("n", "excluded"):
            part[column] = part[column].astype("Int64")
        part["mixed"] = mixed(joined, frame, number)
        mixed_runs += mixed_notes(joined, part["mixed"], label if several else "")
        result.frame = result.frame.join(part.add_suffix(f" [{label}]") if several else part)
    if several:
        _differences(result, joined)
        result.notes[:0] = _comparability_warnings(joined, labels)
    else:
        _to_dense(result, joined)
    result.notes += [*mixed_runs, *shared_runs(tables)]
    result.frame = result.frame.reset_index(drop=True)
    return result


def _to_dense(result: Comparison, joined: Joined) -> None:
    frame = result.frame
    frame["rank"] = _ranks(result, [frame["mean"]])[0]
    dense = against_dense(joined)
    frame["difference_to_dense"] = dense["difference"]
    for column in ("low", "high", "pairs", "interval", "dense_command"):
        frame[column] = dense[column]
    _normalize_dtypes(frame, "", ("pairs", "rank"))
    frame["dense_command"] = frame["dense_command"].where(frame["dense_command"].notna(), "")
    if "method" not in frame:
        return
    result.notes += missing_dense(frame["dense_command"])
    sparse = (frame["method"] != "dense") & frame["mean"].notna() & frame["difference_to_dense"].isna()
    if without := int((sparse & (frame["dense_command"] == "")).sum()):
        result.notes.append(f"note: {configurations(without)} with no dense run, or several, to compare with")


def missing_dense(commands: pd.Series) -> list[str]:
    """Notes with the commands of missing dense runs."""
    wanted = [str(command) for command in commands.dropna().unique() if command]
    if not wanted:
        return []
    more = [f"  ... and {len(wanted) - LISTED} more"] if len(wanted) > LISTED else []
    listed = [f"  {command}" for command in wanted[:LISTED]]
    return [
        "note: runs without a dense run with the same training settings and seed; these commands train it:",
        *listed,
        *more,
    ]


def _differences(result: Comparison, joined: Joined) -> None:
    frame, labels = result.frame, result.labels
    for label, runs in zip(labels[1:], joined.runs[1:], strict=True):
        found = differences(joined.runs[0], runs).reindex(frame.index)
        for column in found:
            frame[f"{column} [{label}]"] = found[column]
        _normalize_dtypes(frame, f" [{label}]", ("pairs",))
    ranks = _ranks(result, [frame[f"mean [{label}]"] for label in labels])
    for label, rank in zip(labels, ranks, strict=True):
        frame[f"rank [{label}]"] = rank
    for label, rank in zip(labels[1:], ranks[1:], strict=True):
        frame[f"rank_change [{label}]"] = ranks[0] - rank  # positive: improved
    here = pd.DataFrame({label: frame[f"n [{label}]"].notna() for label in labels})
    frame["only_in"] = [
        "" if all(row) else ", ".join(label for label, one in zip(labels, row, strict=True) if one)
        for row in here.itertuples(index=False)
    ]
    alone = frame.loc[frame["only_in"] != "", "only_in"].value_counts()
    result.notes += [f"note: {configurations(count)} only in {named}" for named, count in alone.items()]


def _normalize_dtypes(frame: pd.DataFrame, suffix: str, integer_columns: Sequence[str]) -> None:
    """Use nullable integers, and an empty string for a missing interval."""
    for column in integer_columns:
        frame[f"{column}{suffix}"] = frame[f"{column}{suffix}"].astype("Int64")
    text = frame[f"interval{suffix}"].astype(object)
    frame[f"interval{suffix}"] = text.where(text.notna(), "")


def _ranks(result: Comparison, means: Sequence[pd.Series]) -> list[pd.Series]:
    """Ranks in each table among the configurations that have a mean in every table."""
    keys = [*training_keys(result.keys), *(k for k in ("target_sparsity",) if k in result.keys)]
    everywhere = pd.concat([mean.notna() for mean in means], axis=1).all(axis=1)
    group = (
        result.frame.groupby(keys, dropna=False).ngroup() if keys else pd.Series(0, index=result.frame.index)
    )
    ascending = lower_is_better(result.metric)
    return [
        mean.where(everywhere).groupby(group).rank(method="min", ascending=ascending).astype("Int64")
        for mean in means
    ]


def _comparability_warnings(joined: Joined, labels: Sequence[str]) -> list[str]:
    """Notes on differences between the tables, and a warning if they make the comparison unfair."""
    notes = []
    if joined.differing:
        notes.append(
            f"differs between the tables and is not joined on: {'; '.join(describe_differences(joined.differing))}"
        )
    unfair = [
        text
        for name, text in zip(joined.differing, describe_differences(joined.differing), strict=True)
        if name.startswith("prunable")
        or not (is_pruning_setting(name) or name in ("method", "target_sparsity", "model"))
    ]
    for runs, label in zip(joined.runs[1:], labels[1:], strict=True):
        for column, called in (("train_flops", "training FLOPs"), ("prunable", "prunable weights")):
            unfair += _ratio(joined.runs[0], runs, column, f"{called} of {label} are", labels[0])
    if unfair:
        notes.append(f"warning: not a fair comparison, the budgets are unequal: {'; '.join(unfair)}")
    return notes


def _ratio(first: pd.DataFrame, second: pd.DataFrame, column: str, what: str, to: str) -> list[str]:
    """Describe how much a cost differs over the configurations of both tables."""
    means = [runs[runs["good"]].groupby("key")[column].mean() for runs in (first, second)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (means[1] / means[0]).replace([np.inf, -np.inf], np.nan).dropna()
    off = ratio[(ratio - 1).abs() > UNEQUAL]
    if off.empty:
        return []
    span = " to ".join(dict.fromkeys((f"{off.min():.3g}", f"{off.max():.3g}")))
    return [f"{what} {span} times those of {to} in {len(off)} of {configurations(len(ratio))}"]


def configurations(count: int) -> str:
    """``1 configuration``, ``2 configurations``."""
    return f"{count} configuration{'' if count == 1 else 's'}"
