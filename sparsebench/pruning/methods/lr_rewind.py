"""Learning-rate rewinding."""

from __future__ import annotations

from sparsebench.optim.lr_schedules import LRSchedule
from sparsebench.pruning.methods.imp import IMP


class LRRewind(IMP):
    """Learning-rate rewinding: train, prune, and retrain from the trained weights with the schedule rewound.

    Every round continues from the trained weights with zero momentum, and repeats the last part t (``retrain``) of the
    learning-rate schedule.

    References:
        Renda, Frankle and Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020,
        arXiv 2003.02389, section 3.
    """

    def lr_factor(self, step: int, lr_schedule: LRSchedule) -> float:
        """The schedule itself; rounds start at step T - t."""
        return lr_schedule.factor(step)
