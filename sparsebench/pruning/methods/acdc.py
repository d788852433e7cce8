"""Alternating compressed and decompressed training."""

from __future__ import annotations

from sparsebench.pruning.pruner import Pruner


class ACDC(Pruner):
    """Alternating compressed/decompressed training: sparse and dense phases in turn.

    A compressed phase starts with the global mask of the largest |w| and trains what is left; a decompressed phase
    frees all weights, those that were pruned from zero, with the momentum of all parameters set to zero.

    References:
        Peste, Iofinova, Vladu and Alistarh, "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural
        Networks", NeurIPS 2021, arXiv 2106.12379, Algorithm 1.
    """

    def before_forward(self, step: int) -> None:
        """Where a phase starts: prune, or free everything."""
        if not self.schedule.due(step) or self.schedule.target_sparsity == 0:
            return
        self.update_masks(step)  # in a decompressed phase, of sparsity 0: all ones
        if self.schedule.sparsity(step) > 0:
            self.weights.project_()
        else:
            self.weights.reset_optimizer_()

    def after_backward(self, step: int) -> bool:
        """Pruned weights have weight, momentum and gradient zero: they stay zero."""
        self.weights.mask_grads_()
        return True
