"""Gradual magnitude pruning."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Pruner
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class GMP(Pruner):
    """Gradual magnitude pruning: along a schedule, the smallest weights are set to zero and stay zero.

    w_{t+1} = m_t ⊙ (w_t - γ_t m_t ⊙ g(w_t)); masks only shrink. The momentum of newly pruned weights is set to zero
    too.

    Args:
        weights: The prunable weights.
        schedule: When to prune, and to which sparsity.
        allocation: Turns scores into masks.
        score: Magnitude in the paper.
        allow_recovering: Pruned weights keep their values, hidden from the forward pass and the gradient, and take part
            in the next ranking: they recover if others shrink below them, as in the authors' code. Weight decay acts
            on them.

    References:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", ICLR workshop 2018, arXiv 1710.01878, section 3.
    """

    asks_schedule = "sparsity"  # masks change where it rises

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        allow_recovering: bool = False,
    ) -> None:
        super().__init__(weights, schedule, allocation, score)
        self.allow_recovering = allow_recovering

    def before_forward(self, step: int) -> None:
        """Hide pruned weights that kept their values."""
        if self.allow_recovering:
            self.weights.hide_()

    def values(self) -> dict[str, Tensor]:
        """The weights of the network, by which weights are ranked."""
        return self.weights.weights()

    def after_backward(self, step: int) -> bool:
        """Mask gradients, so that no step changes pruned weights."""
        if self.allow_recovering:
            self.weights.restore_()
        self.weights.mask_grads_()
        return True

    def after_step(self, step: int) -> None:
        """If the scheduled sparsity rises, prune the smallest of the remaining weights."""
        if not self.updates(step):
            return
        scores = self.score(self.values())
        if not self.allow_recovering:
            for name, mask in self.weights.masks.items():
                scores[name].masked_fill_(~mask, -math.inf)  # pruned weights stay pruned
        self.weights.set_masks(self.allocate(scores, step))
        if self.allow_recovering:
            self.weights.project_optimizer_()
        else:
            self.weights.project_()

    def updates(self, step: int) -> bool:
        """Whether the scheduled sparsity rises at ``step``."""
        return self.schedule.due(step) and self.schedule.sparsity(step) != self.schedule.sparsity(step - 1)

    def program(self, step: int) -> bool | None:
        """Steps with an update, and the others."""
        return None if self.updates(step) and not self.records_updates else self.updates(step)

    def numbers(self, step: int) -> list[float]:
        """Numbers of zeros at mask updates."""
        return self.zeros(step) if self.updates(step) else []

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluate the pruned weights."""
        return self.weights.applied() if self.allow_recovering else nullcontext()
