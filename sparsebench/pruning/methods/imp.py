"""Iterative magnitude pruning with fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sparsebench.clock import Clock
from sparsebench.optim.lr_schedules import LRSchedule
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.rounds import Rounds, retraining_start
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class IMP(Rounds):
    """Iterative magnitude pruning with fine-tuning: train, prune, fine-tune, round after round.

    Every round goes on from the trained weights with fresh momentum, for t -> ``retrain`` at the learning rate with
    which the dense training ended.

    Args:
        weights: The prunable weights.
        schedule: Gives the target sparsity.
        allocation: Global here; any.
        score: Magnitude.
        model: Whose state goes from one training to the next.
        clock: Length of the training.
        rounds: R; ``None`` for as many as it takes to prune at most 20 % of what is left in each.
        retrain: t, of every round.

    References:
        Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks",
        NeurIPS 2015, arXiv 1506.02626.
        Renda, Frankle and Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020,
        arXiv 2003.02389, section 3.
    """

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        model: nn.Module,
        clock: Clock,
        rounds: int | None = None,
        retrain: str | float = "0.25",
    ) -> None:
        super().__init__(weights, schedule, allocation, score, model, rounds)
        self.last_step = clock.total_steps - 1
        self.start = retraining_start(retrain, clock.total_steps, clock.steps(retrain, "retrain"))

    def rewind(self, before: Mapping[str, Any]) -> int:
        """Only the count of steps goes back: weights and batch norm are the trained ones."""
        return self.start

    def lr_factor(self, step: int, lr_schedule: LRSchedule) -> float:
        """The schedule's in the dense training, its last value in all rounds."""
        return lr_schedule.factor(self.last_step if self.training else step)
