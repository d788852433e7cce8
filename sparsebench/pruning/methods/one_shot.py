"""One-shot magnitude pruning."""

from __future__ import annotations

from sparsebench.clock import Clock
from sparsebench.errors import SettingError, one_of
from sparsebench.optim.lr_schedules import LRSchedule
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.methods.gmp import GMP
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score

FINE_TUNE = ("continue", "constant_last", "lr_rewind", "linear")


class OneShot(GMP):
    """One-shot magnitude pruning: train dense, prune once to the target, fine-tune the kept weights.

    All of it is within the budget of T steps: pruning is at step c (``schedule.at``). For the fine-tuning variants, the
    dense training completes its learning-rate schedule η before c, and fine-tuning starts with zero momentum.

    Args:
        weights: The prunable weights.
        schedule: When to prune.
        allocation: Turns scores into masks.
        score: Magnitude in the paper.
        clock: Length of the training.
        fine_tune: ``continue``: the learning-rate schedule is not interrupted. ``constant_last``: fine-tune at the last
            learning rate. ``lr_rewind``: repeat the last T - c steps of η. ``linear``: from the first learning rate
            linearly to 0 (budgeted).

    References:
        Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks",
        NeurIPS 2015, arXiv 1506.02626.
        Renda, Frankle and Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020,
        arXiv 2003.02389; Li, Yumer and Ramanan, "Budgeted Training", ICLR 2020, arXiv 1905.04753.
    """

    asks_schedule = "updates"  # it is evaluated right after each

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        clock: Clock,
        fine_tune: str = "continue",
    ) -> None:
        super().__init__(weights, schedule, allocation, score)
        if fine_tune not in FINE_TUNE:
            raise SettingError("fine_tune", fine_tune, one_of(FINE_TUNE, fine_tune))
        self.fine_tune, self.total, self.cut = fine_tune, clock.total_steps, schedule.start + 1
        if fine_tune == "lr_rewind" and 2 * self.cut < self.total:
            raise SettingError(
                "fine_tune", fine_tune, "pruning (schedule.at) in the second half of the training"
            )

    def cuts(self, step: int) -> bool:
        """At the single mask update."""
        return self.schedule.due(step)

    def after_step(self, step: int) -> None:
        """Prune; for the fine-tuning variants also reset the momentum."""
        super().after_step(step)
        if step + 1 == self.cut and self.fine_tune != "continue" and self.schedule.target_sparsity > 0:
            self.weights.reset_optimizer_()

    def lr_factor(self, step: int, lr_schedule: LRSchedule) -> float:
        """η(t T / c) before pruning, and the variant's after it."""
        if self.fine_tune == "continue" or self.schedule.target_sparsity == 0:
            return lr_schedule.factor(step)
        if step >= self.cut and self.fine_tune == "linear":
            return (self.total - step) / (self.total - self.cut)
        rewound = {"constant_last": self.cut - 1, "lr_rewind": step - (self.total - self.cut)}
        position = step if step < self.cut else rewound[self.fine_tune]
        return lr_schedule.factor(position * self.total // self.cut)
