"""metrics.csv: which rows a training writes, what follows from its schedules, and what the summary repeats of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sparsebench.records import schema
from sparsebench.runs.audit.findings import Report, number, same
from sparsebench.runs.build import RunComponents

Rows = Sequence[Mapping[str, str]]

CLOSE = 1e-9
"""Relative difference of what follows from a schedule: two libraries may round a cosine in different ways."""


def check_table(rows: Rows, report: Report) -> bool:
    """What holds of the rows of any training: their columns, that numbers are numbers, and their ranges.

    Returns:
        Whether all are numbers, so that they can be compared with anything.
    """
    missing = [column for column in schema.METRICS_COLUMNS if rows and column not in rows[0]]
    if not rows or missing:
        report.fail(schema.METRICS, "evaluations", f"no column {', '.join(missing)}" if missing else "none")
        return False
    optional, readable = {column.name for column in schema.METRICS_TABLE if column.optional}, True
    for column in schema.METRICS_COLUMNS:
        for row in rows:
            if number(row[column]) is None and not (row[column] == "" and column in optional):
                report.fail(f"{schema.METRICS} {column}", row[column], f"a number at step {row['step']}")
                readable = False
    for before, after in pairwise(rows):
        if (number(before["seconds"]) or 0) > (number(after["seconds"]) or 0):
            report.fail(
                f"{schema.METRICS} seconds", after["seconds"], f"at least {before['seconds']}, of before"
            )
    for row in rows:
        kept, top1 = 1 - (number(row["sparsity"]) or 0) - CLOSE, number(row["val_top1"]) or 0
        limits = {
            "val_top1": (0, 100),
            "val_top5": (top1, 100),
            "mask_flips": (0, 1),
            "explored": (kept, 1),
            "pruning_error": (0, math.inf),
            "sparsity": (0, 1),
        }
        for column, (low, high) in limits.items():
            value = number(row[column])
            if value is not None and not (low <= value <= high or math.isnan(value)):
                report.fail(
                    f"{schema.METRICS} {column}", value, f"from {low} to {high} at step {row['step']}"
                )
    return readable


def check_status(rows: Rows, report: Report) -> None:
    """A run has diverged exactly if the loss of its last row is no finite number."""
    last = rows[-1]
    losses = [number(last[name]) for name in ("train_loss", "val_loss")]
    finite = all(loss is None or math.isfinite(loss) for loss in losses)
    expected = "finished" if finite else "diverged"
    report.compare({"status": expected}, why=f" (losses of {schema.METRICS})")
    if report.row.get("status") == "diverged":
        report.note("status", "diverged", "no accuracy")
        report.compare(dict.fromkeys(("top1", "top5", "test_loss"), ""), why=" (diverged)")
    if (ended := number(last["seconds"])) is not None and not same(
        report.row.get("seconds"), ended, math.inf
    ):
        report.fail("seconds", report.row.get("seconds"), "a number")
    elif ended is not None and float(report.row["seconds"]) < ended:
        report.fail("seconds", report.row["seconds"], f"at least {ended} ({schema.METRICS})")


def first_step(rows: Rows) -> int:
    """The first step of the training: not 0 if it begins with an evaluation, before any step."""
    return int(rows[0]["step"]) if rows[0]["train_loss"] == "" else 0


def check_rows(rows: Rows, components: RunComponents, report: Report) -> None:
    """The steps of the rows, and the columns that follow from the schedules."""
    total, start = components.clock.total_steps, first_step(rows)
    steps = [int(row["step"]) for row in rows]
    finished = report.row.get("status") == "finished"
    end = total if finished else steps[-1]
    _check_steps(steps, [step for step in _evaluated(components, start, total) if step <= end], report)
    if start and components.pruner.trainings == 1:
        report.fail(f"{schema.METRICS} step", start, "0: it has one training")
    report.compare({"steps": end - start}, why=f" (of {total})")
    _check_rate(sum(components.data.size(step) for step in range(start, end)), report)
    pruner, numel = components.pruner, components.pruner.weights.numel
    base = float(components.optimizer.param_groups[0]["lr"])

    def rate(step: int) -> float:
        return base * (pruner.lr_factor(step - 1, components.lr_schedule) if step > start else 1.0)

    def zeros(step: int) -> float | str:
        found = pruner.target_zeros(step - 1)
        return "" if found is None else found / numel

    def scheduled(step: int) -> float | str:
        found = pruner.scheduled_sparsity(step - 1)
        return "" if found is None else found

    expected: dict[str, Callable[[int], Any]] = {
        "epoch": lambda step: step / components.clock.steps_per_epoch,
        "scheduled_sparsity": scheduled,
        "sparsity": zeros,
        "lr": rate,
    }
    for column, of in expected.items():
        known = True
        for row, step in zip(rows, steps, strict=True):
            value = of(step)
            if column == "sparsity" and (value == "" or math.isnan(float(row["val_loss"]))):
                known = False  # no number is guaranteed; weights that are no numbers have no order
            elif not same(row[column], value, CLOSE * abs(value or 0) if value != "" else 0):
                report.fail(f"{schema.METRICS} {column}", row[column], f"{value} at step {step}")
        if known:
            report.holds(f"{schema.METRICS} {column}")
    if pruner.scheduled_sparsity(total - 1) == 0 and not pruner.reparametrizes:
        _check_dense(rows, report)


def _check_dense(rows: Rows, report: Report) -> None:
    """A training at sparsity 0 throughout may still set masks; it changes none."""
    if all(number(row["scheduled_sparsity"]) == 0 for row in rows):
        for column, value in (("mask_flips", 0), ("explored", 1), ("pruning_error", 0)):
            for row in rows:
                if not same(row[column], value) and not math.isnan(float(row[column])):
                    report.fail(f"{schema.METRICS} {column}", row[column], f"{value}: nothing is pruned")
            report.holds(f"{schema.METRICS} {column}")


def _check_rate(samples: int, report: Report) -> None:
    """Images per second are those of the training over its seconds, both rounded."""
    seconds, rate = number(report.row.get("seconds")), number(report.row.get("images_per_second"))
    if seconds is None or rate is None:
        report.fail("images_per_second", report.row.get("images_per_second"), "a number, as seconds")
        return
    low, high = samples / (seconds + 0.0005) - 0.051, samples / max(seconds - 0.0005, 1e-9) + 0.051
    if not low <= rate <= high:
        report.fail(
            "images_per_second", rate, f"{samples / max(seconds, 1e-9):.1f} ({samples} images in {seconds} s)"
        )


def is_percentage(text: str, images: int | None) -> bool:
    """Whether a percentage is that of a whole number of ``images``."""
    hits = (number(text) or 0) * (images or 0) / 100
    return math.isnan(hits) or abs(hits - round(hits)) < 1e-6


def _evaluated(components: RunComponents, start: int, total: int) -> list[int]:
    """The steps after which the training is evaluated."""
    every, cuts = components.eval_every, components.pruner.cuts
    found = {step for step in range(every, total + 1, every) if step > start} | {total}
    found |= {step + 1 for step in range(start, total) if cuts(step)}
    return sorted(found | ({start} if start else set()))


def _check_steps(steps: Sequence[int], expected: Sequence[int], report: Report) -> None:
    if list(steps) == list(expected):
        report.holds(f"{schema.METRICS} step")
        return
    column, more, fewer = f"{schema.METRICS} step", [*steps], []
    for step in expected:
        if step in more:
            more.remove(step)
        else:
            fewer.append(step)
    if not more and not fewer:
        report.fail(column, "rows", "the same in another order")
        return
    shown = ["none" if not part else " ".join(map(str, part[:5])) for part in (more, fewer)]
    report.fail(column, *shown)


def check_best(rows: Rows, target_zeros: int | None, numel: int, samples: int | None, report: Report) -> None:
    """The summary's columns that are of metrics.csv: the last evaluation, and the best one at the target.

    Args:
        rows: Of metrics.csv.
        target_zeros: Requested number of pruned weights, if the method guarantees one.
        numel: Number of prunable weights.
        samples: Number of test images, if they are known.
        report: Where findings go.
    """
    last, why, finished = rows[-1], f" ({schema.METRICS})", report.row.get("status") == "finished"
    report.compare({"val_top1": last["val_top1"]}, why=why, full=not finished)
    at_target = [
        row
        for row in rows
        if target_zeros is not None and round(float(row["sparsity"]) * numel) == target_zeros
    ]
    at_target = at_target or ([last] if target_zeros is None and finished else [])
    if not finished:
        at_target = [row for row in at_target if row is not last]
    best = max((float(row["val_top1"]) for row in at_target), default="")
    report.compare({"best_val_top1": best}, why=f" ({schema.METRICS}, at the target)")
    column, claimed = "test_top1_at_best_val", report.row.get("test_top1_at_best_val", "")
    if best == "":
        report.compare({column: ""}, why=" (never at the target)")
        return
    if finished and [float(row["val_top1"]) == best for row in at_target].index(True) == len(at_target) - 1:
        report.compare({column: report.row.get("top1")}, why=" (top1: the last is the best)")
        return
    percent = number(claimed)
    if percent is None or not 0 <= percent <= 100 or not is_percentage(claimed, samples):
        report.fail(column, claimed, f"a percentage of {samples or 'the'} images")
    report.unchecked(
        column, "of the weights at the best evaluation, which are not kept; --retrain compares it"
    )
