"""Runs compared with each other: equal weights of different trainings, and different data of equal ones."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from sparsebench.records import schema
from sparsebench.records.run_folder import run_id_of
from sparsebench.records.settings import NUMERICS, PRUNING_SETTINGS, VOLATILE
from sparsebench.runs.audit.findings import CLAIM, NOTE, Finding, number
from sparsebench.runs.audit.one_run import Audited
from sparsebench.runs.reopen import FinishedRun, read_table

RESULT_ONLY = ("eval_every",)
"""Settings of the identity that change what is recorded of a training, and not the training."""

BEFORE_TRAINING = ("optimizer", "lr_schedule", "epochs", "extend", "ema", "clip_norm")
"""Settings that play no part before the first step."""


def check_across(audited: Sequence[Audited]) -> list[Finding]:
    """What contradicts between runs: each is reported at every run concerned.

    Args:
        audited: Of different folders.
    """
    runs = [(one.run, one.weights) for one in audited if one.run is not None]
    found: list[Finding] = []
    for group in _grouped(runs, lambda run, weights: weights or None):
        found += _same_weights([run for run, _ in group])
    for column, what in (("split_hash", _data), ("order_hash", _order), ("init_hash", _start)):
        known = [(run, weights) for run, weights in runs if run.row.get(column)]
        for group in _grouped(known, lambda run, weights, what=what: what(run)):
            found += _different(column, [run for run, _ in group])
    return found


def _same_weights(runs: list[FinishedRun]) -> Iterable[Finding]:
    """Runs with equal weights that are not the same training.

    That is false of another seed, method, model or data set. Of one method, settings may differ and change nothing, as
    in a training of a few steps, which is only noted.
    """
    for run in runs:
        others = [other for other in runs if not _same_training(run, other)]
        for kind, claimed, found in (
            (
                CLAIM,
                "weights of a training of its own",
                [one for one in others if _named(one) != _named(run)],
            ),
            (
                NOTE,
                "equal weights with other settings",
                [one for one in others if _named(one) == _named(run)],
            ),
        ):
            if found:
                names = ", ".join(sorted(other.path.name for other in found)[:3])
                yield Finding(run.path.name, kind, "weights_hash", claimed, f"those of {names}")


def _named(run: FinishedRun) -> list[str | None]:
    return [run.row.get(column) for column in ("method", "seed", "model", "dataset")]


def _same_training(one: FinishedRun, other: FinishedRun) -> bool:
    """Whether two runs may have equal weights: one training, or two that do not prune, or two with one fixed mask."""
    if run_id_of(one.path) == run_id_of(other.path):
        return True
    if one.row.get("seed") != other.row.get("seed") or _data(one) != _data(other):
        return False
    if _training(one) == _training(other):
        return True
    if any(_without_pruning(run) for run in (one, other)):
        unpruned = [_training(run, PRUNING_SETTINGS) for run in (one, other)]
        return all(_without_pruning(run) for run in (one, other)) and unpruned[0] == unpruned[1]
    if not all(_masks_fixed(run) for run in (one, other)):
        return False
    # With one mask throughout, methods are what they start from; runs of earlier versions do not say that.
    return one.row.get("init_hash", "") == other.row.get("init_hash", "")


def _without_pruning(run: FinishedRun) -> bool:
    return number(run.row.get("target_sparsity")) == 0


def _masks_fixed(run: FinishedRun) -> bool:
    """Whether its FLOPs are those of one mask: the fraction of weights ever kept is that of the last."""
    rows = read_table(run.path / schema.METRICS)
    return all(abs(1 - float(row["explored"]) - float(row["sparsity"])) < 1e-9 for row in rows)


def _different(column: str, runs: list[FinishedRun]) -> Iterable[Finding]:
    """Runs that must have one value in ``column``, and have several."""
    values = {run.row[column] for run in runs}
    if len(values) < 2:
        return
    for run in runs:
        other = next(one for one in runs if one.row[column] != run.row[column])
        yield Finding(
            run.path.name,
            CLAIM,
            column,
            run.row[column],
            f"{other.row[column]} in {other.path.name}, of the same settings",
        )


def _grouped(
    runs: Sequence[tuple[FinishedRun, str]], key: Callable[..., Hashable | None]
) -> Iterable[list[tuple[FinishedRun, str]]]:
    groups = defaultdict(list)
    for run, weights in runs:
        if (name := key(run, weights)) is not None:
            groups[name].append((run, weights))
    return (group for group in groups.values() if len(group) > 1)


def _data(run: FinishedRun) -> str:
    dataset = run.settings.get("dataset")
    left_out = ("data_root", "workers", "recipe")
    kept = (
        {k: v for k, v in dataset.items() if k not in left_out} if isinstance(dataset, Mapping) else dataset
    )
    return _text([run.row.get("dataset"), kept])


def _order(run: FinishedRun) -> str:
    return _text([_data(run), run.settings.get("batch_size"), run.settings.get("seed")])


def _start(run: FinishedRun) -> str | None:
    """What the initial weights and masks follow from, on one kind of machine; of the first training only."""
    if run.training:
        return None
    return _text([_training(run, BEFORE_TRAINING), run.row.get("numerics"), run.ranks])


def _training(run: FinishedRun, left_out: Sequence[str] = ()) -> str:
    """All settings of a training, without those that only say what is recorded of it."""
    without = {*VOLATILE, *NUMERICS, *RESULT_ONLY, *left_out, "dataset"}
    kept: dict[str, Any] = {k: v for k, v in run.settings.items() if k not in without}
    return _text([kept, _data(run), run.training if "prune" not in left_out else 0])


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
