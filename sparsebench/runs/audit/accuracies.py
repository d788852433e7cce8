"""The accuracies and evaluations of a run, computed again from its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf

from sparsebench.errors import RunError, SettingError
from sparsebench.evaluation.subject import Subject
from sparsebench.records import schema
from sparsebench.runs.audit.findings import Report, same
from sparsebench.runs.audit.history import is_percentage
from sparsebench.runs.build import eval_batch_size
from sparsebench.runs.evaluations import FOLDER, build_evaluations, dense_run
from sparsebench.runs.reopen import FinishedRun, read_table
from sparsebench.runs.result import Network, load_weights

LOSS = 1e-5
"""Relative tolerance of a loss on the same device: the order of additions depends on the number of threads."""


@dataclass(frozen=True)
class Tolerances:
    """Percentage points that accuracies may differ by.

    Args:
        here: On the run's kind of device with its version of PyTorch.
        elsewhere: On others.
    """

    here: float = 0.0
    elsewhere: float = 0.0


def check_accuracies(
    run: FinishedRun, net: Network, rows: Sequence[Mapping[str, str]], tolerances: Tolerances, report: Report
) -> None:
    """Evaluate accuracies and losses in the run's precision."""
    if run.row["status"] != "finished":
        return
    within, where = _tolerance(run, net, tolerances, report)
    images = eval_batch_size(run.cfg, net.dataset)
    test, val = net.accuracy("test", images), net.accuracy("val", images)
    # 1e-9: percentages that were formatted in different ways
    report.compare({"top1": test.top1, "top5": test.top5, "val_top1": val.top1}, within or 1e-9, where)
    relative = max(LOSS, within / 10)  # 0.1 points and 1 % of the loss
    report.compare({"test_loss": test.loss}, relative * abs(test.loss), where)
    last = rows[-1]
    for column, value, limit in (
        ("val_top1", val.top1, within or 1e-9),
        ("val_top5", val.top5, within or 1e-9),
        ("val_loss", val.loss, relative * abs(val.loss)),
    ):
        if not same(last[column], value, limit):
            report.fail(f"{schema.METRICS} {column}", last[column], f"{value} (last evaluation){where}")
    for column in ("val_top1", "val_top5"):
        if odd := [row[column] for row in rows if not is_percentage(row[column], len(net.dataset.val))]:
            report.fail(
                f"{schema.METRICS} {column}", odd[0], f"a percentage of {len(net.dataset.val)} images"
            )


def _tolerance(run: FinishedRun, net: Network, tolerances: Tolerances, report: Report) -> tuple[float, str]:
    """What accuracies may differ by here, and words for that."""
    here = {"device": net.device.label, "torch": torch.__version__}
    differing = [f"{name} {here[name]}" for name in here if run.row.get(name) != here[name]]
    if differing:
        there = f"{run.row['device']}, torch {run.row['torch']}"
        report.note("device", there, f"audited on {', '.join(differing)}")
    within = tolerances.elsewhere if differing else tolerances.here
    return within, f" (within {within} on {', '.join(differing) or 'the same device'})" if within else ""


def check_evaluation_files(run: FinishedRun, report: Report) -> dict[str, list[str]]:
    """Compare the summary with the CSVs of its evaluations; returns the columns of each evaluation."""
    found = {}
    for path in sorted((run.path / FOLDER).glob("*.csv")):
        if path.stem.endswith("_details"):
            continue
        try:
            (row,) = read_table(path)
        except (RunError, ValueError) as error:
            report.fail(f"{FOLDER}/{path.name}", "one row", error)
            continue
        found[path.stem] = list(row)
        why = f" ({FOLDER}/{path.name})"
        report.compare({c: v for c, v in row.items() if c in run.row}, why=why, full=False)
    return found


def check_evaluations(
    run: FinishedRun, net: Network, again: bool, tolerances: Tolerances, report: Report
) -> None:
    """Compare the columns of evaluations with their CSVs, and if ``again`` with what the weights give now."""
    columns = check_evaluation_files(run, report)
    every = [column for names in columns.values() for column in names if column in run.row]
    if not again or not run.cfg.get("evaluate") or run.row["status"] != "finished":
        report.unchecked(every, "compared with its CSV only; --evaluations computes it again")
        return
    if refused := run.refused("evaluate"):
        report.unchecked(every, f"not built without --trust: {'; '.join(refused)}")
        return
    within, where = _tolerance(run, net, tolerances, Report(report.run))
    for name in run.cfg.evaluate:
        try:
            found = _evaluate(run, net, str(name))
        except (SettingError, RunError) as error:  # the dense run is not here
            report.unchecked(columns.get(str(name), ()), error)
            continue
        for column, value in found.items():
            size = abs(value) if isinstance(value, (int, float)) else 0.0
            report.compare({column: value}, max(LOSS * size, within), where)


def _evaluate(run: FinishedRun, net: Network, name: str) -> dict[str, Any]:
    """The columns of one evaluation; nothing is written."""
    only = copy.deepcopy(run.cfg)
    only.evaluate = OmegaConf.create({name: run.cfg.evaluate[name]})
    chosen = build_evaluations(only)
    with run.trust.searching():
        dense = dense_run(chosen, only, run.choices, run.path.parent, run.ranks)
    images = eval_batch_size(run.cfg, net.dataset)

    def dense_model() -> torch.nn.Module:
        assert dense is not None
        return load_weights(copy.deepcopy(net.model), dense / schema.MODEL)

    subject = Subject(
        net.model, net.dataset, net.device, list(net.prunable), run.cfg.batch_size, images,
        None if dense is None else dense_model,
    )  # fmt: skip
    kept, training = net.device.state_dict(), net.model.training
    try:
        net.model.eval()
        return dict(chosen[name](subject).columns)
    finally:
        net.model.train(training)
        net.device.load_state_dict(kept)
