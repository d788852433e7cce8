"""Dynamic model pruning with feedback."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar

from sparsebench.errors import SettingError, one_of
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Pruner
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score

GRADIENTS = ("feedback", "masked", "dense")


class DPF(Pruner):
    """Dynamic model pruning with feedback: the gradient at the pruned weights updates the dense ones.

    w_{t+1} = w_t - γ_t g(m_t ⊙ w_t), with masks m_t recomputed every p (``schedule.interval``) steps from the largest
    |w_t|. The gradient is not masked, so a weight that was pruned too early can grow back.

    Momentum and weight decay act on the dense weights, including the pruned ones.

    Args:
        weights: The prunable weights.
        schedule: When masks are recomputed, up to ``schedule.stop``, and to which sparsity.
        allocation: Global in the paper.
        score: Magnitude in the paper.
        gradient: ``feedback`` as above; the ablations ``masked``: m_t ⊙ g(m_t ⊙ w_t), and ``dense``: g(w_t).
        fine_tune: After ``schedule.stop``, discard the pruned weights and train only the kept ones.

    Differs from the paper:
        Ties and rounding are exact (the number of zeros is the requested one). The end of the ramp is not stated
        there; here it is 75 % of training.

    References:
        Lin, Stich, Barba, Dmitriev and Jaggi, "Dynamic Model Pruning with Feedback", ICLR 2020,
        arXiv 2006.07253, Algorithm 1.
    """

    ignores: ClassVar[dict[str, dict[str, object]]] = {"fine_tune": {"schedule.stop": None}}

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        gradient: str = "feedback",
        fine_tune: bool = False,
    ) -> None:
        super().__init__(weights, schedule, allocation, score)
        if gradient not in GRADIENTS:
            raise SettingError("gradient", gradient, one_of(GRADIENTS, gradient))
        self.gradient, self.fine_tune = gradient, fine_tune

    def before_forward(self, step: int) -> None:
        """Update m_t from the dense weights if due, and put m_t ⊙ w_t into the model."""
        if self.schedule.due(step):
            self.update_masks(step)
        if self.fine_tune and step == self.schedule.stop + 1:
            self.weights.project_()
        if not self.dense_forward(step):
            self.weights.hide_()

    def after_backward(self, step: int) -> bool:
        """Restore the dense weights, so that gradient, momentum and weight decay act on them."""
        if self.weights.hidden:
            self.weights.restore_()
        if not self.dense_gradient(step):
            self.weights.mask_grads_()
        return True

    def program(self, step: int) -> tuple[bool, bool, bool] | None:
        """Steps with an update, and the others, until fine-tuning."""
        due = self.schedule.due(step)
        if (due and not self.records_updates) or (self.fine_tune and step == self.schedule.stop + 1):
            return None
        return due, self.dense_gradient(step), self.dense_forward(step)

    def numbers(self, step: int) -> list[float]:
        """Numbers of zeros at mask updates."""
        return self.zeros(step) if self.schedule.due(step) else []

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluate the pruned weights."""
        return self.weights.applied()

    def dense_gradient(self, step: int) -> bool:
        """The gradient reaches every weight at every step, unless an ablation masks it."""
        return self.gradient != "masked" and not (self.fine_tune and step > self.schedule.stop)

    def dense_forward(self, step: int) -> bool:
        """Only in the ablation that prunes only for evaluation."""
        return self.gradient == "dense" and not (self.fine_tune and step > self.schedule.stop)
