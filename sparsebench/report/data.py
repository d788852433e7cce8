"""The data of a report: rows and means over seeds as in ``sparsebench compare``, and the lines of its figures."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from sparsebench.compare.baseline import against_dense, runs_against_dense
from sparsebench.compare.budgets import budgets
from sparsebench.compare.configurations import Joined, join
from sparsebench.compare.mixed import mixed, mixed_notes
from sparsebench.errors import SettingError
from sparsebench.records import schema
from sparsebench.records.collect import read, sound_rows
from sparsebench.records.damage import Report, refuse
from sparsebench.records.run_folder import unfinished
from sparsebench.records.settings import dense_command, overrides
from sparsebench.records.validity import FINISHED, run_states, valid_runs

PAIR = ["dataset", "model"]
"""Columns that separate sets of figures: accuracies on different data or of different models are not comparable."""

CURVE = [*PAIR, "budget", "method", "variant"]
"""Columns that identify a line in a figure."""


@dataclass(frozen=True)
class ReportData:
    """The runs of a report.

    Args:
        source: The folder or CSV that the runs were read from.
        frame: One row per finished run: the columns of its summary, and those that :func:`load` adds.
        folders: ``run_id`` -> run folder; empty for a CSV.
        unfinished: Number of runs without a result.
        report: Called with runs whose files cannot be read, so that they are in no figure.
    """

    source: Path
    frame: pd.DataFrame
    folders: Mapping[str, Path]
    unfinished: int
    report: Report = refuse


def load(source: Path, report: Report = refuse, note: Callable[[str], object] = str) -> ReportData:
    """Read ``source`` and add what the figures and tables need.

    Added columns: ``state`` and ``counts`` (:mod:`sparsebench.records.validity`), ``configuration`` (its number),
    ``budget`` and ``variant`` (strings that are equal for runs on one line), ``label`` (the line's name),
    ``mixed`` (the note on its configuration, if its runs were not all computed alike), ``command`` without paths,
    ``difference_to_dense`` (percentage points, of the run), ``mean_difference_to_dense``
    (of its configuration), ``dense_command`` (the command that trains a missing baseline).

    Args:
        source: A run folder, a folder of runs, or a CSV of summary rows.
        report: Called with every run that is damaged and left out; by default it is an error.
        note: Called with a line about every run that is there more than once with other results.

    Raises:
        SettingError: ``source`` holds no results.
    """
    frame = read(source, report=report, note=note)
    for column in schema.NUMERIC_COLUMNS:
        if not is_numeric_dtype(frame[column]):
            raise SettingError("path", source, f"numbers in the column {column}")
    folders: dict[tuple[str, str], Path] = {}
    for run, row in sound_rows(source):
        folders.setdefault((row.cells["run_id"], row.cells["started"]), run)
    keys = zip(frame["run_id"], texts(frame["started"]), strict=True)
    located = {run_id: folders[run_id, started] for run_id, started in keys if (run_id, started) in folders}
    for column in ("round", "rounds"):
        if column not in frame:
            frame[column] = float("nan")
    joined = join([(str(source), frame)], "top1")
    frame["state"], frame["counts"] = run_states(frame), valid_runs(frame)
    frame["configuration"] = joined.runs[0]["key"]
    frame["mixed"] = frame["configuration"].map(_mixed(joined, frame))
    frame = frame.join(budgets(joined), on="configuration")
    frame["label"] = _labels(frame)
    given = [overrides(command) for command in texts(frame["command"])]
    frame["command"] = [shlex.join(["sparsebench", "train", *own]) if own else "" for own in given]
    dense = runs_against_dense(joined)
    frame["difference_to_dense"] = dense["difference"]
    frame["dense_command"] = [
        dense_command(command) if command and lacks else ""
        for command, lacks in zip(frame["command"], dense["lacks_dense"], strict=True)
    ]
    frame = frame.join(
        against_dense(joined)["difference"].rename("mean_difference_to_dense"), on="configuration"
    )
    return ReportData(source, frame, located, len(unfinished(source)), report)


def _mixed(joined: Joined, frame: pd.DataFrame) -> dict[int, str]:
    texts = mixed(joined, frame)
    return {int(str(key)): "".join(mixed_notes(joined, texts[texts.index == key])) for key in texts.index}


def points(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds of every configuration with valid runs; of several rounds, the last.

    Returns:
        The columns of a line (:data:`CURVE` and ``label``), ``config_hash``, ``target_sparsity``, ``n``, ``top1``
        (mean) and ``top1_std`` (sample standard deviation, percent), ``difference_to_dense`` (as
        :func:`sparsebench.compare.baseline.against_dense`), and the means of ``sparsity``, ``macs_sparse`` and
        ``train_flops``; sorted by line and sparsity.
    """
    last = frame[frame["state"] == FINISHED]
    table = last.groupby([*CURVE, "label", "configuration"], dropna=False, sort=True).agg(
        config_hash=("config_hash", "first"),
        target_sparsity=("target_sparsity", "first"),
        sparsity=("sparsity", "mean"),
        n=("top1", "count"),
        top1=("top1", "mean"),
        top1_std=("top1", "std"),
        difference_to_dense=("mean_difference_to_dense", "first"),
        macs_sparse=("macs_sparse", "mean"),
        train_flops=("train_flops", "mean"),
    )
    table = table.reset_index().drop(columns="configuration")
    return table.sort_values([*CURVE, "sparsity"], kind="stable").reset_index(drop=True)


def texts(values: pd.Series) -> pd.Series:
    """``values`` as strings, empty where missing."""
    return values.astype(object).where(values.notna(), "").astype(str)


def _labels(frame: pd.DataFrame) -> list[str]:
    """Names of lines: the method, and what distinguishes it from others of the same data set and model."""
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
    """Each string -> those of its parts that are not common to all."""
    parts = {text: text.split(separator) for text in texts}
    common = set.intersection(*map(set, parts.values()))
    return {text: separator.join(p for p in own if p not in common) for text, own in parts.items()}
