"""What a numerical study is: grid points that are computed one by one, tables of their rows, and checks on those."""

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
"""A grid point: texts and numbers that say what is computed there; equal points give equal rows."""

Row = dict[str, Any]
Tables = dict[str, list[Row]]
"""Name of a table -> its rows: column -> value; ``nan`` where there is no prediction."""

ERRORS = 3.5
"""Standard errors by which a mean over seeds may miss its prediction, on top of a relative tolerance."""


class Study(ABC):
    """A paper's prediction beside an experiment of finite size.

    A study is a frozen dataclass; its fields are the settings of ``conf/theory/NAME.yaml``. It computes in float64,
    seeds are a dimension of its tensors, and a grid point's random numbers depend on ``seed`` and the point alone: so
    points can be computed in any order, and a study that was interrupted goes on with those that are left.

    Attributes:
        tables: Name of each table -> its columns. The first has the study's name.
        seed: Of all random numbers.
    """

    tables: ClassVar[Mapping[str, Sequence[str]]]
    seed: int

    @abstractmethod
    def points(self) -> list[Point]:
        """The grid, in the order of the tables' rows."""

    @abstractmethod
    def rows(self, point: Point, device: torch.device) -> Tables:
        """The rows of every table that a grid point gives."""

    @abstractmethod
    def checks(self, tables: Tables) -> Iterable[Check]:
        """What the paper predicts, held against the finished tables."""


@dataclass(frozen=True)
class Check:
    """A prediction held against a measurement: a row of summary.csv.

    Args:
        check: What is compared.
        case: Where: the grid point.
        predicted: By the theory; for an inequality the bound.
        measured: By the simulation.
        standard_error: Of ``measured``; 0 for what is not random.
        deviation: Relative, or as the name of the check says.
        tolerance: Of ``deviation``.
        passed: The verdict.
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
    """``|measured - predicted| <= tolerance |predicted| + 3.5 standard errors``; a NaN passes nothing."""
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
    """``measured <= bound``; the deviation is their difference."""
    return Check(f"{check} (at most)", case, bound, measured, 0.0, measured - bound, 0.0, measured <= bound)


class Draws:
    """The random numbers of a grid point, the same on every device and for every number of threads.

    Args:
        seed: Of the study.
        point: The grid point, or the part of it that the numbers are to depend on.
        device: Where the numbers go.
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
    """Mean over seeds, and its standard error (NaN of one seed).

    Args:
        samples: (seeds,).
    """
    spread = samples.std().item() if len(samples) > 1 else math.nan
    return samples.mean().item(), spread / math.sqrt(len(samples))


def relative(measured: float, predicted: float) -> float:
    """``measured / predicted - 1``; NaN without a prediction."""
    return measured / predicted - 1 if predicted else math.nan


def require_list(name: str, values: Sequence[Any], low: float, high: float = math.inf) -> None:
    """Refuse an empty list, and members that are not numbers in [``low``, ``high``].

    Raises:
        SettingError: The first that is wrong.
    """
    wanted = (
        f"a list of numbers in [{low:g}, {high:g}]" if high < math.inf else f"a list of numbers from {low:g}"
    )
    if not values:
        raise SettingError(name, values, wanted)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise SettingError(name, value, wanted)
