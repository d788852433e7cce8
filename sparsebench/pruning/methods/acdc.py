"""Alternating compressed and decompressed training."""

from __future__ import annotations

from sparsebench.pruning.pruner import Pruner


class ACDC(Pruner):
    """Alternating compressed/decompressed training: sparse and dense phases in turn.

    A compressed phase starts with the global mask of the largest |w| and trains the kept weights; a decompressed phase
    trains all weights, starting pruned ones at zero, and resets the momentum of all parameters.

    References:
        Peste, Iofinova, Vladu and Alistarh, "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural
        Networks", NeurIPS 2021, arXiv 2106.12379, Algorithm 1.
    """

    def before_forward(self, step: int) -> None:
        """At the start of a phase: prune, or free all weights."""
        if not self.schedule.due(step) or self.schedule.target_sparsity == 0:
            return
        self.update_masks(step)  # all ones in a decompressed phase (sparsity 0)
        if self.schedule.sparsity(step) > 0:
            self.weights.project_()
        else:
            self.weights.reset_optimizer_()

    def after_backward(self, step: int) -> bool:
        """Mask gradients: pruned weights have zero value, momentum and gradient, so they stay zero."""
        self.weights.mask_grads_()
        return True

    def program(self, step: int) -> str | None:
        """The same at every step inside a phase."""
        return None if self.schedule.due(step) else "inside a phase"
