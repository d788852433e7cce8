"""The zeros, costs and layers of a run, counted in its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsebench.errors import RunError
from sparsebench.pruning.parameters import Zeros
from sparsebench.records import schema
from sparsebench.runs.audit.findings import Report, same
from sparsebench.runs.reopen import FinishedRun, check_regular
from sparsebench.runs.result import Network, compute_cost_columns, layer_rows
from sparsebench.training.flops import dead_outputs


def check_counts(net: Network, target_zeros: int | None, masked: int | None, report: Report) -> None:
    """Compare the zeros and costs with those counted in the tensors.

    Args:
        net: With the final weights.
        target_zeros: Requested number of pruned weights, if it is known.
        masked: Number of pruned weights as the last row of metrics.csv has it, if the run is finished.
        report: Where findings go.
    """
    found = compute_cost_columns(net.model, net.prunable, net.layers, net.dataset.input_shape, target_zeros)
    report.compare(found)
    check_zeros(found["prunable"] - found["nonzero"], target_zeros, masked, report)


def check_zeros(total: int, target_zeros: int | None, masked: int | None, report: Report) -> None:
    """Compare ``sparsity_ok`` and ``kept_zeros`` with the zeros in the tensors, and with the masks of metrics.csv."""
    claimed = report.row.get("kept_zeros", "")
    if masked is None or report.row.get("status") != "finished":
        if not claimed.lstrip("-").isdigit():
            report.fail("kept_zeros", claimed, "a number")
        if report.row.get("sparsity_ok") not in ("True", "False"):
            report.fail("sparsity_ok", report.row.get("sparsity_ok"), "True or False")
        report.unchecked(
            ("kept_zeros", "sparsity_ok"), "the masks of a run that is not finished are not kept"
        )
        return
    zeros = Zeros(total, pruned=masked)
    report.compare({"kept_zeros": zeros.kept}, why=f" (with the masks of {schema.METRICS})")
    ok, why = (
        zeros.as_requested(target_zeros),
        f"{zeros.pruned} weights pruned, requested were {target_zeros}",
    )
    if report.row.get("sparsity_ok") != str(ok):
        report.fail("sparsity_ok", report.row.get("sparsity_ok"), f"{ok}: {why}")
    else:
        report.holds("sparsity_ok")
        if not ok:
            report.note("sparsity_ok", "False", "missed its sparsity")


def check_layers(net: Network, rows: list[dict[str, str]], report: Report) -> None:
    """Compare layers.csv with the values counted in the tensors."""
    _compare_layers(
        rows, {row["layer"]: row for row in layer_rows(net.model, net.prunable, net.layers)}, report
    )


def _compare_layers(
    rows: list[dict[str, str]], found: Mapping[str, Mapping[str, Any]], report: Report
) -> None:
    claimed = {row.get("layer", ""): row for row in rows}
    if len(claimed) != len(rows):
        report.fail(schema.LAYERS, f"{len(rows)} rows", f"{len(claimed)} different layers")
    for layer in [*found, *(claimed.keys() - found.keys())]:
        if layer not in claimed or layer not in found:
            report.fail(f"{schema.LAYERS} {layer}", *("a row", "no row")[:: 1 if layer in claimed else -1])
            continue
        for column, value in found[layer].items():
            if not same(claimed[layer].get(column), value):
                report.fail(f"{schema.LAYERS} {layer} {column}", claimed[layer].get(column, ""), value)


def read_weights(run: FinishedRun) -> dict[str, Tensor]:
    """The tensors of a run's weights, without a model.

    Raises:
        RunError: They are missing or unreadable.
    """
    path = run.path / schema.MODEL
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # no mapping
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path.name}: cannot be read: {' '.join(str(error).split())}") from error


def check_without_model(
    weights: Mapping[str, Tensor], rows: list[dict[str, str]], masked: int | None, report: Report
) -> None:
    """Compare layers.csv and the columns of zeros with the tensors by their names and shapes; nothing is built.

    Which layers there are, which of them may be pruned, and how often a weight is used, is taken from layers.csv.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        weight = weights.get(row["layer"])
        if weight is None:
            continue
        nonzero, numel = int(torch.count_nonzero(weight)), weight.numel()
        macs = int(row["macs"]) if row["macs"].isdigit() else 0
        found[row["layer"]] = {
            "layer": row["layer"],
            "shape": "x".join(map(str, weight.shape)),
            "prunable": row["prunable"],
            "weights": numel,
            "nonzero": nonzero,
            "sparsity": 1 - nonzero / max(numel, 1),
            "macs": macs // max(numel, 1) * numel,
            "macs_sparse": macs // max(numel, 1) * nonzero,
            "dead_outputs": dead_outputs(weight) if weight.dim() > 1 else "",
        }
    _compare_layers(rows, found, report)
    layers = list(found.values())
    pruned = [row for row in layers if row["prunable"] == "True"]
    prunable, nonzero = (sum(row[name] for row in pruned) for name in ("weights", "nonzero"))
    if not prunable:
        report.fail(schema.LAYERS, "layers that may be pruned", "none")
        return
    macs = sum(row["macs"] for row in layers)
    macs_sparse = macs - sum(row["macs"] - row["macs_sparse"] for row in pruned)
    report.compare(
        {
            "prunable": prunable,
            "nonzero": nonzero,
            "sparsity": 1 - nonzero / prunable,
            "conv_linear_sparsity": 1 - sum(r["nonzero"] for r in layers) / sum(r["weights"] for r in layers),
            "compression": prunable / nonzero if nonzero else math.inf,
            "macs": macs,
            "macs_sparse": macs_sparse,
            "speedup_theoretical": macs / macs_sparse if macs_sparse else math.inf,
        },
        why=f" (of the layers in {schema.LAYERS})",
    )
    check_zeros(prunable - nonzero, None, masked, report)
