"""Dynamic sparse training: some weights make way for others at mask updates; what its methods share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation, exact_counts, lowest
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe, Pruner
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


@torch.no_grad()
def drop(mask: Tensor, count: int, score: Tensor) -> Tensor:
    """``mask`` less the ``count`` kept weights of the lowest score; of equal ones, the first by index are dropped."""
    kept = mask.reshape(-1)
    dropped = lowest(_finite(score).masked_fill(~kept, math.inf), count)
    return (kept & ~dropped).view(mask.shape)


@torch.no_grad()
def grow(mask: Tensor, count: int, score: Tensor) -> Tensor:
    """``mask`` and the ``count`` other weights of the highest score; of equal ones, the first by index are grown."""
    kept = mask.reshape(-1)
    grown = lowest((-_finite(score)).masked_fill(kept, math.inf), count)
    return (kept | grown).view(mask.shape)


def _finite(score: Tensor) -> Tensor:
    """Flat, in float32: a gradient that overflowed stays behind the infinity that marks what is no candidate."""
    return score.float().reshape(-1).nan_to_num()


def drop_and_grow(mask: Tensor, swaps: int, drop_score: Tensor, grow_score: Tensor) -> Tensor:
    """The mask after the ``swaps`` worst kept weights are dropped and as many of the others grown.

    Weights dropped just now may grow again. Of equal scores, the first by index is dropped and the first grown.

    Args:
        mask: bool, True = kept; any shape.
        swaps: How many to drop and grow; at most as many as are kept.
        drop_score: Of every weight, same shape; the lowest of the kept are dropped.
        grow_score: Of every weight, same shape; the highest of what is not kept then grow.

    References:
        Evci et al., "Rigging the Lottery", ICML 2020, arXiv 1911.11134, Algorithm 1.
    """
    return grow(drop(mask, swaps, drop_score), swaps, grow_score)


def best_inputs(score: Tensor, active: Tensor, count: int) -> Tensor:
    """A mask of constant fan-in: the ``count`` inputs of the highest score of every active neuron; ties by index.

    Args:
        score: Of every weight, [out, ...].
        active: bool, [out]; the others get nothing.
        count: Inputs of a neuron.
    """
    rows = score.float().flatten(1)
    best = rows.sort(dim=1, descending=True, stable=True).indices[:, :count]
    mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, best, True)
    return (mask & active[:, None]).view(score.shape)


def cosine(fraction: float, step: int, last: int, least: float = 0.0) -> float:
    """Share of weights to swap at ``step``: from ``fraction`` along half a cosine to ``least`` at ``last`` and after.

    least + (fraction - least) / 2 · (1 + cos(π step / last)).
    """
    if step > last:
        return least
    return least + (fraction - least) / 2 * (1 + math.cos(math.pi * step / last)) if last else fraction


def distribute(total: int, fractions: Sequence[float], caps: Sequence[int]) -> list[int]:
    """Distribute ``total`` over layers by ``fractions``; what exceeds a layer's cap is spread evenly over the others.

    Water-filling: a layer gets min(share · total + level, cap), with the level at which the total is exact.

    Args:
        total: The sum to reach; never more than ``sum(caps)`` is given out.
        fractions: Of every layer; they add up to 1, or are all 0 (then all is spread evenly).
        caps: The most that each layer takes.

    Example:
        >>> shared_out(10, [0.8, 0.1, 0.1], [4, 9, 9])
        [4, 3, 3]
    """

    def real(flood: float) -> list[float]:  # up to 1/2 the shares fill, from 1/2 on the level rises
        filled, level = min(2 * flood, 1.0), max(2 * flood - 1, 0.0)
        return [(filled * fraction + level) * total for fraction in fractions]

    return exact_counts(real, caps, total)


def gradient_magnitudes(weights: MaskedParameters) -> dict[str, Tensor]:
    """|∂L/∂w| of every prunable weight, as it stands, finite; 0 where there is none, or where it is not a number."""
    gradients = {name: p.detach() * 0 if p.grad is None else p.grad for name, p in weights.parameters.items()}
    return {name: gradient.abs().nan_to_num(0.0) for name, gradient in gradients.items()}


def momentum_magnitudes(weights: MaskedParameters) -> dict[str, Tensor]:
    """|m| of every prunable weight: SGD's momentum buffer, or Adam's m / (√v + 1e-8); 0 before the first step."""
    sizes = {}
    for name, parameter in weights.parameters.items():
        state = weights.optimizer.state.get(parameter, {}) if weights.optimizer is not None else {}
        momentum = state.get("momentum_buffer", state.get("exp_avg"))
        root = state["exp_avg_sq"].sqrt() + 1e-8 if "exp_avg_sq" in state else 1.0
        sizes[name] = torch.zeros_like(parameter) if momentum is None else momentum.abs() / root
    return sizes


class Dynamic(Pruner):
    """Dynamic sparse training: random masks at first; at mask updates, some weights make way for others.

    What is pruned has weight, momentum and gradient zero, so what grows starts at zero.

    Args:
        weights: The prunable weights.
        schedule: When masks change; of constant sparsity, unless the method is ``gradual``.
        allocation: Of the initial masks.
        score: Of the initial masks, and of growing at random.
        drop_fraction: Share of the kept weights that are swapped at first, in (0, 1].
        final_drop_fraction: Share that are swapped at the schedule's stop.
    """

    gradual = False
    """Whether sparsity may rise along the training."""

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        drop_fraction: float = 1.0,
        final_drop_fraction: float = 0.0,
    ) -> None:
        super().__init__(weights, schedule, allocation, score)
        if not 0 < drop_fraction <= 1:
            raise SettingError("drop_fraction", drop_fraction, "a share of the kept weights in (0, 1]")
        if not 0 <= final_drop_fraction <= drop_fraction:
            raise SettingError(
                "final_drop_fraction",
                final_drop_fraction,
                f"at least 0, and at most drop_fraction={drop_fraction}",
            )
        if not self.gradual and schedule.sparsity(0) != schedule.target_sparsity:
            raise SettingError("schedule", None, "constant sparsity from step 0, such as schedule=dynamic")
        self.drop_fraction, self.final_drop_fraction = drop_fraction, final_drop_fraction
        self.generator = torch.Generator()
        self.gradients: dict[str, Tensor] = {}  # of an update's step, between its hooks

    def on_start(self, probe: Probe) -> None:
        """Random masks."""
        self.generator.set_state(probe.generator.get_state())
        self.update_masks(0, self.generator)
        self.weights.project_()

    def updates(self, step: int) -> bool:
        """Whether masks change at ``step``: not before something is trained, and never where nothing is pruned."""
        return step > 0 and self.schedule.due(step) and self.schedule.target_sparsity > 0

    def fraction(self, step: int) -> float:
        """Share of the kept weights to swap at ``step``."""
        return cosine(self.drop_fraction, step, self.schedule.stop, self.final_drop_fraction)

    def after_backward(self, step: int) -> bool:
        """What is pruned stays zero; of a dense gradient, the sizes are kept for the mask update."""
        if self.dense_gradient(step):
            self.gradients = gradient_magnitudes(self.weights)
        self.weights.mask_grads_()
        return True

    def swap_within_layers(self, step: int, grow_scores: Mapping[str, Tensor]) -> None:
        """In every layer, the ⌈p nnz_l⌉ smallest |w| make way for as many of the highest ``grow_scores``."""
        masks, fraction = {}, self.fraction(step)
        for name, weight in self.weights.weights().items():
            mask = self.weights.masks[name]
            swaps = math.ceil(fraction * int(mask.sum()))
            masks[name] = drop_and_grow(mask, swaps, weight.abs(), grow_scores[name])
        self.weights.set_masks(masks)
        self.weights.project_()
        self.gradients = {}

    def state_dict(self) -> dict[str, Any]:
        """Masks, and the generator that draws what grows."""
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
