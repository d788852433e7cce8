"""Straight-through pruning."""

from __future__ import annotations

from sparsebench.pruning.methods.dpf import DPF


class STE(DPF):
    """Straight-through estimator: as DPF, with the mask recomputed from the dense weights at every step.

    References:
        Bengio, Léonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for
        Conditional Computation", 2013, arXiv 1308.3432.
        Wortsman, Farhadi and Rastegari, "Discovering Neural Wirings", NeurIPS 2019, arXiv 1906.00586.
    """

    def before_forward(self, step: int) -> None:
        """m_t from w_t; then the model sees m_t ⊙ w_t."""
        self.update_masks(step)
        self.weights.hide_()
