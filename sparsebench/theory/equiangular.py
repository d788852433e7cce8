"""Equiangular ReLU students of many-node targets: their closed forms, and the search for the best student.

A student ``sum_j a_j relu(u_j.x)`` of ``m`` units imitates ``g(x) = (1/N) sum_i relu(w_i.x)``, x ~ N(0, I). Its excess
is ``E (f - g)² - E g²``: negative, the lower the better. ``alpha_j = a_j |u_j|``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from sparsebench.theory.lbfgs import least
from sparsebench.theory.relu_kernel import energy, moment, row_moment


@dataclass(frozen=True)
class Frame:
    """The best equiangular student.

    Args:
        excess: Error minus the target's energy (y²).
        alpha: Output weight times norm of a unit.
        cosine: Cosine of the angle between two units.
        axis: Cosine of the angle between a unit and the mean of the target's units; NaN without a mean.
    """

    excess: float
    alpha: float
    cosine: float
    axis: float


def simplex(units: int, pull: float) -> Frame:
    """The simplex: the best student of a target of no preferred direction, if it fits: units <= inputs + 1.

    Beyond, its excess is a bound: ``h`` is convex and increasing.

    Args:
        units: m >= 2.
        pull: ``E relu(u.x) g(x)`` of every unit vector u.
    """
    cosine = -1 / (units - 1)
    total = _row(units, cosine)
    return Frame(-units * pull**2 / total, pull / total, cosine, math.nan)


def tilted(units: int, mean: float) -> Frame:
    """The best student of units ``w = m + g / sqrt(d)``, g ~ N(0, I), of many inputs d and many nodes.

    All its units have one angle to the mean ``m``, and off it they form a simplex.

    Args:
        units: m >= 2, at most the inputs.
        mean: ``|m|``.
    """
    length = math.sqrt(1 + mean**2)

    def excess(theta: float) -> tuple[float, Frame]:
        axis = math.cos(theta)
        cosine = axis**2 - math.sin(theta) ** 2 / (units - 1)
        total, pull = _row(units, cosine), length * _moment(mean / length * axis)
        return -units * pull**2 / total, Frame(-units * pull**2 / total, pull / total, cosine, axis)

    grid = np.linspace(0, math.pi / 2, 65)
    best = int(np.argmin([excess(theta)[0] for theta in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, 64)])
    found = minimize_scalar(
        lambda theta: excess(theta)[0], bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    return excess(float(found.x))[1]


def mean_target(inputs: int, mean: float) -> tuple[Tensor, Tensor]:
    """A single ReLU unit (1, inputs + 1) that pulls units (of last coordinate 0) as infinitely many nodes do.

    Args:
        inputs: Number of inputs of the student.
        mean: Length of the nodes' mean, along the first coordinate; 0 for exact nodes of finitely many inputs.

    Returns:
        The unit, and its output weight (1,).
    """
    unit = torch.zeros(1, inputs + 1, dtype=torch.float64)
    unit[0, 0], unit[0, -1] = mean, 1.0
    return unit, torch.ones(1, dtype=torch.float64) * (1.0 if mean else 2 * math.pi * row_moment(inputs))


def best_student(
    start: Tensor, targets: Tensor, target_outputs: Tensor, change: float = 1e-15
) -> tuple[float, Tensor]:
    """Local minimum of the excess over units of outputs 1 / m, by L-BFGS.

    ReLU is homogeneous: for outputs > 0 their lengths say all; to search over both would add flat directions.

    Args:
        start: (m, d) units.
        targets: (n, D) units; where D > d, the student's further coordinates stay 0.
        target_outputs: (n,).
        change: Change of the excess in a step at which the search stops.

    Returns:
        Excess, and units (m, d).
    """
    m, d = start.shape
    rest, outputs = start.new_zeros(m, targets.shape[1] - d), start.new_full((m,), 1 / m)

    def value(units: Tensor) -> tuple[Tensor, Tensor]:
        found, slope, _ = energy(torch.cat([units, rest], dim=1), outputs, targets, target_outputs)
        return found, slope[:, :d]

    return least(value, start, change=change)


def worst_direction(nodes: Tensor) -> float:
    """``max over unit u of 2 |mean_i k(u, w_i) - E k(u, w)|``, the maximum deviation of a unit's error.

    Args:
        nodes: (n, d) drawn from N(0, I / d).
    """
    n, d = nodes.shape
    weights, one = torch.full((n,), 1 / n, dtype=nodes.dtype, device=nodes.device), nodes.new_ones(1)

    def value(unit: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        length = unit.norm()
        direction = unit / length
        found, by_unit, _ = energy(direction[None], one, nodes, weights)  # 1/2 - 2 mean k
        slope = by_unit[0] - (by_unit[0] @ direction) * direction
        return sign * found, sign * slope / length

    mean, expected = nodes.mean(0), 0.5 - 2 * row_moment(d)
    signs = (1.0, -1.0)  # the lowest energy is along the mean, the highest against it
    extremes = [sign * least(partial(value, sign=sign), sign * mean / mean.norm())[0] for sign in signs]
    return max(abs(extreme - expected) for extreme in extremes)


def target_energy(mean: float) -> float:
    """``E g²`` of infinitely many nodes of mean length ``mean``: 1 / (2 pi) without one."""
    square = 1 + mean**2
    return square * _moment(mean**2 / square)


def _moment(cosine: float) -> float:
    return moment(torch.tensor(cosine, dtype=torch.float64)).item()


def _row(units: int, cosine: float) -> float:
    """``sum_k h(cos(u_j, u_k))`` of equiangular units."""
    return 0.5 + (units - 1) * _moment(cosine)
