"""Sparse evolutionary training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.dynamic import drop_and_grow
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe, Pruner
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class SET(Pruner):
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
        super().__init__(weights, schedule, allocation, score)
        if not 0 < drop_fraction <= 1:
            raise SettingError("drop_fraction", drop_fraction, "a share of the kept weights in (0, 1]")
        self.drop_fraction = drop_fraction
        self.generator = torch.Generator()

    def on_start(self, probe: Probe) -> None:
        """Random masks."""
        self.generator.set_state(probe.generator.get_state())
        self.update_masks(0, self.generator)
        self.weights.project_()

    def before_forward(self, step: int) -> None:
        """Drop the smallest, grow at random. What grows has value and momentum zero already."""
        if step == 0 or not self.schedule.due(step) or self.schedule.target == 0:
            return
        dense = self.weights.weights()
        random = self.score(dense, self.generator)
        masks = {}
        for name, mask in self.weights.masks.items():
            swaps = math.floor(self.drop_fraction * int(mask.sum()))
            masks[name] = drop_and_grow(mask, swaps, dense[name].abs(), random[name])
        self.weights.set_masks(masks)
        self.weights.project_()

    def after_backward(self, step: int) -> bool:
        """Pruned weights have weight, momentum and gradient zero: they stay zero."""
        self.weights.mask_grads_()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Masks, and the generator that draws what grows."""
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
