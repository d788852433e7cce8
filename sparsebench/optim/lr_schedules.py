"""Learning-rate schedules: pure functions of the step, so they need no checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsebench.clock import Clock
from sparsebench.errors import SettingError


class LRSchedule:
    """Learning-rate schedule, as a factor on the optimiser's ``lr``.

    Args:
        clock: Length of the training.
        warmup: Duration of a linear warm-up before the schedule proper.
    """

    def __init__(self, clock: Clock, warmup: str | float = "0it") -> None:
        self.clock = clock
        self.warmup = clock.steps(warmup, "warmup")
        if self.warmup >= clock.total_steps:
            raise SettingError(
                "warmup", warmup, f"less than the length of the training, {clock.total_steps} steps"
            )

    def factor(self, step: int) -> float:
        """The factor at ``step`` (0-based)."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1) * self.after_warmup(self.warmup)
        return self.after_warmup(step)

    def after_warmup(self, step: int) -> float:
        """The factor after warm-up."""
        return 1.0


class ConstantLR(LRSchedule):
    """Constant learning rate."""


class Multistep(LRSchedule):
    """The learning rate is multiplied by ``gamma`` at every milestone.

    Args:
        clock: Length of the training.
        milestones: Times, for example ``["0.5", "0.75"]``.
        gamma: Factor at each of them.
        warmup: Time of the linear warm-up.

    References:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385.
    """

    def __init__(
        self,
        clock: Clock,
        milestones: Sequence[str | float] = ("0.5", "0.75"),
        gamma: float = 0.1,
        warmup: str | float = "0it",
    ) -> None:
        super().__init__(clock, warmup)
        if isinstance(milestones, str) or not isinstance(milestones, Sequence):
            raise SettingError("milestones", milestones, "a list of times, for example [0.5,0.75]")
        self.milestones = [clock.steps(time, "milestones") for time in milestones]
        self.gamma = gamma

    def after_warmup(self, step: int) -> float:
        """γ to the power of the milestones passed."""
        return self.gamma ** sum(step >= milestone for milestone in self.milestones)


class Cosine(LRSchedule):
    """Half a cosine from the learning rate to zero.

    References:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, arXiv 1608.03983.
    """

    def after_warmup(self, step: int) -> float:
        """(1 + cos(π t / T)) / 2 over the steps after warm-up."""
        progress = (step - self.warmup) / (self.clock.total_steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * progress))


class OneCycle(LRSchedule):
    """One cycle: up to the learning rate and down to almost zero, each along half a cosine.

    Args:
        clock: Length of the training.
        peak: Time of the highest learning rate.
        start_factor: Factor at the first step.
        end_factor: Factor at the last step.

    References:
        Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
        Rates", 2018, arXiv 1708.07120. Constants as in torch.optim.lr_scheduler.OneCycleLR.
    """

    def __init__(
        self, clock: Clock, peak: str | float = "0.3", start_factor: float = 0.04, end_factor: float = 4e-6
    ) -> None:
        super().__init__(clock)
        self.peak, self.last = clock.steps(peak, "peak"), clock.total_steps - 1
        self.start_factor, self.end_factor = start_factor, end_factor

    def after_warmup(self, step: int) -> float:
        """Cosine annealing from start_factor to 1 to end_factor."""
        if step < self.peak:
            return _anneal(self.start_factor, 1.0, step / self.peak)
        return _anneal(1.0, self.end_factor, (step - self.peak) / max(self.last - self.peak, 1))


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
