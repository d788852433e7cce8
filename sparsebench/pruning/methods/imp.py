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

    Every round continues from the trained weights with zero momentum, for time t (``retrain``) at the final learning
    rate of the dense training.

    Args:
        weights: The prunable weights.
        schedule: Provides the target sparsity.
        allocation: Global by default.
        score: Magnitude.
        model: The model whose state is passed from one training to the next.
        clock: Length of the training.
        rounds: R; ``None`` for as many as needed to prune at most 20 % of the remaining weights in each.
        retrain: Time t of every round.

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
        """Rewind only the step; keep the trained weights and batch-norm statistics."""
        return self.start

    def lr_factor(self, step: int, lr_schedule: LRSchedule) -> float:
        """The schedule in the dense training, its last value in all rounds."""
        return lr_schedule.factor(self.last_step if self.training else step)
