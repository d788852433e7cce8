"""The columns of a result row, computed from the final tensors; audits use the same functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sparsebench.data.dataset import Dataset
from sparsebench.distributed.device import Device
from sparsebench.errors import RunError, SettingError, printable
from sparsebench.files import open_plain
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.training.flops import (
    Layer,
    TrainingFLOPs,
    count_layers,
    dead_outputs,
    effective_nonzeros,
    nonzeros,
)
from sparsebench.training.metrics import Accuracy, evaluate
from sparsebench.training.runner import History


@dataclass(frozen=True)
class Network:
    """A model with its data, on its device.

    Args:
        device: Device and precision.
        dataset: Data set of training and test.
        model: On the device, in its memory format.
        prunable: The weights that may be pruned, by name.
        layers: Its convolutions and linear layers.
    """

    device: Device
    dataset: Dataset
    model: nn.Module
    prunable: Mapping[str, nn.Parameter]
    layers: list[Layer]

    @torch.no_grad()
    def accuracy(self, split: Literal["val", "test"], batch_size: int) -> Accuracy:
        """Accuracy of the present weights, in the device's precision, as evaluated during training."""
        self.model.eval()
        inputs = self.dataset.batches(split, batch_size, channels_last=self.device.channels_last)
        with self.device.autocast():
            return evaluate(self.device.callable(self.model), inputs)


def training_layers(model: nn.Module, dataset: Dataset, layers: list[Layer]) -> list[Layer]:
    """``layers`` with their cost at the size of training images, which may differ from that of evaluation.

    Raises:
        SettingError: The model does not support two image sizes.
    """
    size, evaluated = dataset.train_shape, dataset.input_shape
    if size == evaluated:
        return layers
    try:
        return count_layers(model, size)
    except (RuntimeError, AssertionError) as error:
        allowed = (
            f"{evaluated[-1]}, the size used in evaluation, because {model.name} does not support two sizes"
        )
        raise SettingError("dataset.size", size[-1], allowed) from error


def accuracy_columns(history: History, device: Device, samples: int) -> dict[str, Any]:
    """Accuracy columns of the final weights at the target sparsity, and of the best validation epoch."""
    val, test = history.val, None if history.diverged else history.test
    return {
        "status": "diverged" if history.diverged else "finished",
        "top1": test.top1 if test else "",
        "top5": test.top5 if test else "",
        "test_loss": test.loss if test else "",
        "val_top1": val.top1 if val else "",
        "best_val_top1": "" if math.isnan(history.best_val_top1) else history.best_val_top1,
        "test_top1_at_best_val": "" if math.isnan(history.best_val_top1) else history.test_top1_at_best_val,
        "seconds": round(history.seconds, 3),
        "images_per_second": round(samples / max(history.seconds, 1e-9), 1),
        "peak_memory_mb": round(device.peak_memory_mb(), 1),
    }


def training_columns(
    weights: MaskedParameters, target_zeros: int | None, flops: TrainingFLOPs
) -> dict[str, Any]:
    """Columns that need the masks and the training: whether the target was reached, and the cost.

    Args:
        weights: With the final masks.
        target_zeros: Requested number of pruned weights, if the method guarantees one.
        flops: FLOPs of the whole training.
    """
    zeros = weights.zeros()
    train_flops, ratio, ratio_dense_gradient = flops.totals()
    return {
        "sparsity_ok": zeros.as_requested(target_zeros),
        "kept_zeros": zeros.kept,
        "train_flops": train_flops,
        "train_flops_ratio": ratio,
        "train_flops_ratio_dense_gradient": ratio_dense_gradient,
    }


def compute_cost_columns(
    model: nn.Module,
    names: Iterable[str],
    layers: Sequence[Layer],
    input_shape: tuple[int, ...],
    target_zeros: int | None,
) -> dict[str, Any]:
    """Sparsity and inference-cost columns, counted in the tensors.

    Args:
        model: With its final weights.
        names: The prunable weights.
        layers: From :func:`sparsebench.training.flops.count_layers`.
        input_shape: Shape of one sample.
        target_zeros: Requested number of pruned weights, if the method guarantees one.
    """
    kept, names, sizes = (
        nonzeros(model),
        list(names),
        {name: p.numel() for name, p in model.named_parameters()},
    )
    parameters, prunable = sum(sizes.values()), sum(sizes[name] for name in names)
    nonzero = sum(kept[name] for name in names)
    effective = effective_nonzeros(model, input_shape, names)
    dense_macs = sum(layer.macs for layer in layers)
    sparse_macs = sum(kept[layer.name] * layer.positions for layer in layers if layer.name in names)
    sparse_macs += sum(layer.macs for layer in layers if layer.name not in names)
    guarded = 0 if target_zeros == 0 else 1  # the weight that an allocation keeps in an otherwise empty layer
    return {
        "parameters": parameters,
        "prunable": prunable,
        "nonzero": nonzero,
        "sparsity": 1 - nonzero / prunable,
        "model_sparsity": 1 - sum(kept.values()) / parameters,
        "conv_linear_sparsity": 1 - sum(kept[x.name] for x in layers) / sum(x.weights for x in layers),
        "effective_sparsity": "" if effective is None else 1 - effective / prunable,
        "collapsed_layers": " ".join(name for name in names if kept[name] <= guarded),
        "compression": prunable / nonzero if nonzero else math.inf,
        "macs": dense_macs,
        "macs_sparse": sparse_macs,
        "speedup_theoretical": dense_macs / sparse_macs if sparse_macs else math.inf,
    }


def layer_rows(model: nn.Module, names: Iterable[str], layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """The rows of layers.csv, counted in the tensors; arguments as for :func:`compute_cost_columns`."""
    parameters, prunable, rows = dict(model.named_parameters()), set(names), []
    for layer in layers:
        weight = parameters[layer.name]
        nonzero = int(torch.count_nonzero(weight))
        rows.append(
            {
                "layer": layer.name,
                "shape": "x".join(map(str, layer.shape)),
                "prunable": layer.name in prunable,
                "weights": layer.weights,
                "nonzero": nonzero,
                "sparsity": 1 - nonzero / layer.weights,
                "macs": layer.macs,
                "macs_sparse": nonzero * layer.positions,
                "dead_outputs": dead_outputs(weight),
            }
        )
    return rows


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load the tensors of a safetensors file into ``model``; their names have to match exactly.

    Raises:
        RunError: The file is unreadable, or belongs to another model.
    """
    try:
        open_plain(path).close()  # what it is not, is not opened by other libraries either
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise RunError(f"{path.name}: missing") from error
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path.name}: cannot be read: {' '.join(str(error).split())}") from error
    except RuntimeError as error:  # PyTorch lists every key on its own line
        what = " ".join(str(error).split())
        raise RunError(f"{path.name}: not the weights of this model: {what[:200]}") from error
    return model


def show(row: Mapping[str, Any], path: Path) -> None:
    """Print the result, given as numbers or as text, as a small table with the folder."""
    lines = [
        ("status", row["status"]),
        ("sparsity", f"{float(row['sparsity']):.4f} of {int(row['prunable']):,} prunable weights"),
    ]
    if row["status"] == "finished":
        lines += [
            ("test top1", f"{float(row['top1']):.2f} %"),
            ("val top1", f"{float(row['val_top1']):.2f} %"),
            ("inference", f"{int(row['macs_sparse']):,} of {int(row['macs']):,} MACs"),
            ("training", f"{float(row['train_flops_ratio']):.3f} of the dense FLOPs"),
            ("time", f"{float(row['seconds']):.1f} s, {float(row['images_per_second']):,.0f} images/s"),
        ]
    if row["collapsed_layers"]:
        lines.append(("collapsed", row["collapsed_layers"]))
    shown = [printable(f"  {name:<10} {value}") for name, value in [*lines, ("results", path)]]
    print("\n".join(shown), flush=True)


def check(row: Mapping[str, str]) -> None:
    """Raise an error for the result of a failed run.

    Raises:
        RunError: The run diverged, or its number of zeros is not the requested one.
    """
    if row["status"] != "finished":
        raise RunError(f"run {row['run_id']} {row['status']}: its loss is not a finite number")
    if row["sparsity_ok"] != "True":
        raise RunError(
            f"run {row['run_id']} missed its sparsity: {row['nonzero']} of {row['prunable']} weights are not zero, "
            f"target_sparsity={row['target_sparsity']}"
        )
