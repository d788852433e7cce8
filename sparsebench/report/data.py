"""What a report shows: rows that are told apart by budget, means over seeds, differences to dense runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from sparsebench.compare.configurations import valid_runs
from sparsebench.errors import SettingError
from sparsebench.files import read_csv
from sparsebench.records import schema
from sparsebench.records.collect import read
from sparsebench.records.run_folder import runs, unfinished
from sparsebench.records.settings import VOLATILE, dense_command, is_pruning_setting

PAIR = ["dataset", "model"]
"""What a set of figures is of: accuracies on other data or of other models are not comparable."""

CURVE = [*PAIR, "budget", "method", "variant"]
"""What a line in a figure is of."""


NUMBERS = (
    "seed", "target_sparsity", "sparsity", "top1", "val_top1", "macs_sparse", "train_flops", "epochs", "batch_size",
)  # fmt: skip
"""Columns that are computed with."""


@dataclass(frozen=True)
class ReportData:
    """The runs of a report.

    Args:
        source: The folder or CSV they come from.
        frame: One row a finished run: the columns of its summary, and those that :func:`load` adds.
        folders: ``run_id`` -> run folder; empty for a CSV.
        unfinished: Number of runs without a result.
    """

    source: Path
    frame: pd.DataFrame
    folders: Mapping[str, Path]
    unfinished: int


def load(source: Path) -> ReportData:
    """Read ``source`` and add what the figures and tables need.

    Added columns: ``state`` (why a run does or does not count), ``counts`` (bool), ``budget`` and ``variant`` (texts
    that are equal for runs that may share a line), ``label`` (the line's name), ``command`` without places,
    ``difference_to_dense`` (percentage points), ``dense_command`` (what would make a baseline that is missing).

    Args:
        source: A run folder, a folder of runs, or a CSV of summary rows.

    Raises:
        SettingError: ``source`` holds no results.
    """
    frame = read(source)
    for column in NUMBERS:
        if not is_numeric_dtype(frame[column]):
            raise SettingError("path", source, f"numbers in the column {column}")
    folders: dict[tuple[str, str], Path] = {}
    for run in runs(source) if source.is_dir() else ():
        for row in read_csv(run / schema.SUMMARY) if (run / schema.SUMMARY).is_file() else ():
            folders.setdefault((row["run_id"], row["started"]), run)
    keys = zip(frame["run_id"], texts(frame["started"]), strict=True)
    located = {run_id: folders[run_id, started] for run_id, started in keys if (run_id, started) in folders}
    for column in ("round", "rounds"):
        if column not in frame:
            frame[column] = float("nan")
    frame["state"] = _states(frame)
    frame["counts"] = frame["state"] == "finished"
    overrides = [_overrides(command) for command in texts(frame["command"])]
    frame["command"] = [shlex.join(["sparsebench", "train", *own]) if own else "" for own in overrides]
    frame["budget"], frame["variant"] = _settings(frame, overrides)
    frame["label"] = _labels(frame)
    frame["difference_to_dense"] = frame["top1"] - _baselines(frame)
    frame["dense_command"] = [dense_command(command) if command else "" for command in frame["command"]]
    return ReportData(source, frame, located, len(unfinished(source)))


def points(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds of every configuration that has runs that count.

    Returns:
        The columns of a line (:data:`CURVE` and ``label``), ``config_hash``, ``target_sparsity``, ``n``, ``top1``
        (mean) and ``top1_std`` (sample standard deviation, per cent), ``difference_to_dense`` (mean, if every seed has
        its dense run), and the means of ``sparsity``, ``macs_sparse`` and ``train_flops``; sorted by line and sparsity.
    """
    grouped = frame[frame["counts"]].groupby([*CURVE, "label", "config_hash"], dropna=False, sort=True)
    table = grouped.agg(
        target_sparsity=("target_sparsity", "first"),
        sparsity=("sparsity", "mean"),
        n=("top1", "count"),
        top1=("top1", "mean"),
        top1_std=("top1", "std"),
        difference_to_dense=("difference_to_dense", lambda values: values.mean(skipna=False)),
        macs_sparse=("macs_sparse", "mean"),
        train_flops=("train_flops", "mean"),
        dense_command=("dense_command", "first"),
    ).reset_index()
    return table.sort_values([*CURVE, "sparsity"], kind="stable").reset_index(drop=True)


def texts(values: pd.Series) -> pd.Series:
    """``values`` as text, empty where there is none."""
    return values.astype(object).where(values.notna(), "").astype(str)


def _states(frame: pd.DataFrame) -> list[str]:
    """``finished`` where a run counts, else why it does not."""
    states = []
    earlier = frame["round"].notna() & (frame["round"] != frame["rounds"])
    for status, good, before in zip(frame["status"], valid_runs(frame), earlier, strict=True):
        if good and before:
            states.append("earlier round")
        elif good or status != "finished":
            states.append("no status" if status != status else str(status))
        else:
            states.append("missed its sparsity")
    return states


def _overrides(command: str) -> list[str]:
    """The settings in a command, less those that change no result."""
    try:
        given = shlex.split(command)
    except ValueError:  # a quote without its end
        given = command.split()
    return [override for override in given[2:] if "=" in override and _key(override) not in VOLATILE]


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]


def _settings(frame: pd.DataFrame, overrides: Iterable[list[str]]) -> tuple[list[str], list[str]]:
    """(budget, variant) of every row, as texts.

    A setting that has a column of its own is taken from there. What else the command says is the method's or the
    budget's. Commands that differ may say the same: rows of one ``config_hash`` are told by the first. So runs that
    differ never share a line, and runs that are the same in other words may get two.
    """
    budgets, variants = [], []
    first: dict[str, list[str]] = {}
    columns = ["config_hash", "method", "target_sparsity", "epochs", "batch_size", "precision"]
    for own, (digest, method, target, epochs, batch, precision) in zip(
        overrides, frame[columns].itertuples(index=False), strict=True
    ):
        more = sorted(
            override for override in first.setdefault(digest, own)
            if _key(override) not in frame.columns and _key(override) != "prune" and not override.startswith("--")
        )  # fmt: skip
        chosen = [override for override in more if is_pruning_setting(_key(override))]
        shared = [
            override for override in more if override not in chosen and not override.startswith("model.")
        ]  # in its name
        budgets.append(", ".join([f"{epochs:g} epochs", f"batch {batch:g}", str(precision), *shared]))
        if method == "dense":
            chosen = []  # it has none of them
        elif target != target:  # its sparsity follows from settings: they are its line's points
            chosen = [override for override in chosen if not _key(override).startswith("prune.")]
        variants.append(" ".join(chosen))
    return budgets, variants


def _labels(frame: pd.DataFrame) -> list[str]:
    """Names of lines: the method, and what tells it from others of the same data set and model."""
    names: dict[tuple[str, ...], str] = {}
    lines = frame[CURVE].drop_duplicates()
    for _, pair in lines.groupby(PAIR, dropna=False):
        budgets = _distinct(pair["budget"].unique(), ", ")
        for _, method in pair.groupby(["method", "budget"]):
            variants = _distinct(method["variant"].unique(), " ")
            for line in method.itertuples(index=False):
                own = " ".join(part for part in (str(line.method), variants[str(line.variant)]) if part)
                budget = budgets[str(line.budget)]
                names[tuple(map(str, line))] = f"{own}, {budget}" if budget else own
    return [names[tuple(map(str, row))] for row in frame[CURVE].itertuples(index=False)]


def _distinct(texts: Iterable[str], separator: str) -> dict[str, str]:
    """Each text -> its parts that not all of them have."""
    parts = {text: text.split(separator) for text in texts}
    common = set.intersection(*map(set, parts.values()))
    return {text: separator.join(p for p in own if p not in common) for text, own in parts.items()}


def _baselines(frame: pd.DataFrame) -> pd.Series:
    """Accuracy of the dense run with a row's data set, model, budget and seed; of several, the one started last."""
    same = [*PAIR, "budget", "seed"]
    dense = frame[frame["counts"] & (frame["method"] == "dense")].sort_values("started", kind="stable")
    accuracy = dense.drop_duplicates(same, keep="last").set_index(same)["top1"]
    return frame[same].join(accuracy.rename("baseline"), on=same)["baseline"]
