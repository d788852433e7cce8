"""Sparse momentum."""

from __future__ import annotations

import math

import torch

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.dynamic import Dynamic, distribute, drop, grow, momentum_magnitudes
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class SNFS(Dynamic):
    """Sparse momentum (sparse networks from scratch): weights move to layers, and grow, where momentum is large.

    Between epochs (``schedule.interval``), the ⌈p_t nnz_l⌉ smallest |w| of every layer are dropped, K in all. Layer l
    then grows r_l K weights, those with the largest |m|; r_l is the mean |m| of the layer's kept weights as a fraction
    of the sum over layers. What a layer has no room for (above 0.99 of its zeros) is spread evenly over the others.
    p_t falls along half a cosine over all of training; a layer with an r_l above average and a sparsity below 0.2 loses
    at most that fraction. m is SGD's momentum or Adam's m / (√v + 1e-8); it gathers the dense gradient at every step.

    Args:
        weights: The prunable weights.
        schedule: Constant sparsity; masks change before due steps, except the first.
        allocation: Allocation of the initial masks; uniform in the paper.
        score: Score of the initial masks: random.
        optimizer: Optimiser with momentum.
        drop_fraction: p_0, in (0, 1].
        final_drop_fraction: p at the end.

    Differs from the paper:
        The total is exact at every update; the authors' code corrects its drift later. Every layer keeps a weight.

    References:
        Dettmers and Zettlemoyer, "Sparse Networks from Scratch: Faster Training without Losing Performance", 2019,
        arXiv 1907.04840, Algorithm 1.
    """

    reads_values = "layers' numbers of new weights are rounded to an exact total"

    def __init__(
        self, weights: MaskedParameters, schedule: Schedule, allocation: Allocation, score: Score,
        optimizer: torch.optim.Optimizer, drop_fraction: float = 0.5, final_drop_fraction: float = 0.005,
    ) -> None:  # fmt: skip
        super().__init__(weights, schedule, allocation, score, drop_fraction, final_drop_fraction)
        if not all("betas" in group or group.get("momentum") for group in optimizer.param_groups):
            raise SettingError("optimizer.momentum", 0, "momentum above 0, which growth is based on")

    def before_forward(self, step: int) -> None:
        """Drop the smallest weights; distribute and grow by momentum."""
        if not self.updates(step):
            return
        masks, weights, sizes = self.weights.masks, self.weights.weights(), momentum_magnitudes(self.weights)
        sums = torch.stack([(m * masks[name]).sum(dtype=torch.float64) for name, m in sizes.items()])
        sums, kept = torch.stack([sums, self.weights.nonzero().double()]).tolist()
        means = [sum_ / max(nnz, 1) for sum_, nnz in zip(sums, kept, strict=True)]
        fractions, dropped, room = [mean / (math.fsum(means) or 1) for mean in means], [], []
        for mask, nnz, fraction in zip(masks.values(), map(int, kept), fractions, strict=True):
            sparsity, rate = 1 - nnz / mask.numel(), self.fraction(step)
            if sparsity < 0.2 and fraction > 1 / len(fractions):
                rate = min(rate, sparsity)
            dropped.append(max(min(math.ceil(rate * nnz), nnz - 1), 0))
            room.append(mask.numel() - nnz + dropped[-1])
        caps = [math.floor(0.99 * zeros) for zeros in room]
        grown = distribute(sum(dropped), fractions, caps if sum(caps) >= sum(dropped) else room)
        new = {}
        for name, fewer, more in zip(masks, dropped, grown, strict=True):
            new[name] = grow(drop(masks[name], fewer, weights[name].abs()), more, sizes[name])
        self.weights.set_masks(new)
        self.weights.project_(optimizer_state=False)

    def dense_gradient(self, step: int) -> bool:
        """Momentum accumulates the gradient of every weight."""
        return True

    def after_backward(self, step: int) -> bool:
        """Keep the gradient dense, for the momentum."""
        return True

    def after_step(self, step: int) -> None:
        """Set pruned weights to zero, but not their momentum."""
        self.weights.project_(optimizer_state=False)
