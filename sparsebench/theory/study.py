"""The interface of a numerical study: grid points computed one by one, tables of their rows, and checks."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsebench.errors import SettingError

Point = dict[str, Any]
"""A grid point: strings and numbers that define what is computed; equal points give equal rows."""

Row = dict[str, Any]
Tables = dict[str, list[Row]]
"""Name of a table -> its rows: column -> value; ``nan`` where there is no prediction."""

ERRORS = 3.5
"""Standard errors by which a mean over seeds may deviate from its prediction, in addition to a relative tolerance."""


class Study(ABC):
    """A paper's prediction compared with an experiment of finite size.

    A study is a frozen dataclass; its fields are the settings of ``conf/theory/NAME.yaml``. It computes in float64,
    seeds are a dimension of its tensors, and a grid point's random numbers depend on ``seed`` and the point alone: so
    points can be computed in any order, and an interrupted study resumes with the remaining ones.

    Attributes:
        tables: Name of each table -> its columns. The first has the study's name.
        seed: Seed of all random numbers.
    """

    tables: ClassVar[Mapping[str, Sequence[str]]]
    seed: int

    @abstractmethod
    def points(self) -> list[Point]:
        """The grid points, in the order of the tables' rows."""

    @abstractmethod
    def rows(self, point: Point, device: torch.device) -> Tables:
        """The rows of a grid point, for every table."""

    @abstractmethod
    def checks(self, tables: Tables) -> Iterable[Check]:
        """Compare the paper's predictions with the finished tables."""


@dataclass(frozen=True)
class Check:
    """A prediction compared with a measurement: a row of summary.csv.

    Args:
        check: The compared quantity.
        case: The grid point.
        predicted: Value predicted by the theory; for an inequality the bound.
        measured: Value measured in the simulation.
        standard_error: Standard error of ``measured``; 0 if it is not random.
        deviation: Relative deviation, or as the name of the check says.
        tolerance: Tolerance of ``deviation``.
        passed: Whether the check passed.
    """

    check: str
    case: str
    predicted: float
    measured: float
    standard_error: float
    deviation: float
    tolerance: float
    passed: bool


def close(
    check: str, case: str, predicted: float, measured: float, tolerance: float, standard_error: float = 0.0
) -> Check:
    """``|measured - predicted| <= tolerance |predicted| + 3.5 standard errors``; a NaN never passes."""
    difference = measured - predicted
    passed = abs(difference) <= tolerance * abs(predicted) + ERRORS * standard_error
    deviation = difference / predicted if predicted else math.inf * difference if difference else 0.0
    return Check(check, case, predicted, measured, standard_error, deviation, tolerance, passed)


def near(
    check: str, case: str, predicted: float, measured: float, tolerance: float, standard_error: float = 0.0
) -> Check:
    """As :func:`close` with absolute deviation and tolerance."""
    difference = measured - predicted
    passed = abs(difference) <= tolerance + ERRORS * standard_error
    name = f"{check} (absolute)"
    return Check(name, case, predicted, measured, standard_error, difference, tolerance, passed)


def below(check: str, case: str, bound: float, measured: float) -> Check:
    """Check ``measured <= bound``; the deviation is their difference."""
    return Check(f"{check} (at most)", case, bound, measured, 0.0, measured - bound, 0.0, measured <= bound)


class Draws:
    """Random numbers of a grid point, the same on every device and with any number of threads.

    Args:
        seed: Seed of the study.
        point: The grid point, or the part of it that the numbers depend on.
        device: Device of the returned tensors.
    """

    def __init__(self, seed: int, point: Mapping[str, Any], device: torch.device) -> None:
        digest = hashlib.sha256(json.dumps([seed, point], sort_keys=True).encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        self.device = device

    def normal(self, *shape: int) -> Tensor:
        """Independent standard normal numbers, float64."""
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Independent numbers uniform on [0, 1), float64."""
        return torch.rand(*shape, dtype=torch.float64, generator=self.generator).to(self.device)


def mean_and_error(samples: Tensor) -> tuple[float, float]:
    """Mean over seeds, and its standard error (NaN for one seed).

    Args:
        samples: (seeds,).
    """
    spread = samples.std().item() if len(samples) > 1 else math.nan
    return samples.mean().item(), spread / math.sqrt(len(samples))


def relative(measured: float, predicted: float) -> float:
    """``measured / predicted - 1``; NaN without a prediction."""
    return measured / predicted - 1 if predicted else math.nan


def require_list(name: str, values: Sequence[Any], low: float, high: float = math.inf) -> None:
    """Check that a list is not empty and contains only numbers in [``low``, ``high``].

    Raises:
        SettingError: For the first wrong value.
    """
    wanted = (
        f"a list of numbers in [{low:g}, {high:g}]" if high < math.inf else f"a list of numbers from {low:g}"
    )
    if not values:
        raise SettingError(name, values, wanted)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise SettingError(name, value, wanted)
