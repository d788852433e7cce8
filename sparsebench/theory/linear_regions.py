"""Univariate two-layer ReLU networks: their training on labels of alternating sign, and their linear regions.

``f(x) = sum_j v_j relu(w_j x + b_j)`` is affine between its kinks ``-b_j / w_j``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from sparsebench.theory.study import Draws

RATE = 0.02
FROM = 0.3
"""Mean loss below which steps are divided by the loss."""

LEAST = 1e-250
"""Mean loss at which training of a network stops."""

GAP = 0.15
"""Fraction of an interval without samples at either side of a change of sign."""


@dataclass(frozen=True)
class Networks:
    """Networks of one input; padding units are 0 and stay 0.

    Args:
        parts: (3, seeds, units) input weights w, biases b, output weights v.
    """

    parts: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (seeds, n) at x (n,) or (seeds, n)."""
        w, b, v = self.parts[:, :, None]
        return ((x.expand(len(w), -1)[:, :, None] * w + b).relu() * v).sum(2)

    def norms(self) -> Tensor:
        """Euclidean norm (seeds,) of all parameters."""
        return self.parts.square().sum((0, 2)).sqrt()


def samples(draws: Draws, seeds: int, n: int, changes: int) -> tuple[Tensor, Tensor]:
    """Sorted positions (seeds, n) in [-1, 1], and labels ±1 that change sign ``changes`` times at equal distances."""
    width = 2 / (changes + 1)
    position = draws.uniform(seeds, n) * (changes + 1)
    interval = position.floor()
    low = interval * width - 1 + torch.where(interval > 0, GAP * width, 0.0)
    high = (interval + 1) * width - 1 - torch.where(interval < changes, GAP * width, 0.0)
    places, order = (low + (position - interval) * (high - low)).sort(dim=1)
    return places, (1 - 2 * (interval % 2)).gather(1, order)


def initial(draws: Draws, seeds: int, width: int, units: int) -> Networks:
    """Networks of ``width`` random units, padded to ``units``."""
    deviations = (1.0, 0.5, 1 / math.sqrt(width))
    parts = torch.stack([draws.normal(seeds, width) * deviation for deviation in deviations])
    return Networks(torch.nn.functional.pad(parts, (0, units - width)))


def slopes(networks: Networks, x: Tensor, y: Tensor) -> tuple[Tensor, Networks]:
    """Mean logistic loss (seeds,) and its gradient, by sums over the samples on either side of each kink.

    Args:
        networks: (seeds, units).
        x: (seeds, n) sorted.
        y: (seeds, n) ±1.
    """
    w, b, v = networks.parts
    seeds, n = x.shape
    rising = w > 0  # active to the right of its kink, else to the left
    first = torch.searchsorted(x, -b / w)  # n for padding, which has weight 0
    spread = v * networks.parts[:2]
    signed = torch.where(rising, spread, -spread)
    steps = x.new_zeros(2, seeds, n + 1).scatter_add_(2, first.expand(2, -1, -1), signed)
    lines = steps.cumsum(2)[:, :, :n] + ((spread - signed) / 2).sum(2, keepdim=True)
    margins = y * (lines[0] * x + lines[1])
    pull = -y * torch.sigmoid(-margins) / n
    pulls = torch.stack([pull * x, pull])
    before = torch.cat([pulls.new_zeros(2, seeds, 1), pulls.cumsum(2)], dim=2)
    own = before.gather(2, first.expand(2, -1, -1))
    own = torch.where(rising, before[:, :, -1:] - own, own)
    loss = torch.nn.functional.softplus(-margins, threshold=800).mean(1)
    return loss, Networks(torch.cat([v * own, (networks.parts[:2] * own).sum(0, keepdim=True)]))


def trained(networks: Networks, x: Tensor, y: Tensor, steps: int) -> Networks:
    """Networks after gradient descent: steps divided by the loss, of at most 2 % of the parameters' norm.

    Args:
        networks: (seeds, units).
        x: (seeds, n) sorted.
        y: (seeds, n) ±1.
        steps: Maximum number; networks with a loss below 1e-250 stay unchanged.
    """
    with threadpool_limits(1), torch.inference_mode():
        for step in range(steps):
            loss, slope = slopes(networks, x, y)
            rate = torch.where(loss > LEAST, RATE / loss.clamp(LEAST, FROM), 0.0)[:, None]
            move = Networks(rate * slope.parts)  # the slope's squares may underflow
            size = (RATE * networks.norms() / move.norms().clamp(min=1e-100)).clamp(max=1)[:, None]
            networks = Networks(networks.parts - size * move.parts)
            if step % 200 == 0 and not (loss > LEAST).any():
                break
    return networks


def kinks(networks: Networks) -> Tensor:
    """Kinks (seeds,) inside (-1, 1)."""
    w, b, v = networks.parts
    return ((b.abs() < w.abs()) & (v != 0)).sum(1)


def affine_pieces(x: np.ndarray, y: np.ndarray, tolerance: float) -> int:
    """The minimum number of affine pieces, each of neighbouring positions, that are within ``tolerance`` of y.

    The longest first piece, then the longest next: a line fits while its slope is within what each pair allows.

    Args:
        x: (n,) increasing.
        y: (n,).
        tolerance: Above and below.
    """
    found, start, size = 0, 0, 64
    while start < len(x):
        found, low, high, stop = found + 1, -math.inf, math.inf, start + 1
        while stop < len(x):
            block = np.arange(stop, min(stop + size, len(x)))
            earlier = np.arange(start, block[-1])
            distance = x[block, None] - x[earlier]
            rise = y[block, None] - y[earlier]
            with np.errstate(divide="ignore", invalid="ignore"):
                least = np.where(distance > 0, (rise - 2 * tolerance) / distance, -math.inf).max(1)
                most = np.where(distance > 0, (rise + 2 * tolerance) / distance, math.inf).min(1)
            lows = np.maximum.accumulate(np.maximum(least, low))
            highs = np.minimum.accumulate(np.minimum(most, high))
            if (lows > highs).any():
                stop += int((lows > highs).argmax())
                break
            low, high, stop = lows[-1], highs[-1], int(block[-1]) + 1
        start = stop
    return found
