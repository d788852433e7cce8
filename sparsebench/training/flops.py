"""The cost of a network and its training: zeros, multiply-accumulates, training FLOPs, dead paths."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsebench.pruning.parameters import MaskedParameters

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
SATURATING: dict[type[nn.Module], type[nn.Module]] = {
    nn.ReLU6: nn.ReLU,
    nn.Hardtanh: nn.ReLU,
    nn.Hardswish: nn.ReLU,
    nn.Hardsigmoid: nn.Sigmoid,
}
UNSUPPORTED = (nn.MultiheadAttention, nn.RNNBase)


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer.

    Args:
        name: Name of its weight in the ``state_dict``.
        shape: Shape of the weight.
        weights: Number of weights.
        positions: Multiply-accumulates per weight and sample (H_out · W_out of a convolution).
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    positions: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense layer for one sample."""
        return self.weights * self.positions


@torch.no_grad()
def count_layers(model: nn.Module, input_shape: tuple[int, ...]) -> list[Layer]:
    """Count the cost of the convolutions and linear layers of ``model`` for one sample of ``input_shape``.

    Convention: multiply-accumulates of convolutions and linear layers only; normalisation, activations,
    pooling, biases, and attention between its projections are not counted. FLOPs = 2 · MACs.
    """
    kinds = (*COUNTED, nn.MultiheadAttention)
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, kinds)
    }
    positions: dict[str, int] = {}  # parameter -> how often each of its weights is used

    def count(name: str, times: int) -> None:
        positions[name] = positions.get(name, 0) + times

    def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
        prefix = f"{names[module]}." if names[module] else ""
        if isinstance(module, nn.MultiheadAttention):  # batch of one; attention does not call its submodules
            tokens = output[0].numel() // module.embed_dim
            if module.in_proj_weight is not None:
                count(f"{prefix}in_proj_weight", tokens)
            count(f"{prefix}out_proj.weight", tokens)
            return
        features = output.shape[1] if not isinstance(module, nn.Linear) else output.shape[-1]
        count(f"{prefix}weight", output.numel() // (output.shape[0] * features))

    handles = [module.register_forward_hook(hook) for module in names]
    training = {module: module.training for module in model.modules()}
    parameter = next(model.parameters())
    try:
        model.eval()
        model(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, was in training.items():
            module.training = was
    parameters = dict(model.named_parameters())
    return [
        Layer(name, tuple(parameters[name].shape), parameters[name].numel(), times)
        for name, times in positions.items()
        if name in parameters
    ]


def nonzeros(model: nn.Module) -> dict[str, int]:
    """Number of non-zero entries of every parameter, counted in the tensors, not in masks."""
    return {name: int(torch.count_nonzero(parameter)) for name, parameter in model.named_parameters()}


@torch.no_grad()
def dead_outputs(weight: Tensor) -> int:
    """Number of output units (filters, neurons) of a weight [out, ...] that have only zero weights."""
    return int((weight.flatten(1) == 0).all(1).sum())


def effective_nonzeros(model: nn.Module, input_shape: tuple[int, ...], names: Iterable[str]) -> int | None:
    """Number of non-zero weights of ``names`` on a path of non-zero weights from input to output.

    Every weight w is replaced by [w ≠ 0] over its fan-in, biases by zero, normalisation by the identity,
    saturating activations by non-saturating ones, max pooling by mean pooling, and the input by ones. A weight
    is on a path if the derivative of the summed output with respect to it is positive; in float64.

    Returns:
        Their number; ``None`` for a model with layers that this does not support (attention, recurrence).

    References:
        Vysogorets and Kempe, "Connectivity Matters: Neural Network Pruning Through the Lens of Effective
        Sparsity", JMLR 2023, arXiv 2107.02306. The derivative trick is that of Tanaka et al., "Pruning neural
        networks without any data by iteratively conserving synaptic flow", NeurIPS 2020, arXiv 2006.05467.
    """
    if any(isinstance(module, UNSUPPORTED) for module in model.modules()):
        return None
    skeleton = copy.deepcopy(model).cpu().double().eval()
    for module in list(skeleton.modules()):
        for name, child in module.named_children():
            if isinstance(child, NORMS):
                setattr(module, name, nn.Identity())
            elif type(child) in SATURATING:
                setattr(module, name, SATURATING[type(child)]())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    with torch.no_grad():
        for name, parameter in skeleton.named_parameters():
            if parameter.dim() > 1:
                parameter.copy_((parameter != 0).double() / max(parameter[0].numel(), 1))
            else:
                parameter.zero_() if name.endswith("bias") else parameter.fill_(1.0)
    with torch.enable_grad():
        skeleton(torch.ones(1, *input_shape, dtype=torch.float64)).sum().backward()
    parameters = dict(skeleton.named_parameters())
    alive = 0
    for name in names:
        weight, gradient = parameters[name], parameters[name].grad
        if gradient is not None:
            alive += int(((weight > 0) & (gradient > 0)).sum())
    return alive


class TrainingFLOPs:
    """Counts the FLOPs of a training as it runs: forward f, backward to activations f, to weights f.

    Each layer costs its kept weights, except for steps that need the dense weight gradient (every step of DPF,
    the mask updates of RigL), where the third term is dense, and steps that compute with all weights (STR), where all
    three are. Counts stay on the device and are accumulated only when masks change.

    Args:
        layers: From :func:`count_layers`.
        weights: The prunable weights.

    References:
        Evci et al., "Rigging the Lottery", ICML 2020, arXiv 1911.11134, appendix H (backward = 2 · forward).
    """

    def __init__(self, layers: Iterable[Layer], weights: MaskedParameters) -> None:
        cost = {layer.name: layer for layer in layers}
        missing = weights.parameters.keys() - cost.keys()
        if missing:
            raise ValueError(f"no cost is known for {sorted(missing)}")
        self.weights = weights
        self.positions = [cost[name].positions for name in weights.parameters]
        self.dense_macs = sum(layer.macs for layer in cost.values())
        self.prunable_macs = sum(cost[name].macs for name in weights.parameters)
        device = next(iter(weights.masks.values())).device
        # [layers] sum of samples · kept weights
        self.kept = torch.zeros(len(self.positions), dtype=torch.float64, device=device)
        # [layers] the same for weights in a sparse weight gradient
        self.in_gradient = torch.zeros_like(self.kept)
        self.samples = self.dense_samples = self.dense_gradient_samples = 0
        self.reference: int | None = (
            None  # samples of the dense training that ratios refer to; None: as many as here
        )
        self._pending, self._pending_sparse = 0, 0
        self._read_masks()

    def count(self, samples: int, dense_gradient: bool, dense_forward: bool = False) -> None:
        """Count a step over ``samples`` samples with the present masks."""
        if self.weights.version != self._version:
            self._flush()
            self._read_masks()
        self.samples += samples
        if dense_forward:
            self.dense_samples += samples
            return
        self._pending += samples
        if dense_gradient:
            self.dense_gradient_samples += samples
        else:
            self._pending_sparse += samples

    def totals(self) -> tuple[float, float, float]:
        """(training FLOPs, their ratio to dense training, the ratio if every weight gradient were dense)."""
        self._flush()
        kept, gradient = (
            math.fsum(k * p for k, p in zip(counts.tolist(), self.positions, strict=True))
            for counts in (self.kept, self.in_gradient)
        )
        unprunable = 3 * self.samples * (self.dense_macs - self.prunable_macs)
        other = unprunable + 3 * self.dense_samples * self.prunable_macs + 2 * kept
        macs = other + gradient + self.dense_gradient_samples * self.prunable_macs
        with_dense_gradient = other + (self.samples - self.dense_samples) * self.prunable_macs
        dense = 3 * (self.reference or self.samples) * self.dense_macs or 1
        return 2 * macs, macs / dense, with_dense_gradient / dense

    def continue_from(self, state: dict[str, Any]) -> None:
        """Continue counting from an earlier training's :meth:`state_dict`; ratios refer to one dense training."""
        self.load_state_dict(state)
        self.reference = self.reference or self.samples

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        self._flush()
        return {
            "kept": self.kept.cpu(),
            "in_gradient": self.in_gradient.cpu(),
            "samples": self.samples,
            "dense_samples": self.dense_samples,
            "dense_gradient_samples": self.dense_gradient_samples,
            "reference": self.reference,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`state_dict`; the masks must be in place already."""
        self.kept.copy_(state["kept"])
        self.in_gradient.copy_(state["in_gradient"])
        self.samples, self.dense_samples = state["samples"], state["dense_samples"]
        self.dense_gradient_samples, self.reference = state["dense_gradient_samples"], state["reference"]
        self._pending = self._pending_sparse = 0
        self._read_masks()

    def _read_masks(self) -> None:
        self._kept_now = self.weights.nonzero()
        self._in_gradient_now = (
            self._kept_now if self.weights.backward is None else self.weights.in_gradient()
        )
        self._version = self.weights.version

    def _flush(self) -> None:
        self.kept += self._kept_now * self._pending
        self.in_gradient += self._in_gradient_now * self._pending_sparse
        self._pending = self._pending_sparse = 0
