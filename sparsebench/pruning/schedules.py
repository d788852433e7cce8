"""Schedules: when masks change, and to which sparsity."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import ClassVar

from sparsebench.clock import Clock
from sparsebench.errors import SettingError


def check_sparsity(sparsity: object, setting: str = "sparsity") -> float:
    """``sparsity`` as a float; raises unless it is in [0, 1)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise SettingError(setting, sparsity, "a fraction of zeros in [0, 1), for example 0.9")
    return float(sparsity)


class Stages:
    """A piecewise constant value over stages of the training.

    Args:
        clock: Length of the training.
        values: Value of every stage.
        starts: Start times of the second and later stages.
    """

    def __init__(self, clock: Clock, values: Sequence[float], starts: Sequence[str | float]) -> None:
        self.values, self.starts = list(values), [clock.steps(time, "stages") for time in starts]
        bounds = [0, *self.starts, clock.total_steps]
        if len(bounds) != len(self.values) + 1 or any(a >= b for a, b in pairwise(bounds)):
            allowed = f"increasing times before step {clock.total_steps}, one for each of {self.values[1:]}"
            raise SettingError("stages", list(starts), allowed)

    def at(self, step: int) -> float:
        """The value at ``step``."""
        return self.values[bisect_right(self.starts, step)]


class Schedule:
    """Schedule of mask updates; pure functions of the step, so it needs no checkpoint.

    Args:
        clock: Length of the training.
        sparsity: Target sparsity, a fraction of zeros in [0, 1).
        start: Time of the first mask update.
        end: Latest time at which the target is reached.
        interval: Time between mask updates (DPF's p, RigL's ΔT).
        stop: Latest time of a mask update; ``None`` for the end of training.
    """

    has_ramp = True
    only_updates: ClassVar[tuple[str, ...]] = ("stop",)
    """Settings that change when masks are updated, and the sparsity of no step."""

    def __init__(
        self,
        clock: Clock,
        sparsity: float,
        start: str | float = "0it",
        end: str | float = "0.75",
        interval: str | float = "16it",
        stop: str | float | None = None,
    ) -> None:
        self.target_sparsity = check_sparsity(sparsity)
        self.start = clock.steps(start, "start")
        self.interval = clock.duration(interval, "interval")
        if self.interval < 1:
            raise SettingError("interval", interval, "at least one step")
        self.stop = clock.total_steps - 1
        if stop is not None:
            self.stop = min(clock.steps(stop, "stop"), self.stop)
        length = clock.steps(end, "end") - self.start
        self.updates = length // self.interval  # of the ramp
        if self.start > self.stop:
            raise SettingError(
                "start", start, f"a time no later than the last possible mask update, step {self.stop}"
            )
        if self.has_ramp and self.updates < 1:
            raise SettingError("end", end, f"at least one interval ({self.interval} steps) after start")
        if self.start + self.updates * self.interval > self.stop:
            raise SettingError(
                "end", end, f"a time no later than the last possible mask update, step {self.stop}"
            )

    def due(self, step: int) -> bool:
        """Whether masks are recomputed at ``step``."""
        return self.start <= step <= self.stop and (step - self.start) % self.interval == 0

    def sparsity(self, step: int) -> float:
        """The scheduled sparsity at ``step``; it changes only at mask updates."""
        if step < self.start:
            return 0.0
        done = (step - self.start) // self.interval
        return (
            self.target_sparsity
            if done >= self.updates
            else self.target_sparsity * self.ramp(done / self.updates)
        )

    def ramp(self, progress: float) -> float:
        """Fraction of the target at ``progress`` in [0, 1) of the ramp."""
        raise TypeError(f"{type(self).__name__} has no ramp")


class Cubic(Schedule):
    """Cubic ramp, fast at first: s_t = s_f - s_f (1 - (t - t_0) / (n Δt))³.

    Example:
        >>> schedule = Cubic(Clock(8), 0.8, end="4it", interval="2it")
        >>> [round(schedule.sparsity(step), 3) for step in range(6)]  # after one of two updates 1 - (1/2)³ of it
        [0.0, 0.0, 0.7, 0.7, 0.8, 0.8]
        >>> [step for step in range(8) if schedule.due(step)]
        [0, 2, 4, 6]

    References:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", ICLR workshop 2018, arXiv 1710.01878, section 3.
    """

    def ramp(self, progress: float) -> float:
        """1 - (1 - progress)³."""
        return 1 - (1 - progress) ** 3


class Linear(Schedule):
    """Linear ramp: sparsity rises by the same amount at every mask update.

    Example:
        >>> schedule = Linear(Clock(8), 0.8, end="4it", interval="2it")
        >>> [schedule.sparsity(step) for step in range(6)]
        [0.0, 0.0, 0.4, 0.4, 0.8, 0.8]

    References:
        Zhu and Gupta, "To prune, or not to prune", ICLR workshop 2018, arXiv 1710.01878.
    """

    def ramp(self, progress: float) -> float:
        """``progress`` itself."""
        return progress


class Constant(Schedule):
    """Constant target sparsity from ``start``, with masks recomputed every ``interval``.

    Example:
        >>> schedule = Constant(Clock(8), 0.5, start="2it", interval="3it")
        >>> [schedule.sparsity(step) for step in range(4)], [step for step in range(8) if schedule.due(step)]
        ([0.0, 0.0, 0.5, 0.5], [2, 5])

    References:
        Wortsman, Farhadi and Rastegari, "Discovering Neural Wirings", NeurIPS 2019, arXiv 1906.00586.
    """

    has_ramp = False
    only_updates: ClassVar[tuple[str, ...]] = ("interval", "stop")

    def __init__(
        self,
        clock: Clock,
        sparsity: float,
        start: str | float = "0it",
        interval: str | float = "16it",
        stop: str | float | None = None,
    ) -> None:
        super().__init__(clock, sparsity, start=start, end=start, interval=interval, stop=stop)


class Slowing(Constant):
    """Constant sparsity, with an update interval that doubles at given times.

    Args:
        clock: Length of the training.
        sparsity: Target sparsity, a fraction of zeros in [0, 1).
        doublings: Increasing times at which the interval doubles; each is also an update.
        start: Time of the first mask update.
        interval: Initial time between mask updates.
        stop: Latest time of a mask update; ``None`` for the end of training.

    Example:
        >>> schedule = Slowing(Clock(16), 0.5, doublings=["4it"], interval="2it")
        >>> [step for step in range(16) if schedule.due(step)]
        [0, 2, 4, 8, 12]

    References:
        Mostafa and Wang, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse
        Reparameterization", ICML 2019, arXiv 1902.05967.
    """

    only_updates = ("interval", "stop", "doublings")

    def __init__(
        self,
        clock: Clock,
        sparsity: float,
        doublings: Sequence[str | float],
        start: str | float = "0it",
        interval: str | float = "16it",
        stop: str | float | None = None,
    ) -> None:
        super().__init__(clock, sparsity, start=start, interval=interval, stop=stop)
        self.phases = [self.start, *(clock.steps(time, "doublings") for time in doublings)]
        if any(a >= b for a, b in pairwise(self.phases)):
            raise SettingError("doublings", list(doublings), f"increasing times after start={start}")

    def due(self, step: int) -> bool:
        """Whether masks are recomputed at ``step``."""
        phase = bisect_right(self.phases, step) - 1
        return (
            phase >= 0 and step <= self.stop and (step - self.phases[phase]) % (self.interval * 2**phase) == 0
        )


class OneShotSchedule(Schedule):
    """Dense until ``at``, then the target sparsity; masks change only once.

    Example:
        >>> schedule = OneShotSchedule(Clock(4), 0.5, at="0.75")
        >>> [schedule.sparsity(step) for step in range(4)], [step for step in range(4) if schedule.due(step)]
        ([0.0, 0.0, 0.0, 0.5], [3])

    References:
        Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks",
        NeurIPS 2015, arXiv 1506.02626.
    """

    has_ramp = False

    def __init__(self, clock: Clock, sparsity: float, at: str | float = "0.75") -> None:
        if clock.steps(at, "at") >= clock.total_steps:
            raise SettingError("at", at, f"a time before the last step, {clock.total_steps - 1}")
        super().__init__(clock, sparsity, start=at, end=at, interval=f"{clock.total_steps}it")


class Alternating(Schedule):
    """Alternating dense and sparse phases, starting dense and ending sparse.

    Args:
        clock: Length of the training.
        sparsity: Target sparsity, a fraction of zeros in [0, 1).
        sparse_starts: Start times of sparse phases.
        dense_starts: Start times of dense phases, one between any two sparse ones.

    Example:
        >>> schedule = Alternating(Clock(8), 0.5, sparse_starts=["2it", "6it"], dense_starts=["4it"])
        >>> [schedule.sparsity(step) for step in range(8)]
        [0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.5, 0.5]
        >>> [step for step in range(8) if schedule.due(step)]
        [2, 4, 6]

    References:
        Peste, Iofinova, Vladu and Alistarh, "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural
        Networks", NeurIPS 2021, arXiv 2106.12379, section 4.
    """

    def __init__(
        self,
        clock: Clock,
        sparsity: float,
        sparse_starts: Sequence[str | float],
        dense_starts: Sequence[str | float],
    ) -> None:
        self.target_sparsity = check_sparsity(sparsity)
        sparse = [clock.steps(time, "sparse_starts") for time in sparse_starts]
        dense = [clock.steps(time, "dense_starts") for time in dense_starts]
        turns = [step for pair in zip_longest(sparse, dense) for step in pair if step is not None]
        if len(sparse) != len(dense) + 1 or any(a >= b for a, b in pairwise([*turns, clock.total_steps])):
            allowed = f"times between those of sparse_starts, one fewer, all before step {clock.total_steps}"
            raise SettingError("dense_starts", list(dense_starts), allowed)
        self.turns, self.start, self.stop = turns, turns[0], turns[-1]

    def due(self, step: int) -> bool:
        """Whether a phase starts at ``step``."""
        return step in self.turns

    def sparsity(self, step: int) -> float:
        """The target in sparse phases, else 0."""
        return self.target_sparsity if bisect_right(self.turns, step) % 2 else 0.0
