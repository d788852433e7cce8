"""Times as the user writes them ("0.75", "30ep", "500it"), converted to optimiser steps."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from sparsebench.errors import SettingError

_TIME = re.compile(r"^(?P<number>\d+(\.\d*)?|\.\d+)(?P<unit>ep|it)?$")
ALLOWED = 'a time: a fraction of training in [0, 1] ("0.75"), epochs ("30ep") or steps ("500it")'


@dataclass(frozen=True)
class Clock:
    """The length of a training; converts times into steps.

    Args:
        total_steps: Optimiser steps of the whole training, at least 1.
        steps_per_epoch: Optimiser steps of one epoch, at least 1.
        extend: Factor by which the training is longer than usual: times in epochs and steps are scaled by it,
            durations such as the interval between mask updates are not.

    Example:
        >>> clock = Clock(total_steps=1000, steps_per_epoch=100)
        >>> clock.steps("0.75"), clock.steps("2.5ep"), clock.steps("16it")
        (750, 250, 16)
        >>> Clock(2000, 100, extend=2).steps("2.5ep"), Clock(2000, 100, extend=2).duration("100it")
        (500, 100)
    """

    total_steps: int
    steps_per_epoch: int = 1
    extend: float = 1

    def __post_init__(self) -> None:
        if self.total_steps < 1 or self.steps_per_epoch < 1:
            raise SettingError("total_steps", self.total_steps, "at least one step, and one step per epoch")

    def steps(self, time: str | float, setting: str = "time") -> int:
        """Convert ``time`` to a step, rounded to the nearest.

        A number with a decimal point is a fraction of training. One without a point needs a unit, because it may be
        meant in epochs or in steps; only 0 is the same in both.

        Raises:
            SettingError: ``time`` is not of that form, negative, or a fraction above 1.
        """
        return self._steps(time, setting, self.extend)

    def duration(self, time: str | float, setting: str = "time") -> int:
        """Like :meth:`steps`, for a duration, which does not scale when the training is extended.

        At least one step, even in a short training, unless the duration is zero.

        Example:
            >>> clock = Clock(total_steps=25, steps_per_epoch=5)
            >>> clock.duration("0.016"), clock.duration("0it")
            (1, 0)
        """
        return max(self._steps(time, setting, 1), int(re.search("[1-9]", str(time)) is not None))

    def _steps(self, time: str | float, setting: str, factor: float) -> int:
        text = str(time).strip()
        match = _TIME.match(text)
        if match is None or isinstance(time, bool):
            raise SettingError(setting, time, ALLOWED)
        number, unit = float(match["number"]), match["unit"]
        if unit == "ep":
            return math.floor(number * self.steps_per_epoch * factor + 0.5)
        if unit is None and "." not in text and number:
            allowed = (
                f"a time with a unit: {text}ep for epochs or {text}it for steps, or a fraction such as 0.5"
            )
            raise SettingError(setting, time, allowed)
        if unit == "it" or "." not in text:
            if number != int(number):
                raise SettingError(setting, time, ALLOWED)
            return math.floor(number * factor + 0.5)
        if number > 1:
            raise SettingError(setting, time, ALLOWED)
        return math.floor(number * self.total_steps + 0.5)


def format_duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds.

    Example:
        >>> format_duration(3725.4)
        '1:02:05'
    """
    total = int(seconds)
    return f"{total // 3600}:{total // 60 % 60:02d}:{total % 60:02d}"
