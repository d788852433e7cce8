"""Estimates of all pruning methods on the same data, and their risks beside the predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sparsebench.theory import least_squares as ls
from sparsebench.theory.study import Row, mean_and_error, relative


def supports(
    found: Tensor, hessian: Tensor, contribution: Tensor, chance: Tensor, keep: int
) -> dict[str, Tensor]:
    """Method -> indices kept, (seeds, keep)."""
    scores = {
        "magnitude": found.abs(),
        "hessian": found**2 * hessian,
        "oracle": contribution,
        "random": chance,
    }
    return {method: ls.largest(score, keep) for method, score in scores.items()}


def estimates(
    features: Tensor, targets: Tensor, found: Tensor, kept: Mapping[str, Tensor], n: int
) -> Iterator[tuple[tuple[str, bool], Tensor]]:
    """(method, retrain) with its coefficients (seeds, p)."""
    yield ("none", False), found
    for method, support in kept.items():
        yield (method, False), ls.pruned(found, support)
        if support.shape[1] < n - 1:  # beyond, least squares on it interpolates, and the risk has no mean
            yield (method, True), ls.estimate_on(features, targets, support)


def on_fixed(
    covariance: Tensor, target: Tensor, noise: float, kept: Tensor, mean: Tensor, factor: Tensor
) -> float:
    """Risk after keeping the indices ``kept`` of an estimate ``mean + factor g``, of correlated features.

    Args:
        covariance: (p, p) of the features.
        target: (p,) the true coefficients.
        noise: Variance of what the features do not explain (y²).
        kept: Indices, which do not depend on the data.
        mean: (p,) of the estimate.
        factor: (p, p).
    """
    error = target - torch.zeros_like(mean).index_copy(0, kept, mean[kept])
    inside = (factor @ factor.T)[kept][:, kept] * covariance[kept][:, kept]
    return noise + (error @ covariance @ error + inside.sum()).item()


def against(risks: Tensor, theory: Tensor) -> Row:
    """Risks of all seeds beside their predictions; the error is that of their difference.

    Args:
        risks: (seeds,).
        theory: (seeds or 1, draws or 1).
    """
    theory = theory.to(risks)
    measured, error = mean_and_error(risks)
    if len(theory) > 1:  # the prediction knows each seed's features
        _, error = mean_and_error(risks - theory.mean(1))
    elif theory.shape[1] > 1:
        error = math.hypot(error, mean_and_error(theory[0])[1])
    predicted = theory.mean().item()
    return {
        "theory_risk": predicted, "mc_risk": measured, "se_risk": error, "rel_dev": relative(measured, predicted),
        "seeds": len(risks),
    }  # fmt: skip


def gaussianity(residuals: Tensor) -> Row:
    """How far standardised residuals are from N(0, 1)."""
    values = residuals.flatten().sort().values
    steps = torch.arange(len(values) + 1, dtype=values.dtype, device=values.device) / len(values)
    law = torch.special.ndtr(values)
    distance = torch.maximum((law - steps[:-1]).abs().max(), (steps[1:] - law).abs().max())
    return {
        "pooled_mean": values.mean().item(),
        "pooled_std": values.std().item(),
        "ks_distance": distance.item(),
    }
