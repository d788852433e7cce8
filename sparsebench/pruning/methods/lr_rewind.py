"""Learning-rate rewinding."""

from __future__ import annotations

from sparsebench.optim.lr_schedules import LRSchedule
from sparsebench.pruning.methods.imp import IMP


class LRRewind(IMP):
    """Learning-rate rewinding: train, prune, and train again from the trained weights with the schedule set back.

    Every round goes on from the trained weights with fresh momentum, and repeats the last t -> ``retrain`` of the
    learning rate's schedule.

    References:
        Renda, Frankle and Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020,
        arXiv 2003.02389, section 3.
    """

    def lr_factor(self, step: int, lr_schedule: LRSchedule) -> float:
        """The schedule's: rounds start at step T - t."""
        return lr_schedule.factor(step)
