"""Distributions of the eigenvalues of ``X'X / n`` for ``n`` independent rows of ``p`` variables, with ``q = p / n``.

The bulk (Marchenko and Pastur, Math. USSR-Sbornik 1967; Silverstein, J. Multivariate Analysis 1995), its edges with
their fluctuations (Johnstone, Annals of Statistics 2001; El Karoui, Annals of Probability 2007), and eigenvalues that
leave it (Baik, Ben Arous, Peche, Annals of Probability 2005; Paul, Statistica Sinica 2007). The Tracy-Widom law is
computed as a Fredholm determinant (Ferrari and Spohn, J. Physics A 2005; Bornemann, Mathematics of Computation 2010).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq, elementwise
from scipy.special import airy, ndtr

TW_MEAN, TW_SD = -1.2065335745820, math.sqrt(1.6077810345810)
"""Mean and standard deviation of the Tracy-Widom law of real matrices."""

TW_RANGE = (-10.0, 10.0)
"""Outside this range its distribution function is 0 or 1 to 1e-13."""

SLACK = 1e-9
"""Relative margin by which a bracket exceeds the bounds of its root."""


@dataclass(frozen=True)
class MarchenkoPastur:
    """Limit of the eigenvalues of white data.

    Args:
        q: Variables over samples, in (0, 1].
        variance: Variance of an entry.
    """

    q: float
    variance: float = 1.0

    @property
    def edges(self) -> tuple[float, float]:
        """Smallest and largest eigenvalue (variance)."""
        root = math.sqrt(self.q)
        return self.variance * (1 - root) ** 2, self.variance * (1 + root) ** 2

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """Fraction of eigenvalues up to ``x`` (variance), of any shape."""
        low, high = MarchenkoPastur(self.q).edges
        x = np.clip(np.asarray(x, dtype=float) / self.variance, low, high)
        below, above = x - low, high - x
        # Arctangent of (r² - 1) / 2r with r² = above / below.
        angle = np.arctan2(above - below, 2 * np.sqrt(above * below))
        other = np.arctan2(low * above - high * below, 2 * (1 - self.q) * np.sqrt(above * below))
        other = np.where(
            (1 - self.q) * above * below > 0, other, np.sign(low * above - high * below) * math.pi / 2
        )
        total = math.pi * self.q + np.sqrt(above * below) - (1 + self.q) * angle + (1 - self.q) * other
        return np.clip(total / (2 * math.pi * self.q), 0.0, 1.0)

    def quantile(self, fraction: np.ndarray) -> np.ndarray:
        """Quantiles: eigenvalues (variance) below which the given fractions, each in [0, 1], lie."""
        unit = MarchenkoPastur(self.q)
        found = elementwise.find_root(
            lambda x, wanted: unit.cdf(x) - wanted, unit.edges, args=(np.asarray(fraction),)
        )
        return np.asarray(self.variance * found.x)


# --------------------------------------------------------------------------------------- Tracy and Widom's law


@cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(60)


def tracy_widom(s: float) -> float:
    """Distribution function of the Tracy-Widom law of real matrices: ``det(1 - Ai(x + y + s))`` on x, y > 0."""
    if not TW_RANGE[0] < s < TW_RANGE[1]:
        return float(s > 0)
    nodes, weights = _nodes()
    half = (16 - s) / 2  # beyond 16 the Airy function is below 1e-19
    x, root = half * (nodes + 1), np.sqrt(half * weights)
    kernel = airy(x[:, None] + x + s)[0]
    return float(np.linalg.det(np.eye(len(x)) - root[:, None] * kernel * root))


@cache
def tracy_widom_quantile(fraction: float) -> float:
    """The inverse of :func:`tracy_widom`, of a probability in (0, 1)."""
    return float(brentq(lambda s: tracy_widom(s) - fraction, *TW_RANGE, xtol=1e-12))


# ---------------------------------------------------------------------------------- the largest eigenvalue


@dataclass(frozen=True)
class Largest:
    """Predictions for the largest sample eigenvalue.

    Args:
        edge: Upper edge of the bulk (variance).
        mean: Mean of the largest eigenvalue, with the finite-size correction if it is known (variance).
        sd: Its standard deviation (variance).
        over: Probability that it exceeds the largest true eigenvalue.
        overlap: Squared cosine of its eigenvector with the spike's; NaN without a spike.
    """

    edge: float
    mean: float
    sd: float
    over: float
    overlap: float = math.nan


def _tracy_widom_law(
    edge: float, centre: float, scale: float, true: float, overlap: float = math.nan
) -> Largest:
    over = 1 - tracy_widom((true - centre) / scale)
    return Largest(edge, centre + TW_MEAN * scale, TW_SD * scale, over, overlap)


def white(n: int, p: int) -> Largest:
    """Prediction for ``n`` samples of ``p`` independent variables of variance 1, with Johnstone's centring."""
    return _white(n, p, 1.0)


def _white(n: int, p: int, true: float, overlap: float = math.nan) -> Largest:
    a, b = math.sqrt(n - 1), math.sqrt(p)
    return _tracy_widom_law(
        (1 + math.sqrt(p / n)) ** 2, (a + b) ** 2 / n, (a + b) * (1 / a + 1 / b) ** (1 / 3) / n, true, overlap
    )


def bbp_threshold(q: float) -> float:
    """The variance up to which a spike over a bulk of variance 1 is not detectable (BBP threshold)."""
    return 1 + math.sqrt(q)


def spiked(n: int, p: int, spike: float) -> Largest:
    """Prediction for variables of variance 1 except one of variance ``spike``, which leaves the bulk or not."""
    q = p / n
    if spike <= bbp_threshold(q):
        return _white(n, p, spike, overlap=0.0)
    ratio = q / (spike - 1) ** 2
    mean, sd = spike * (1 + q / (spike - 1)), spike * math.sqrt(2 * (1 - ratio) / n)
    overlap = (1 - ratio) / (1 + q / (spike - 1))
    return Largest((1 + math.sqrt(q)) ** 2, mean, sd, float(ndtr((mean - spike) / sd)), overlap)


def general(n: int, variances: np.ndarray) -> Largest:
    """Prediction for variables of any variances without a spike: the edge with its Tracy-Widom fluctuation.

    Args:
        n: Samples, more than variables.
        variances: (p,) true eigenvalues.
    """
    t, fractions, q = variances, np.full(len(variances), 1 / len(variances)), len(variances) / n
    w = _edge_place(t, fractions, q, upper=True)
    cube = w**3 + q * np.mean((t * w / (w - t)) ** 3)
    edge = _image(w, t, fractions, q)
    return _tracy_widom_law(edge, edge, float(cube) ** (1 / 3) / n ** (2 / 3), float(t.max()))


def edges(variances: np.ndarray, fractions: np.ndarray, q: float) -> tuple[float, float]:
    """Lower and upper edge of the limit of the sample eigenvalues (variance).

    Args:
        variances: (atoms,) true eigenvalues.
        fractions: (atoms,) fractions of the variables; their sum is 1.
        q: Variables over samples, below 1.
    """
    places = (_edge_place(variances, fractions, q, upper) for upper in (False, True))
    low, high = (_image(w, variances, fractions, q) for w in places)
    return low, high


# With m the companion transform and w = -1/m, the sample eigenvalue is x = w + q mean(t + t²/(w - t)).


def _image(w: float, t: np.ndarray, fractions: np.ndarray, q: float) -> float:
    return float(w + q * (fractions * t * w / (w - t)).sum())


def _edge_place(t: np.ndarray, fractions: np.ndarray, q: float, upper: bool) -> float:
    """The ``w`` outside of ``t`` at which ``dx/dw = 1 - q mean(t²/(w - t)²)`` vanishes."""
    i, sign = (int(t.argmax()), 1) if upper else (int(t.argmin()), -1)

    def slope(distance: float) -> float:
        return float(1 - q * (fractions * (t / (t[i] + sign * distance - t)) ** 2).sum())

    # Bounds: all others far away, or at the same place.
    low, high = (
        t[i] * math.sqrt(q * fractions[i]),
        t[i] * math.sqrt(q),
    )
    distance = brentq(slope, low * (1 - SLACK), high * (1 + SLACK), xtol=1e-15 * t[i], rtol=1e-14)
    return float(t[i] + sign * distance)


@dataclass(frozen=True)
class Bulk:
    """The limit of the sample eigenvalues on a grid, with weights for integrals over them.

    Args:
        x: (points,) sample eigenvalues (variance), ascending.
        mass: (points,) fractions of the eigenvalues near each; their sum is 1 up to the quadrature error.
        shrunk: (points,) the mean of ``v'Cv`` over the sample eigenvectors ``v`` near each (variance).
    """

    x: np.ndarray
    mass: np.ndarray
    shrunk: np.ndarray


def bulk(variances: np.ndarray, fractions: np.ndarray, q: float, points: int = 4000) -> Bulk:
    """The limit of the sample eigenvalues for a true spectrum of atoms, and their best shrinkage.

    On a curve ``w = a + ib`` of the upper half plane the sample eigenvalue is real; there ``b`` solves
    ``q mean(t²/((a - t)² + b²)) = 1``, whose left side falls in ``b``: a bracketed root for each ``a``.

    Args:
        variances: (atoms,) true eigenvalues.
        fractions: (atoms,) fractions of the variables; their sum is 1.
        q: Variables over samples, below 1.
        points: Number of grid points.
    """
    t, squares = variances, q * fractions * variances**2
    low, high = (_edge_place(t, fractions, q, upper) for upper in (False, True))
    angles = (np.arange(points) + 0.5) * math.pi / points
    a = (low + high) / 2 - (high - low) / 2 * np.cos(angles)
    steps = (high - low) / 2 * np.sin(angles) * math.pi / points

    def excess(square: np.ndarray, a: np.ndarray) -> np.ndarray:
        return np.asarray((squares / ((a[..., None] - t) ** 2 + square[..., None])).sum(-1) - 1)

    inside = excess(np.full_like(a, 1e-300), a) > 0  # no eigenvalues lie in the gaps between
    a, steps = a[inside], steps[inside]
    square = elementwise.find_root(
        excess, (np.full_like(a, 1e-300), np.full_like(a, squares.sum())), args=(a,)
    ).x
    w = a + 1j * np.sqrt(square)
    x = (w + q * (fractions * t * w[:, None] / (w[:, None] - t)).sum(-1)).real
    slope = 1 - (squares / (w[:, None] - t) ** 2).sum(-1)  # dx/dw
    density = w.imag / np.abs(w) ** 2 / (math.pi * q)
    return Bulk(x, density * steps / (1 / slope).real, np.abs(w) ** 2 / x)
