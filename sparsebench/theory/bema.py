"""Number of eigenvalues outside the noise bulk: bulk eigenvalue matching analysis, for noise of one variance.

Ke, Ma, Lin: Estimation of the number of spiked eigenvalues in a covariance matrix by bulk eigenvalue matching
analysis. JASA 2021, arXiv 2006.00436. Of ``p`` eigenvalues the k-th is matched to the quantile of ``(k - 1/2) / p``:
that of ``k / p`` would be off by half a rank.

The law of noise holds for entries of any distribution when there are many. With few, entries of excess kurtosis ``k``
(sparse noise: ``3 / density - 3``) move the upper edge by ``k (1 + sqrt(q))² / (sqrt(q) n)`` of their variance: that is
what the mean correction of Bai and Silverstein (Annals of Probability 2004), with the fourth moment's term of Pan and
Zhou (Annals of Applied Probability 2008), amounts to at the edge. It falls as ``1 / n``, the edge's own fluctuation as
``n^(-2/3)``: for noise of 90 % zeros it is the larger one at every size of a layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsebench.theory.spectra import MarchenkoPastur, tracy_widom_quantile

FEWEST = 4
"""Minimum number of eigenvalues for a fit."""


@dataclass(frozen=True)
class Fit:
    """Noise and spikes of a spectrum.

    Args:
        variance: Variance of the noise entries.
        edge: Upper edge of its bulk (variance).
        shift: Shift of the edge due to the kurtosis of the entries (variance).
        threshold: Eigenvalues above it are spikes, before the shift (variance).
        uncorrected: Number of eigenvalues above the threshold.
        spikes: Number of eigenvalues above the threshold with the shift.
        distance: Kolmogorov distance of the other eigenvalues from the fitted law.
    """

    variance: float
    edge: float
    shift: float
    threshold: float
    uncorrected: int
    spikes: int
    distance: float


def fit(values: np.ndarray, n: int, alpha: float, beta: float, cumulant: float = 0.0) -> Fit:
    """Match the bulk's eigenvalues to the law's quantiles, then count those beyond its edge.

    Args:
        values: (p,) eigenvalues of ``X'X / n`` ascending, at least 4.
        n: Samples, at least p.
        alpha: Fraction excluded at each end when estimating the variance, in (0, 0.5).
        beta: Probability that the largest noise eigenvalue is counted as a spike.
        cumulant: Fourth cumulant of the entries, ``E x⁴ - 3 (E x²)²``.
    """
    p, q = len(values), len(values) / n
    ranks = np.arange(max(math.floor(p * alpha), 1), math.floor(p * (1 - alpha)) + 1)
    expected, found = MarchenkoPastur(q).quantile((ranks - 0.5) / p), values[ranks - 1]
    variance = float((found * expected).sum() / (expected**2).sum())
    law, root = MarchenkoPastur(q, variance), math.sqrt(q)
    edge, width = law.edges[1], n ** (-2 / 3) * q ** (-1 / 6) * (1 + root) ** (4 / 3)
    threshold = edge + variance * tracy_widom_quantile(1 - beta) * width
    shift = cumulant / variance * (1 + root) ** 2 / (root * n)
    bulk = values[values <= threshold + shift]
    steps, fraction = np.arange(len(bulk) + 1) / max(len(bulk), 1), law.cdf(bulk)
    distance = (
        max(np.abs(fraction - steps[:-1]).max(), np.abs(steps[1:] - fraction).max())
        if len(bulk)
        else math.nan
    )
    above = int((values > threshold).sum())
    return Fit(variance, edge, shift, threshold, above, p - len(bulk), float(distance))
