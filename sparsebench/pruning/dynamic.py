"""Dynamic sparse training: common parts of methods that drop and grow weights at mask updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation, exact_counts, lowest
from sparsebench.pruning.parameters import MaskedParameters, count_kept
from sparsebench.pruning.pruner import Probe, Pruner
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score

LEAST_UPDATES = 3
"""Fewest mask updates of a training that a method which drops and grows may be judged by."""


def kept_fraction(mask: Tensor, fraction: float | Tensor) -> Tensor:
    """``fraction`` of the number of kept weights: float64 as in Python, on the device, so that nothing waits for it."""
    return fraction * count_kept([mask])[0].double()


@torch.no_grad()
def drop(mask: Tensor, count: int | Tensor, score: Tensor) -> Tensor:
    """Drop the ``count`` kept weights with the lowest score from ``mask``; ties are broken by index."""
    kept = mask.reshape(-1)
    dropped = lowest(_finite(score).masked_fill(~kept, math.inf), count)
    return (kept & ~dropped).view(mask.shape)


@torch.no_grad()
def grow(mask: Tensor, count: int | Tensor, score: Tensor) -> Tensor:
    """Grow the ``count`` pruned weights with the highest score; ties are broken by index."""
    kept = mask.reshape(-1)
    grown = lowest((-_finite(score)).masked_fill(kept, math.inf), count)
    return (kept | grown).view(mask.shape)


def _finite(score: Tensor) -> Tensor:
    """Flatten to finite float32, so that an overflowed gradient stays below the infinity that marks non-candidates."""
    return score.float().reshape(-1).nan_to_num()


def drop_and_grow(mask: Tensor, swaps: int | Tensor, drop_score: Tensor, grow_score: Tensor) -> Tensor:
    """Drop the ``swaps`` worst kept weights, then grow the same number of pruned ones.

    Weights that were just dropped may grow again. Ties are broken by index.

    Args:
        mask: bool, True = kept; any shape.
        swaps: Number of weights to drop and grow, at most the number of kept ones; may be a 0-d tensor.
        drop_score: Score of every weight, same shape; the lowest of the kept weights are dropped.
        grow_score: Score of every weight, same shape; the highest of the pruned weights are grown.

    References:
        Evci et al., "Rigging the Lottery", ICML 2020, arXiv 1911.11134, Algorithm 1.
    """
    return grow(drop(mask, swaps, drop_score), swaps, grow_score)


def best_inputs(score: Tensor, active: Tensor, count: int | Tensor) -> Tensor:
    """A mask of constant fan-in: the ``count`` inputs with the highest score of every active neuron; ties by index.

    Args:
        score: Score of every weight, [out, ...].
        active: bool, [out]; other neurons get no inputs.
        count: Inputs per neuron.
    """
    rows = score.float().flatten(1)
    order = rows.sort(dim=1, descending=True, stable=True).indices
    best = (torch.arange(rows.shape[1], device=rows.device) < count).expand_as(
        order
    )  # of every row in its order
    mask = torch.empty_like(best).scatter_(1, order, best)
    return (mask & active[:, None]).view(score.shape)


def cosine(fraction: float, step: int, last: int, least: float = 0.0) -> float:
    """Fraction of weights to swap at ``step``: a half cosine from ``fraction`` to ``least`` at step ``last`` and after.

    least + (fraction - least) / 2 · (1 + cos(π step / last)).
    """
    if step > last:
        return least
    return least + (fraction - least) / 2 * (1 + math.cos(math.pi * step / last)) if last else fraction


def distribute(total: int, fractions: Sequence[float], caps: Sequence[int]) -> list[int]:
    """Distribute ``total`` over layers by ``fractions``; what exceeds a layer's cap is spread evenly over the others.

    Water-filling: a layer gets min(fraction · total + level, cap), with the level at which the total is exact.

    Args:
        total: The sum; at most ``sum(caps)`` is distributed.
        fractions: Fraction of every layer; they sum to 1, or are all 0 (then the total is spread evenly).
        caps: Maximum of each layer.

    Example:
        >>> distribute(10, [0.8, 0.1, 0.1], [4, 9, 9])
        [4, 3, 3]
    """

    def real(flood: float) -> list[float]:  # [0, 1/2]: fill by fractions; [1/2, 1]: raise the level
        filled, level = min(2 * flood, 1.0), max(2 * flood - 1, 0.0)
        return [(filled * fraction + level) * total for fraction in fractions]

    return exact_counts(real, caps, total)


def gradient_magnitudes(weights: MaskedParameters) -> dict[str, Tensor]:
    """|∂L/∂w| of every prunable weight; 0 where there is no gradient or it is NaN."""
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
    """Dynamic sparse training: starts from random masks; mask updates drop some weights and grow others.

    Pruned weights have zero value, momentum and gradient, so grown weights start at zero.

    Args:
        weights: The prunable weights.
        schedule: When masks change; with constant sparsity unless the method is ``gradual``.
        allocation: Allocation of the initial masks.
        score: Score for the initial masks and for random growth.
        drop_fraction: Initial fraction of the kept weights that is swapped, in (0, 1].
        final_drop_fraction: Fraction that is swapped at the schedule's stop.
    """

    gradual = False
    """Whether sparsity may rise during training."""

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
            raise SettingError("drop_fraction", drop_fraction, "a fraction of the kept weights in (0, 1]")
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
        self.gradients: dict[str, Tensor] = {}  # at a mask update, kept between the hooks of the step

    def check_length(self, total_steps: int) -> None:
        """Refuse a training with fewer than three mask updates: it would be one with static random masks."""
        planned = len(list(islice(filter(self.updates, range(total_steps)), LEAST_UPDATES)))
        if planned == LEAST_UPDATES or self.schedule.target_sparsity == 0:
            return
        longest = (self.schedule.stop - self.schedule.start) // LEAST_UPDATES
        how = f"at most {longest}it, or train longer" if longest else "1it, and train longer"
        interval = getattr(self.schedule, "interval", None)
        allowed = (
            f"at least {LEAST_UPDATES} mask updates; in {total_steps} steps, with step {self.schedule.stop} as the "
            f"last possible one, there would be {planned}: set schedule.interval to {how}"
        )
        raise SettingError("schedule.interval", interval and f"{interval}it", allowed)

    def on_start(self, probe: Probe) -> None:
        """Initialise random masks."""
        self.generator.set_state(probe.generator.get_state())
        self.update_masks(0, self.generator)
        self.weights.project_()

    def updates(self, step: int) -> bool:
        """Whether masks change at ``step``: not before the first step, and never at target sparsity 0."""
        return step > 0 and self.schedule.due(step) and self.schedule.target_sparsity > 0

    def fraction(self, step: int) -> float:
        """Fraction of the kept weights to swap at ``step``."""
        return cosine(self.drop_fraction, step, self.schedule.stop, self.final_drop_fraction)

    def program(self, step: int) -> bool | None:
        """The same at every step between mask updates."""
        return None if self.updates(step) else False

    def after_backward(self, step: int) -> bool:
        """Mask gradients; keep the magnitudes of a dense gradient for the mask update."""
        if self.dense_gradient(step):
            self.gradients = gradient_magnitudes(self.weights)
        self.weights.mask_grads_()
        return True

    def swap_within_layers(self, step: int, grow_scores: Mapping[str, Tensor]) -> None:
        """In every layer, drop the ⌈p nnz_l⌉ smallest |w| and grow as many with the highest ``grow_scores``."""
        masks, fraction = {}, self.fraction(step)
        for name, weight in self.weights.weights().items():
            mask = self.weights.masks[name]
            swaps = kept_fraction(mask, fraction).ceil().long()
            masks[name] = drop_and_grow(mask, swaps, weight.abs(), grow_scores[name])
        self.weights.set_masks(masks)
        self.weights.project_()
        self.gradients = {}

    def state_dict(self) -> dict[str, Any]:
        """Masks, and the generator for random growth."""
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
