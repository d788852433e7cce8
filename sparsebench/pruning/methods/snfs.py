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

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        optimizer: torch.optim.Optimizer,
        drop_fraction: float = 0.5,
        final_drop_fraction: float = 0.005,
    ) -> None:
        super().__init__(weights, schedule, allocation, score, drop_fraction, final_drop_fraction)
        if not all("betas" in group or group.get("momentum") for group in optimizer.param_groups):
            raise SettingError("optimizer.momentum", 0, "momentum above 0, which growth is based on")

    def before_forward(self, step: int) -> None:
        """Drop the smallest weights; distribute and grow by momentum."""
        if not self.updates(step):
            return
        masks, sizes, kept = {}, momentum_magnitudes(self.weights), self.weights.nonzero().tolist()
        sums = [float((m * self.weights.masks[n]).sum(dtype=torch.float64)) for n, m in sizes.items()]
        means = [sum_ / max(nnz, 1) for sum_, nnz in zip(sums, kept, strict=True)]
        fractions = [mean / (math.fsum(means) or 1) for mean in means]
        for (name, weight), nnz, fraction in zip(
            self.weights.weights().items(), kept, fractions, strict=True
        ):
            sparsity, rate = 1 - nnz / weight.numel(), self.fraction(step)
            if sparsity < 0.2 and fraction > 1 / len(fractions):
                rate = min(rate, sparsity)
            masks[name] = drop(self.weights.masks[name], min(math.ceil(rate * nnz), nnz - 1), weight.abs())
        room = [int((~mask).sum()) for mask in masks.values()]
        total = sum(kept) - sum(int(mask.sum()) for mask in masks.values())
        caps = [math.floor(0.99 * zeros) for zeros in room]
        counts = distribute(total, fractions, caps if sum(caps) >= total else room)
        grown = zip(masks.items(), counts, strict=True)
        self.weights.set_masks({name: grow(mask, count, sizes[name]) for (name, mask), count in grown})
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
