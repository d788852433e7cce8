"""Dynamic sparse reparameterisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation, exact_counts
from sparsebench.pruning.dynamic import Dynamic, distribute, drop, grow
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class DSR(Dynamic):
    """Dynamic sparse reparameterisation: prunes by a global threshold, grows at random where many weights are kept.

    At updates, all kept |w| < H are pruned, K_l in layer l and K in total. If K > 1.1 N_p, H is halved for the next
    update; if K < 0.9 N_p, it is doubled. Then R_l / ΣR · K random weights grow from zero in layer l, where R_l is its
    number of remaining weights, excluding those just pruned; what exceeds a layer is spread evenly over the others.

    Args:
        weights: The prunable weights.
        schedule: Constant sparsity; masks change before due steps, except the first.
        allocation: Allocation of the initial masks; uniform in the paper.
        score: Score of the initial masks and of growth: random.
        drop_fraction: N_p as a fraction of all kept weights; 20,000 is 0.14 of a WRN-28-2 at sparsity 0.9.
        threshold: Initial H.

    Differs from the paper:
        Counts are rounded so that the total is exact, instead of assigning remainders to a random layer. All prunable
        layers are pruned; on CIFAR, the paper leaves the first convolution, the shortcuts and the classifier dense. If
        more would be pruned than can grow, proportionally fewer of the smallest weights of each layer are pruned.

    References:
        Mostafa and Wang, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse
        Reparameterization", ICML 2019, arXiv 1902.05967, Algorithm 1.
    """

    reads_values = "layers' numbers of new weights are rounded to an exact total, and H follows from counts"

    def __init__(
        self, weights: MaskedParameters, schedule: Schedule, allocation: Allocation, score: Score,
        drop_fraction: float = 0.14, threshold: float = 1e-3,
    ) -> None:  # fmt: skip
        super().__init__(weights, schedule, allocation, score, drop_fraction)
        if not 0 < threshold < math.inf:
            raise SettingError("threshold", threshold, "a number above 0")
        self.threshold = threshold
        numel, sparsity = sum(p.numel() for p in weights.parameters.values()), schedule.target_sparsity
        if round(sparsity * numel) >= numel:
            raise SettingError(
                "sparsity", sparsity, f"at least one of the {numel} prunable weights kept by dsr"
            )

    def before_forward(self, step: int) -> None:
        """Prune below H, adapt H, then distribute and grow at random."""
        if not self.updates(step):
            return
        sizes, masks = {n: w.abs() for n, w in self.weights.weights().items()}, self.weights.masks
        below_h = torch.stack([((sizes[n] < self.threshold) & mask).sum() for n, mask in masks.items()])
        kept, small = torch.stack([self.weights.nonzero(), below_h]).tolist()
        room = [mask.numel() - nnz for mask, nnz in zip(masks.values(), kept, strict=True)]
        small = [max(min(below, nnz - 1), 0) for below, nnz in zip(small, kept, strict=True)]
        wanted = self.drop_fraction * sum(kept)
        total = min(sum(small), sum(room))
        if not 0.9 * wanted <= sum(small) <= 1.1 * wanted:
            self.threshold *= 0.5 if sum(small) > wanted else 2.0
        pruned = exact_counts(lambda fraction: [fraction * below for below in small], small, total)
        left = [nnz - count for nnz, count in zip(kept, pruned, strict=True)]
        grown = distribute(total, [rest / sum(left) for rest in left], room)
        random, new = self.score(self.weights.weights(), self.generator), {}
        for (name, mask), fewer, more in zip(masks.items(), pruned, grown, strict=True):
            stays = drop(mask, fewer, sizes[name])
            new[name] = grow(stays, more, random[name].masked_fill(mask, -math.inf))
        self.weights.set_masks(new)
        self.weights.project_()

    def state_dict(self) -> dict[str, Any]:
        """Masks, generator and H."""
        return {**super().state_dict(), "threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.threshold = state["threshold"]
