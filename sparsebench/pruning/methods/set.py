"""Sparse evolutionary training."""

from __future__ import annotations

from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.dynamic import Dynamic, drop_and_grow, kept_fraction
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class SET(Dynamic):
    """Sparse evolutionary training: replaces the smallest weights by random ones after every epoch.

    Between epochs (``schedule.interval``), in every layer, the ζ nnz_l smallest |w| (ζ: ``drop_fraction``) are dropped,
    and as many are grown uniformly at random among the pruned weights, with zero value and momentum.

    Args:
        weights: The prunable weights.
        schedule: Constant sparsity; masks change before due steps, except the first.
        allocation: Allocation of the initial masks; Erdős-Rényi in the paper.
        score: Score of the initial masks and of growth: random.
        drop_fraction: ζ, in (0, 1].

    Differs from the paper:
        Weights of both signs are ranked together by |w|, and grown weights start at zero, as in later work. A weight
        that is grown again right after it was dropped keeps its value.

    References:
        Mocanu, Mocanu, Stone, Nguyen, Gibescu and Liotta, "Scalable training of artificial neural networks
        with adaptive sparse connectivity inspired by network science", Nature Communications 2018,
        arXiv 1707.04780, Algorithm 1.
    """

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        drop_fraction: float = 0.3,
    ) -> None:
        super().__init__(weights, schedule, allocation, score, drop_fraction)

    def before_forward(self, step: int) -> None:
        """Drop the smallest weights and grow at random. Grown weights have zero value and momentum already."""
        if not self.updates(step):
            return
        dense = self.weights.weights()
        random = self.score(dense, self.generator)
        masks = {}
        for name, mask in self.weights.masks.items():
            swaps = kept_fraction(mask, self.drop_fraction).floor().long()
            masks[name] = drop_and_grow(mask, swaps, dense[name].abs(), random[name])
        self.weights.set_masks(masks)
        self.weights.project_()
