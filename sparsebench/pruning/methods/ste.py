"""Straight-through pruning."""

from __future__ import annotations

from contextlib import AbstractContextManager

from sparsebench.pruning.pruner import Pruner


class STE(Pruner):
    """Straight-through estimator: like DPF, with the mask recomputed from the dense weights at every step.

    w_{t+1} = w_t - γ_t g(m(w_t) ⊙ w_t).

    References:
        Bengio, Léonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for
        Conditional Computation", 2013, arXiv 1308.3432.
        Wortsman, Farhadi and Rastegari, "Discovering Neural Wirings", NeurIPS 2019, arXiv 1906.00586.
    """

    asks_schedule = "sparsity"  # masks change at every step

    def before_forward(self, step: int) -> None:
        """Update m_t from w_t, and put m_t ⊙ w_t into the model."""
        self.update_masks(step)
        self.weights.hide_()

    def after_backward(self, step: int) -> bool:
        """Restore the dense weights, so that the gradient updates all of them."""
        self.weights.restore_()
        return True

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluate the pruned weights."""
        return self.weights.applied()

    def dense_gradient(self, step: int) -> bool:
        """The gradient reaches every weight at every step."""
        return True

    def program(self, step: int) -> str | None:
        """The same at every step."""
        return "update" if self.records_updates else None

    def numbers(self, step: int) -> list[float]:
        """Numbers of zeros."""
        return self.zeros(step)
