"""Estimates of all pruning methods on the same data, and their risks with the predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsebench.theory import least_squares as ls
from sparsebench.theory.study import Draws, Row, mean_and_error, relative


@dataclass(frozen=True)
class Problem:
    """Least squares on correlated features: one problem, with the data of all seeds, or one for each seed.

    Args:
        covariance: (problems, p, p) covariance of the features.
        target: (problems, p) the true coefficients.
        unseen: (problems,) variance not explained by the features (y²).
        features: (seeds, n, p).
        targets: (seeds, n).
    """

    covariance: Tensor
    target: Tensor
    unseen: Tensor
    features: Tensor
    targets: Tensor

    def risk(self, coefficients: Tensor) -> Tensor:
        """Risk of coefficients (problems, any number, p): (problems, any number)."""
        error = self.target[:, None] - coefficients
        return self.unseen[:, None] + ((error @ self.covariance) * error).sum(-1)

    def rows(self, keep: int, number: int, draws: Draws) -> Iterator[Row]:
        """One row per method, with and without retraining.

        Args:
            keep: Number of features kept.
            number: Number of draws of the limit for a prediction; there is no closed form after pruning.
            draws: Random numbers for those and for random supports.
        """
        problems, (seeds, n, p) = len(self.target), self.features.shape
        diagonal = self.covariance.diagonal(dim1=1, dim2=2)
        found = ls.estimate(self.features, self.targets)
        kept = supports(
            found, (self.features**2).mean(1), diagonal * self.target**2, draws.uniform(seeds, p), keep
        )
        limits = self._limits(n)
        predicted = self._predicted(limits, keep, number, draws)
        for (method, retrain), coefficients in estimates(self.features, self.targets, found, kept, n):
            theory = predicted.get((method, retrain), torch.full((1, 1), math.nan))
            yield {
                "method": method,
                "retrain": retrain,
                "keep": p if method == "none" else keep,
                "sigma2_eff": self.unseen.mean().item(),
                "xi": sum(found.xi for found, _, _ in limits) / problems,
                "gamma": sum(found.gamma for found, _, _ in limits) / problems,
                **against(self.risk(coefficients.reshape(problems, -1, p)).reshape(seeds), theory),
            }

    def _limits(self, n: int) -> list[tuple[ls.Limit, Tensor, Tensor]]:
        """(limit, mean, factor) of each problem: the estimate is ``mean + factor g``.

        The factor is the symmetric one. ``u * deviation`` has the same law, but draws other estimates for other signs
        of the eigenvectors, or another basis of those of equal eigenvalues, and no two libraries choose the same.
        """
        found = []
        values, vectors = torch.linalg.eigh(self.covariance)
        for v, u, target, unseen in zip(values, vectors, self.target, self.unseen, strict=True):
            # Rounding may give slightly negative zeros.
            limit = ls.limit(v.clamp(min=0), u.T @ target, float(unseen), n)
            found.append((limit, u @ limit.mean, (u * limit.deviation) @ u.T))
        return found

    def _predicted(
        self, limits: Sequence[tuple[ls.Limit, Tensor, Tensor]], keep: int, number: int, draws: Draws
    ) -> dict[tuple[str, bool], Tensor]:
        """(method, retrain) -> risks (problems, draws or 1), where there is a prediction."""
        (problems, p), n = self.target.shape, self.features.shape[1]
        means = torch.stack([mean for _, mean, _ in limits])
        factors = torch.stack([factor for _, _, factor in limits])
        drawn = means[:, None] + draws.normal(number, p) @ factors.transpose(1, 2)  # (problems, draws, p)
        diagonal = self.covariance.diagonal(dim1=1, dim2=2)[:, None].expand_as(drawn)
        contribution = diagonal * self.target[:, None] ** 2
        found = {("none", False): torch.tensor([[limit.risk] for limit, _, _ in limits], dtype=torch.float64)}
        chances = draws.uniform(problems, number, p)
        for method, support in supports(drawn, diagonal, contribution, chances, keep).items():
            found[method, False] = self.risk(ls.pruned(drawn, support))
        exact, fixed = [], []
        for i, (_, mean, factor) in enumerate(limits):
            own, covariance = ls.largest(contribution[i, 0], keep), self.covariance[i]
            error = self.target[i] - torch.zeros_like(mean).index_copy(0, own, mean[own])
            inside = (factor @ factor.T)[own][:, own] * covariance[own][:, own]
            fixed.append([float(self.unseen[i] + error @ covariance @ error + inside.sum())])
            if keep < n - 1:
                exact.append([ls.retrained(covariance, self.target[i], float(self.unseen[i]), own, n)])
        found["oracle", False] = torch.tensor(fixed, dtype=torch.float64)
        return {**found, **({("oracle", True): torch.tensor(exact, dtype=torch.float64)} if exact else {})}


def supports(
    found: Tensor, hessian: Tensor, contribution: Tensor, chance: Tensor, keep: int
) -> dict[str, Tensor]:
    """Method -> indices kept (..., keep); coefficients are the last dimension."""
    scores = {
        "magnitude": found.abs(),
        "hessian": found**2 * hessian,
        "oracle": contribution,
        "random": chance,
    }
    return {method: ls.largest(score.expand(found.shape), keep) for method, score in scores.items()}


def estimates(
    features: Tensor, targets: Tensor, found: Tensor, kept: Mapping[str, Tensor], n: int
) -> Iterator[tuple[tuple[str, bool], Tensor]]:
    """(method, retrain) with its coefficients (seeds, p)."""
    yield ("none", False), found
    for method, support in kept.items():
        yield (method, False), ls.pruned(found, support)
        if support.shape[1] < n - 1:  # beyond, least squares on it interpolates, and the risk has no mean
            yield (method, True), ls.estimate_on(features, targets, support)


def against(risks: Tensor, theory: Tensor) -> Row:
    """Risks of all seeds with their predictions; the error is that of their difference.

    Args:
        risks: (seeds,).
        theory: (seeds or 1, draws or 1).
    """
    theory = theory.to(risks)
    measured, error = mean_and_error(risks)
    if len(theory) > 1:  # the prediction is conditional on each seed's features
        _, error = mean_and_error(risks - theory.mean(1))
    elif theory.shape[1] > 1:
        error = math.hypot(error, mean_and_error(theory[0])[1])
    predicted = theory.mean().item()
    return {
        "theory_risk": predicted,
        "mc_risk": measured,
        "se_risk": error,
        "rel_dev": relative(measured, predicted),
        "seeds": len(risks),
    }


def gaussianity(residuals: Tensor) -> Row:
    """Deviation of standardised residuals from N(0, 1)."""
    values = residuals.flatten().sort().values
    steps = torch.arange(len(values) + 1, dtype=values.dtype, device=values.device) / len(values)
    law = torch.special.ndtr(values)
    distance = torch.maximum((law - steps[:-1]).abs().max(), (steps[1:] - law).abs().max())
    return {
        "pooled_mean": values.mean().item(),
        "pooled_std": values.std().item(),
        "ks_distance": distance.item(),
    }
