"""Gradual magnitude pruning."""

from __future__ import annotations

import math

from sparsebench.pruning.pruner import Pruner


class GMP(Pruner):
    """Gradual magnitude pruning: along a schedule the smallest weights are set to zero and stay zero.

    w_{t+1} = m_t ⊙ (w_t - γ_t m_t ⊙ g(w_t)); masks only shrink. Where masks change, the momentum of the newly
    pruned weights is set to zero with them.

    References:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", ICLR workshop 2018, arXiv 1710.01878, section 3.
    """

    def after_backward(self, step: int) -> bool:
        """Pruned weights have weight, momentum and now gradient zero: no optimiser step moves them."""
        self.weights.mask_grads_()
        return True

    def after_step(self, step: int) -> None:
        """If the schedule rises: prune the smallest of the remaining weights."""
        if self.schedule.due(step) and self.schedule.sparsity(step) > self.schedule.sparsity(step - 1):
            scores = self.score(self.weights.weights())
            for name, mask in self.weights.masks.items():
                scores[name].masked_fill_(~mask, -math.inf)  # once pruned stays pruned
            self.weights.set_masks(self.allocation(scores, self.schedule.sparsity(step)))
            self.weights.project_()
