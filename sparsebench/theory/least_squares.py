"""Least squares with many features: the limit of the estimate, and the risk after pruning it.

The estimate is ``beta_hat ~ mean + factor g`` with ``g ~ N(0, I)``: independent coordinates in the eigenbasis of the
features' covariance (Chang, Li, Oymak, Thrampoulidis, AAAI 2021; ridgeless limit of Hastie et al., Annals 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

LOG_TOLERANCE = 1e-13
"""Tolerance of the logarithm of a root."""


@dataclass(frozen=True)
class Limit:
    """The limit of least squares with ``n`` samples, in the eigenbasis of the covariance.

    Args:
        risk: Test risk of the unpruned estimate (y²).
        xi: Effective inverse ridge (1 / feature variance); infinite with fewer features than samples.
        gamma: ``(p / n) risk``, of the paper; NaN with fewer features than samples.
        mean: (p,) mean of the estimate.
        deviation: (p,) standard deviation of the estimate's coordinates.
    """

    risk: float
    xi: float
    gamma: float
    mean: Tensor
    deviation: Tensor


def limit(variances: Tensor, target: Tensor, noise: float, n: int) -> Limit:
    """The minimum-norm interpolator with more features than samples, ordinary least squares with fewer.

    Args:
        variances: (p,) eigenvalues of the features' covariance; some may be 0 if more than ``n`` are not.
        target: (p,) the true coefficients in its eigenbasis.
        noise: Variance not explained by the features (y²).
        n: Samples; not ``p``.
    """
    p = len(variances)
    if p == n:
        raise ValueError("the risk is infinite where there are as many features as samples")
    if p < n:
        deviation = (noise / ((n - p) * variances)).sqrt()
        return Limit(noise * n / (n - p), math.inf, math.nan, target, deviation)
    xi = effective_xi(variances.cpu().numpy(), n)
    shrinkage = xi * variances / (1 + xi * variances)
    bias = (variances * target**2 / (1 + xi * variances) ** 2).sum()
    risk = ((noise + bias) / (1 - (shrinkage**2).sum() / n)).item()
    deviation = math.sqrt(risk / n) * xi * variances.sqrt() / (1 + xi * variances)
    return Limit(risk, xi, p / n * risk, shrinkage * target, deviation)


def effective_xi(variances: np.ndarray, n: int) -> float:
    """The root of ``sum_i xi v_i / (1 + xi v_i) = n``, with more variances above 0 than ``n``."""
    variances = variances[variances > 0]
    p = len(variances)
    low, high = math.log(n / (p * variances.max())), math.log(n / ((p - n) * variances.min()))

    def excess(log_xi: float) -> float:
        scaled = math.exp(log_xi) * variances
        return float((scaled / (1 + scaled)).sum() - n)

    return math.exp(brentq(excess, low - 1e-9, high + 1e-9, xtol=LOG_TOLERANCE, rtol=1e-14))


def thresholded(
    variances: Tensor, target: Tensor, found: Limit, noise: float, keep: int, weights: Tensor
) -> float:
    """Risk after keeping the ``keep`` coordinates of largest ``weights |beta_hat|``, of independent coordinates.

    Args:
        variances: (p,) variances of the features.
        target: (p,) the true coefficients.
        found: Limit of the estimate.
        noise: Variance not explained by the features (y²).
        keep: Number of coordinates kept.
        weights: (p,) 1 for magnitude, the square root of the variances for OBD's saliency.
    """
    mean, spread = found.mean, found.deviation
    if keep == len(variances):
        return found.risk

    def removed(log_t: float) -> tuple[Tensor, Tensor, Tensor]:
        low, high = (-math.exp(log_t) / weights - mean) / spread, (math.exp(log_t) / weights - mean) / spread
        return low, high, torch.special.ndtr(high) - torch.special.ndtr(low)

    top = math.log(((mean.abs() + 40 * spread) * weights).max().item())
    log_t = brentq(lambda t: (1 - removed(t)[2]).sum().item() - keep, top - 60, top, xtol=LOG_TOLERANCE)
    low, high, fraction = removed(log_t)
    gap = target - mean
    inside = gap**2 * fraction - 2 * gap * spread * (_density(low) - _density(high))
    inside = inside + spread**2 * (fraction + low * _density(low) - high * _density(high))
    return noise + (variances * (target**2 * fraction + gap**2 + spread**2 - inside)).sum().item()


def on_support(variances: Tensor, target: Tensor, found: Limit, noise: float, kept: Tensor) -> float:
    """Risk after keeping a support that does not depend on the data, of independent coordinates.

    Args:
        variances: (p,) variances of the features.
        target: (p,) the true coefficients.
        found: Limit of the estimate.
        noise: Variance not explained by the features (y²).
        kept: (p,) True, or the probability with which a coordinate is kept.
    """
    fraction = kept.to(variances.dtype)
    error = (target - found.mean) ** 2 + found.deviation**2
    return noise + (variances * (fraction * error + (1 - fraction) * target**2)).sum().item()


def retrained(covariance: Tensor, target: Tensor, noise: float, kept: Tensor, n: int) -> float:
    """Exact risk, for Gaussian features, of least squares on a support that does not depend on the data.

    Args:
        covariance: (p, p) covariance of the features.
        target: (p,) the true coefficients.
        noise: Variance not explained by the features (y²).
        kept: Indices of the support, fewer than ``n - 1``.
        n: Samples.
    """
    cross = covariance @ target
    explained = cross[kept] @ torch.linalg.solve(covariance[kept][:, kept], cross[kept])
    unseen = noise + (target @ cross - explained).item()
    return unseen * (1 + len(kept) / (n - len(kept) - 1))


def _density(x: Tensor) -> Tensor:
    return torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def estimate(features: Tensor, targets: Tensor) -> Tensor:
    """Least squares; of all solutions the one of least norm.

    Args:
        features: (seeds, n, p), p not n.
        targets: (seeds, n).

    Returns:
        (seeds, p).
    """
    n, p = features.shape[1:]
    transposed = features.transpose(1, 2)
    if p > n:
        return (transposed @ _solved(features @ transposed, targets)).squeeze(-1)
    return _solved(transposed @ features, (transposed @ targets[..., None]).squeeze(-1)).squeeze(-1)


def estimate_on(features: Tensor, targets: Tensor, kept: Tensor) -> Tensor:
    """Least squares on the columns ``kept`` (seeds, s) of ``features``; zero elsewhere: (seeds, p)."""
    seeds, n, p = features.shape
    own = features.gather(2, kept[:, None, :].expand(seeds, n, -1))
    return features.new_zeros(seeds, p).scatter(1, kept, estimate(own, targets))


def largest(scores: Tensor, keep: int) -> Tensor:
    """Indices (seeds, keep) of the largest scores (seeds, p); in case of ties the first."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :keep]


def pruned(coefficients: Tensor, kept: Tensor) -> Tensor:
    """Coefficients (seeds, p) with zeros off ``kept`` (seeds, s)."""
    return torch.zeros_like(coefficients).scatter(-1, kept, coefficients.gather(-1, kept))


def _solved(gram: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right[..., None], torch.linalg.cholesky(gram))
