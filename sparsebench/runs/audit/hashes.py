"""The hashes of a run: of its weights, and of what it starts from, recomputed where this machine can."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsebench.config.build import build
from sparsebench.errors import SettingError
from sparsebench.pruning.pruner import Probe
from sparsebench.runs.audit.findings import Report
from sparsebench.runs.build import RunComponents
from sparsebench.runs.hashes.initial import init_hash
from sparsebench.runs.hashes.order import order_hash
from sparsebench.runs.hashes.splits import split_hash
from sparsebench.runs.hashes.weights import weights_hash
from sparsebench.runs.numerics import as_text, numerics_of
from sparsebench.runs.reopen import FinishedRun

LARGEST = 30_000_000
"""Most parameters of a model whose initial masks are computed again."""


def check_weights_hash(state: Mapping[str, Tensor], report: Report) -> None:
    """Compare the hash of the final weights; earlier versions did not write it."""
    if report.row.get("weights_hash"):
        report.compare({"weights_hash": weights_hash(state)})


def check_data_hashes(components: RunComponents, report: Report) -> None:
    """Compare the hashes of the splits and of the order of the images, which are the same on any machine."""
    for column, found in (
        ("split_hash", split_hash(components.dataset)),
        ("order_hash", order_hash(components.data)),
    ):
        if report.row.get(column):
            report.compare({column: found})


def check_init_hash(run: FinishedRun, components: RunComponents, report: Report) -> None:
    """Compare the hash of the initial weights and masks, made again.

    Masks from gradients differ with the machine: another hash is a false claim only where numerics are the run's.
    """
    claimed, column = report.row.get("init_hash"), "init_hash"
    if not claimed:
        return
    if run.training:
        report.unchecked(column, "of what earlier trainings have handed over")
        return
    if sum(parameter.numel() for parameter in components.model.parameters()) > LARGEST:
        report.unchecked(column, f"a model of more than {LARGEST:,} parameters")
        return
    try:
        found = _initial(run, components)
    except (SettingError, RuntimeError) as error:
        report.unchecked(column, f"not computed here: {error}")
        return
    here, there = as_text(numerics_of(components.device, run.cfg)), report.row.get("numerics", "")
    if found != claimed and here != there:
        report.unchecked(column, f"another one here, on {here}")
        return
    report.compare({column: found})


def _initial(run: FinishedRun, components: RunComponents) -> str:
    """The hash of what the training starts from."""
    cfg, model, data = run.cfg, components.model, components.data
    criterion = nn.CrossEntropyLoss(label_smoothing=cfg.label_smoothing)

    def reinitialize() -> None:
        shape, classes = components.dataset.input_shape, components.dataset.num_classes
        model.load_state_dict(build(cfg.model, "model", input_shape=shape, num_classes=classes).state_dict())

    components.pruner.begin(0, {})
    components.pruner.on_start(
        Probe(
            model,
            lambda: (data.batch(step) for step in range(components.clock.total_steps)),
            criterion,
            torch.Generator().manual_seed(cfg.seed),
            reinitialize,
        )
    )
    return init_hash(model.state_dict(), components.pruner.weights.masks)
