"""Random static masks."""

from __future__ import annotations

from sparsebench.pruning.pruner import Probe, Pruner


class RandomStatic(Pruner):
    """Random pruning at initialisation: a random mask, fixed for the whole training.

    References:
        Liu et al., "The Unreasonable Effectiveness of Random Pruning: Return of the Most Naive Baseline for
        Sparse Training", ICLR 2022, arXiv 2202.02643.
    """

    def on_start(self, probe: Probe) -> None:
        """Draw the masks; the initial weights outside them are zero from now on."""
        self.update_masks(0, probe.generator)
        self.weights.project_()

    def after_backward(self, step: int) -> bool:
        """Pruned weights have weight, momentum and gradient zero: they stay zero."""
        self.weights.mask_grads_()
        return True
