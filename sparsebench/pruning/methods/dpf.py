"""Dynamic model pruning with feedback."""

from __future__ import annotations

from contextlib import AbstractContextManager

from sparsebench.pruning.pruner import Pruner


class DPF(Pruner):
    """Dynamic model pruning with feedback: the gradient at the pruned weights moves the dense ones.

    w_{t+1} = w_t - γ_t g(m_t ⊙ w_t), with m_t -> masks, recomputed every p -> ``schedule.interval`` steps from
    the largest |w_t|. The gradient is not masked, so a weight that was pruned too early grows back.

    Momentum and weight decay act on what the optimiser holds: the dense weights, also the pruned ones.

    Differs from the paper:
        Ties and rounding are exact (the achieved number of zeros is the asked one). The end of the ramp is
        not stated there; here it is 75 % of training.

    References:
        Lin, Stich, Barba, Dmitriev and Jaggi, "Dynamic Model Pruning with Feedback", ICLR 2020,
        arXiv 2006.07253, Algorithm 1.
    """

    def before_forward(self, step: int) -> None:
        """m_t from the dense weights if due; then the model sees m_t ⊙ w_t."""
        if self.schedule.due(step):
            self.update_masks(step)
        self.weights.hide_()

    def after_backward(self, step: int) -> bool:
        """The dense weights come back before the step: gradient, momentum and decay act on them."""
        self.weights.restore_()
        return True

    def evaluating(self) -> AbstractContextManager[None]:
        """The pruned weights."""
        return self.weights.applied()

    def dense_gradient(self, step: int) -> bool:
        """The gradient reaches every dense weight at every step."""
        return True
