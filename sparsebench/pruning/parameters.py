"""Prunable weights, their masks, and the dense copy; the only place where masks are applied to weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Zeros(NamedTuple):
    """Zeros among the prunable weights, counted.

    Attributes:
        total: Weights that are zero.
        pruned: Weights that the masks prune.
        leaked: Those of them that are not zero.
    """

    total: int
    pruned: int
    leaked: int = 0

    @property
    def kept(self) -> int:
        """Zeros among the weights that the masks keep."""
        return self.total - (self.pruned - self.leaked)

    def as_requested(self, target_zeros: int | None) -> bool:
        """Whether ``target_zeros`` weights are pruned, or any number for ``None``, and all of these are zero."""
        return target_zeros in (None, self.pruned) and self.leaked == 0 and self.kept >= 0


def _bytes(mask: Tensor) -> Tensor:
    """The same memory as bytes of 0 and 1, which a CPU converts five times as fast as bools."""
    return mask.view(torch.uint8)


def count_kept(masks: Sequence[Tensor]) -> Tensor:
    """Number of kept weights of every mask, int64 [masks], on their device, which nothing waits for."""
    if masks[0].device.type == "cpu":  # 60 times as fast as the sum of bools
        return torch.tensor([np.count_nonzero(mask.numpy()) for mask in masks])
    return counts_by_sum(masks)


def counts_by_sum(masks: Sequence[Tensor]) -> Tensor:
    """:func:`count_kept` on any device, in a few kernels for all masks together."""
    if len(masks) == 1:
        return masks[0].sum().view(1)
    in_memory_order = [mask.as_strided((mask.numel(),), (1,)) for mask in masks]  # views; any order will do
    sums = torch.cat(in_memory_order).cumsum(0)
    to_end = torch.stack([sums[end - 1] for end in accumulate(mask.numel() for mask in masks)])
    return to_end.diff(prepend=to_end.new_zeros(1))


class MaskedParameters:
    """The prunable weights of a model with one bool mask each; True = kept.

    Masks are applied and removed by in-place copies into fixed storage, under ``no_grad``. So the model stays an
    unmodified module, autograd's version counters detect a weight that changes between forward and backward, and the
    gradient computed while weights are hidden is the gradient *at* the masked weights, not multiplied by the mask.

    Never call :meth:`hide_` or :meth:`restore_` inside an autocast block: autocast caches the low-precision cast of a
    weight and misses in-place changes.

    Args:
        parameters: Name in the model's ``state_dict`` -> parameter, in the model's order.
        optimizer: Its state (momentum, moments) is masked together with the weights.

    Raises:
        ValueError: There are no parameters.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        if not parameters:
            raise ValueError("no prunable parameters")
        self.parameters = dict(parameters)
        self.optimizer = optimizer
        self.masks: dict[str, Tensor] = {
            name: torch.ones_like(p, dtype=torch.bool, requires_grad=False)
            for name, p in self.parameters.items()
        }
        self.backward: dict[str, Tensor] | None = None  # masks of the gradient, if they differ from ``masks``
        self.version = 0  # counts the calls of set_masks
        self.baked = False  # whether the parameters are the final sparse weights
        self.hidden = False
        self._weights: list[Tensor] = list(self.parameters.values())
        self._masks = list(self.masks.values())
        self._ever_kept = [torch.zeros_like(mask) for mask in self._masks]
        # Made when first needed, so that only methods that need them pay for them; their storage is fixed from then on.
        self._dense: list[Tensor] = []
        self._factors: list[Tensor] = []  # the masks as numbers
        self._gradient_factors: list[Tensor] = []  # the masks of the gradient, if they differ

    @property
    def numel(self) -> int:
        """Number of prunable weights."""
        return sum(p.numel() for p in self._weights)

    def weights(self) -> dict[str, Tensor]:
        """Name -> dense weight, detached; raises while they are hidden."""
        self._refuse_hidden("be scored")
        return {name: p.detach() for name, p in self.parameters.items()}

    def nonzero(self) -> Tensor:
        """Number of kept weights of every layer, [layers], on the weights' device."""
        return count_kept(self._masks)

    def in_gradient(self) -> Tensor:
        """Number of weights of every layer that receive a gradient, [layers]: by ``backward``, or else the masks."""
        return count_kept(list((self.backward or self.masks).values()))

    @torch.no_grad()
    def set_masks(self, masks: Mapping[str, Tensor], backward: Mapping[str, Tensor] | None = None) -> None:
        """Replace all masks; bool tensors of the weights' shapes, True = kept.

        Args:
            masks: Name -> mask of the forward pass.
            backward: Name -> mask of the gradient, if different.
        """
        self._refuse_hidden("change")
        for given in (masks, backward or masks):
            if given.keys() != self.masks.keys():
                raise ValueError(f"masks are for other layers: {sorted(given.keys() ^ self.masks.keys())}")
            for name, mask in given.items():
                if mask.dtype != torch.bool or mask.shape != self.masks[name].shape:
                    raise ValueError(f"the mask of {name} is {mask.dtype} {tuple(mask.shape)}")
        torch._foreach_copy_(self._masks, [masks[name] for name in self.masks])
        if backward is None:
            self.backward = None
        elif self.backward is None:
            self.backward = {name: backward[name].clone() for name in self.masks}
        else:  # into fixed storage, as the masks
            torch._foreach_copy_(list(self.backward.values()), [backward[name] for name in self.masks])
        self._as_factors(self._factors, self.masks)
        if self.backward is not None:
            self._as_factors(self._gradient_factors, self.backward)
        # "Or" of both: the operator on several tensors at once.
        torch._foreach_maximum_([_bytes(ever) for ever in self._ever_kept], [_bytes(m) for m in self._masks])
        self.version += 1

    def exploration_rate(self) -> float:
        """R_s: the fraction of the prunable weights that were kept by any mask so far; 1 if no mask was ever set.

        References:
            Liu, Yin, Mocanu and Pechenizkiy, "Do We Actually Need Dense Over-Parameterization? In-Time
            Over-Parameterization in Sparse Training", ICML 2021, arXiv 2102.02887, section 3.
        """
        return float(sum(ever.sum() for ever in self._ever_kept)) / self.numel if self.version else 1.0

    @torch.no_grad()
    def project_(self, optimizer_state: bool = True) -> None:
        """Set pruned weights, and with ``optimizer_state`` their optimiser state, to zero."""
        self._refuse_hidden("be projected")
        torch._foreach_mul_(self._weights, self._forward_factors)
        if optimizer_state:
            self.project_optimizer_()

    @torch.no_grad()
    def project_optimizer_(self) -> None:
        """Set the optimiser state (momentum, moments) of weights that receive no gradient to zero."""
        pairs = [
            (buffer, factor)
            for parameter, factor in zip(self._weights, self._backward_factors, strict=True)
            for buffer in self._state_of(parameter)
        ]
        if pairs:
            torch._foreach_mul_([buffer for buffer, _ in pairs], [factor for _, factor in pairs])

    @torch.no_grad()
    def reset_optimizer_(self) -> None:
        """Set the optimiser state (momentum, moments) of all parameters to zero, prunable or not."""
        for state in self.optimizer.state.values() if self.optimizer is not None else ():
            for buffer in state.values():
                if isinstance(buffer, Tensor) and buffer.dim() > 0:
                    buffer.zero_()

    def disable_weight_decay_(self) -> float:
        """Disable the optimiser's weight decay on prunable weights, for methods that apply it themselves; returns it.

        They move into a separate parameter group without weight decay, so that with zero gradient and momentum they
        do not change.
        """
        if self.optimizer is None:
            return 0.0
        ours = {id(p) for p in self._weights}
        group = next(g for g in self.optimizer.param_groups if any(id(p) in ours for p in g["params"]))
        decay = float(group.get("weight_decay", 0.0))
        for other in self.optimizer.param_groups:
            other["params"] = [p for p in other["params"] if id(p) not in ours]
        self.optimizer.add_param_group({**group, "params": self._weights, "weight_decay": 0.0})
        return decay

    @torch.no_grad()
    def mask_grads_(self) -> None:
        """Set the gradients of pruned weights (or of those outside the backward masks) to zero."""
        factors = self._backward_factors
        pairs = [(p.grad, f) for p, f in zip(self._weights, factors, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_mul_([grad for grad, _ in pairs], [factor for _, factor in pairs])

    @torch.no_grad()
    def hide_(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Save the dense weights and apply the masks, so that the forward pass uses the pruned weights.

        Args:
            values: Name -> values to use instead, for methods that do more than mask.
        """
        self._refuse_hidden("be hidden again")
        if not self._dense:
            self._dense = [torch.empty_like(p) for p in self._weights]
        torch._foreach_copy_(self._dense, self._weights)
        if values is None:
            torch._foreach_mul_(self._weights, self._forward_factors)
        else:
            torch._foreach_copy_(self._weights, [values[name] for name in self.parameters])
        self.hidden = True

    @torch.no_grad()
    def restore_(self) -> None:
        """Restore the dense weights exactly."""
        if not self.hidden:
            raise RuntimeError("weights can only be restored while hidden")
        torch._foreach_copy_(self._weights, self._dense)
        self.hidden = False

    @contextmanager
    def applied(self, values: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Apply the masks (or ``values``) inside the block, and restore the dense weights afterwards. Nests.

        Does nothing if weights are baked.
        """
        if self.hidden or self.baked:
            yield
            return
        self.hide_(values)
        try:
            yield
        finally:
            self.restore_()

    @torch.no_grad()
    def bake_(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Set pruned weights to zero permanently, so that the model's plain ``state_dict`` is the sparse network.

        Args:
            values: Name -> weights used in the forward pass, if they are not the masked ones.
        """
        self._refuse_hidden("be baked")
        if values is not None:
            torch._foreach_copy_(self._weights, [values[name] for name in self.parameters])
        for parameter, mask in zip(self._weights, self._masks, strict=True):
            parameter.masked_fill_(~mask, 0.0)
        self.baked = True

    @torch.no_grad()
    def pruning_error(self) -> Tensor:
        """DPF's pruning error δ = ||w - m⊙w||² / ||w||² over all prunable weights, a scalar.

        References:
            Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, arXiv 2006.07253, section 4.
        """
        self._refuse_hidden("be measured")
        total = torch.stack([p.double().square().sum() for p in self._weights]).sum()
        lost = [(p * ~m).double().square().sum() for p, m in zip(self._weights, self._masks, strict=True)]
        return torch.stack(lost).sum() / total

    def packed(self) -> Tensor:
        """All masks flattened and concatenated: bool, [numel]."""
        return torch.cat([mask.reshape(-1) for mask in self._masks])

    def zeros(self) -> Zeros:
        """The zeros in the parameters as they are now, and how far they are the masks'; waits for the device."""
        leaked = sum(int(torch.count_nonzero(p[~self.masks[name]])) for name, p in self.parameters.items())
        total = sum(int((p == 0).sum()) for p in self.parameters.values())
        return Zeros(total, int((~self.packed()).sum()), leaked)

    def fingerprint(self) -> str:
        """SHA-256 of the masks; equal on every rank of a run."""
        return hashlib.sha256(self.packed().cpu().numpy().tobytes()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """The masks; the weights are saved with the model. Raises while hidden."""
        self._refuse_hidden("be saved")
        backward = self.backward and {name: mask.clone() for name, mask in self.backward.items()}
        return {
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            "backward": backward,
            "ever": [ever.clone() for ever in self._ever_kept],
            "version": self.version,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load masks from :meth:`state_dict`."""
        on = {name: mask.device for name, mask in self.masks.items()}
        backward = state["backward"] and {name: mask.to(on[name]) for name, mask in state["backward"].items()}
        self.set_masks({name: mask.to(on[name]) for name, mask in state["masks"].items()}, backward)
        torch._foreach_copy_(self._ever_kept, state["ever"])
        self.version = state["version"]

    def _as_factors(self, factors: list[Tensor], masks: Mapping[str, Tensor]) -> None:
        """Write masks as numbers of the weights' type into ``factors``, which are made if there are none yet.

        Multiplying by them is one kernel on a GPU, and on a CPU ten times as fast as multiplying by bools.
        """
        factors[:] = factors or [torch.empty_like(p, requires_grad=False) for p in self._weights]
        torch._foreach_copy_(factors, [_bytes(mask) for mask in masks.values()])

    @property
    def _forward_factors(self) -> list[Tensor]:
        if not self._factors:  # no masks were set yet
            self._as_factors(self._factors, self.masks)
        return self._factors

    @property
    def _backward_factors(self) -> list[Tensor]:
        return self._forward_factors if self.backward is None else self._gradient_factors

    def _state_of(self, parameter: Tensor) -> list[Tensor]:
        state = self.optimizer.state.get(parameter, {}) if self.optimizer is not None else {}
        return [s for s in state.values() if isinstance(s, Tensor) and s.shape == parameter.shape]

    def _refuse_hidden(self, action: str) -> None:
        if self.hidden:
            raise RuntimeError(f"masked parameters cannot {action} while the dense weights are hidden")
