"""Sparse evolutionary training."""

from __future__ import annotations

import math

from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.dynamic import Dynamic, drop_and_grow
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class SET(Dynamic):
    """Sparse evolutionary training: the smallest weights make way for random ones after every epoch.

    Between epochs (``schedule.interval``), in every layer, the ζ nnz_l smallest |w| (ζ -> ``drop_fraction``) are
    dropped, and as many are grown, uniformly at random among all that are not kept, with value and momentum zero.

    Args:
        weights: The prunable weights.
        schedule: Constant sparsity; masks change before the steps that are due, but not before the first.
        allocation: Of the initial masks; Erdős-Rényi in the paper.
        score: Of the initial masks and of growing: random.
        drop_fraction: ζ, in (0, 1].

    Differs from the paper:
        |w| ranks weights of both signs together, and what grows starts at zero, as in all later work. A weight
        that is drawn again right after it was dropped goes on as if nothing had happened.

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
        """Drop the smallest, grow at random. What grows has value and momentum zero already."""
        if not self.updates(step):
            return
        dense = self.weights.weights()
        random = self.score(dense, self.generator)
        masks = {}
        for name, mask in self.weights.masks.items():
            swaps = math.floor(self.drop_fraction * int(mask.sum()))
            masks[name] = drop_and_grow(mask, swaps, dense[name].abs(), random[name])
        self.weights.set_masks(masks)
        self.weights.project_()
