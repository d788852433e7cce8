"""No pruning: the baseline."""

from __future__ import annotations

from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Pruner


class Dense(Pruner):
    """Dense training: the baseline for all differences.

    Args:
        weights: The prunable weights, none of which is pruned.

    References:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385.
    """

    def __init__(self, weights: MaskedParameters) -> None:
        self.weights = weights

    def scheduled_sparsity(self, step: int) -> float:
        """Always 0."""
        return 0.0

    def program(self, step: int) -> str:
        """The same at every step."""
        return "dense"

    def target_zeros(self, step: int) -> int:
        """Always 0."""
        return 0
