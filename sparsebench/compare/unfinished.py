"""Runs that have begun and have no result: listed one by one, next to the dense run at the same epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from sparsebench.compare.configurations import DESCRIBING
from sparsebench.compare.layout import number
from sparsebench.records.collect import sound_rows
from sparsebench.records.damage import DamagedRunError, Report, refuse
from sparsebench.records.settings import is_pruning_setting, settings
from sparsebench.records.unfinished import evaluations, unfinished_rows

NOTE = (
    "unfinished: validation accuracies so far, of one run each, not results; the learning rate may still be high and "
    "the sparsity still grow. The difference is to the dense run of the same training and seed at the same epoch."
)


def unfinished_table(path: Path, report: Report = refuse) -> tuple[pd.DataFrame, list[str]]:
    """The runs under ``path`` that have begun and have no result, as strings, and the note that belongs below.

    They are never averaged, ranked or joined with results: their accuracies are of different epochs. What can be
    compared is a run with the dense run of the same training and seed, finished or not, at the same epoch, so that is
    done (``difference_to_dense_there``).

    Args:
        path: A run folder, or a folder of runs.
        report: Called with every run that is damaged and left out; by default it is an error.
    """
    rows = unfinished_rows(path, report)
    found = [*rows.values()]
    if not found:
        return pd.DataFrame(), []
    parsed = [settings(row["command"]) for row in found]
    varying = [
        c for c in DESCRIBING if len({row[c] for row in found}) > 1 or c in ("method", "target_sparsity")
    ]
    names = sorted({name for one in parsed for name in one if len({other.get(name) for other in parsed}) > 1})
    rows |= {run: row.cells for run, row in sound_rows(path, report)}
    dense = _dense_evaluations(rows, {row["epoch"] for row in found} - {""}, report)
    cells = []
    for row, run_settings in zip(found, parsed, strict=True):
        there = dense.get((*_training(row), row["epoch"]))
        difference = None if there is None or row["method"] == "dense" else float(row["val_top1"]) - there
        cells.append(
            {
                **{column: row[column] for column in varying},
                **{name: run_settings.get(name, "") for name in names},
                "seed": row["seed"],
                "status": row["status"],
                "epoch": f"{number(row['epoch'] or 0, None)} of {row['epochs'] or '?'}",
                "sparsity": number(row["sparsity"] or None, 4),
                "val_top1": number(row["val_top1"] or None, 2),
                "difference_to_dense_there": number(difference, 2, "+"),
            }
        )
    return pd.DataFrame(cells), [NOTE]


def _training(row: Mapping[str, str]) -> tuple[object, ...]:
    """What a run has in common with its dense run: all settings but those of pruning."""
    same = [row[column] for column in (*DESCRIBING, "seed") if column not in ("method", "target_sparsity")]
    others = sorted(item for item in settings(row["command"]).items() if not is_pruning_setting(item[0]))
    return (*same, *others)


def _dense_evaluations(
    rows: Mapping[Path, Mapping[str, str]], epochs: set[str], report: Report
) -> dict[tuple[object, ...], float]:
    """(training, epoch) -> validation accuracy of its dense run, at the ``epochs`` that matter."""
    found: dict[tuple[object, ...], float] = {}
    for folder, row in rows.items():
        if row.get("method") != "dense":
            continue
        try:
            there = [one for one in evaluations(folder) if one.get("epoch") in epochs and one.get("val_top1")]
        except DamagedRunError as error:
            report(folder, error.why)
            continue
        found |= {(*_training(row), one["epoch"]): float(one["val_top1"]) for one in there}
    return found
