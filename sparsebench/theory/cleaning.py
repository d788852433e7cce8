"""Covariance estimators and their losses: a part of the study of random matrices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsebench.theory import shrinkage
from sparsebench.theory.study import Check, Draws, Point, Row, Tables, below, close, mean_and_error, relative

PRIORS = ("inverse_wishart", "atoms")
TOLERANCE = {
    "sample": 0.02,
    "oracle": 0.02,
    "lw_linear": 0.02,
    "oas": 0.02,
    "lw_nonlinear": 0.04,
    "rie": 0.07,
}
LARGE = 300
"""Number of variables from which the losses are compared with their limits."""

SHOWN = ("rie", "lw_nonlinear", "lw_linear", "oracle")


def points(own: Mapping[str, Any]) -> Iterator[Point]:
    """Every size with every prior."""
    for prior in own["priors"]:
        yield from ({"prior": prior, "N": count, "T": samples} for count, samples in own["sizes"])


def rows(own: Mapping[str, Any], point: Point, draws: Draws) -> Tables:
    """One row per estimator, and the estimated eigenvalues of the first draw."""
    count, samples, seeds, q = point["N"], point["T"], own["seeds"], point["N"] / point["T"]
    if point["prior"] == "atoms":
        atoms, fractions = np.array(own["atoms"], dtype=float).T
        ends = np.rint(fractions.cumsum() * count).astype(int)
        found = np.repeat(atoms, np.diff(ends, prepend=0))
        variances = torch.as_tensor(found).to(draws.device).expand(seeds, count)
        limits = shrinkage.limits_of_atoms(atoms, fractions, q)
    else:
        variances = _inverse_wishart(own["q_prior"], count, seeds, draws)
        limits = shrinkage.limits_of_inverse_wishart(own["q_prior"], q)
    data = draws.normal(seeds, samples, count) * variances[:, None].sqrt()
    sample = shrinkage.Sample.of(data, variances)
    intensity = shrinkage.linear_intensities(data)
    made = {**shrinkage.estimates(sample, samples, intensity), "true": variances.sort(-1).values}
    losses = {name: sample.loss(estimate, variances) for name, estimate in made.items()}
    theory = {
        "sample": limits.sample, "lw_linear": limits.linear, "oas": limits.linear, "oracle": limits.oracle,
        "rie_raw": limits.oracle, "rie": limits.oracle, "lw_nonlinear": limits.oracle,
    }  # fmt: skip
    return {
        "cleaning": [
            {
                **point, "q": q, "estimator": name,
                **_against(loss, theory.get(name, math.nan)),
                "prial": _prial(loss.mean().item(), losses), "prial_theory": _limit_of_prial(theory.get(name), limits),
                "shrink_theory": limits.intensity if name in intensity else math.nan,
                "shrink_mc": intensity[name].mean().item() if name in intensity else math.nan,
                "seeds": seeds,
            }
            for name, loss in losses.items()
        ],
        "shrinkage": _shown(point, sample, made),
    }  # fmt: skip


def _inverse_wishart(q_prior: float, count: int, seeds: int, draws: Draws) -> Tensor:
    """Eigenvalues (seeds, count) of ``(1 - q_prior) W^-1``, with ``W`` white Wishart of ratio ``q_prior``."""
    freedom = round(count / q_prior)
    factors = draws.normal(seeds, freedom, count)
    return (1 - q_prior) / torch.linalg.eigvalsh(factors.mT @ factors / freedom)


def _against(losses: Tensor, theory: float) -> Row:
    mean, error = mean_and_error(losses)
    return {"theory_loss": theory, "mc_loss": mean, "se": error, "rel_dev": relative(mean, theory)}


def _prial(loss: float, losses: Mapping[str, Tensor]) -> float:
    """Percentage relative improvement in average loss: 0 for the sample's eigenvalues, 100 for the oracle's."""
    sample, oracle = losses["sample"].mean().item(), losses["oracle"].mean().item()
    return 100 * (sample - loss) / (sample - oracle)


def _limit_of_prial(loss: float | None, limits: shrinkage.Limits) -> float:
    return math.nan if loss is None else 100 * (limits.sample - loss) / (limits.sample - limits.oracle)


def _shown(point: Point, sample: shrinkage.Sample, made: Mapping[str, Tensor]) -> list[Row]:
    columns = {"sample": sample.values[0], **{name: made[name][0] for name in SHOWN}}
    values = {name: column.tolist() for name, column in columns.items()}
    return [{**point, **dict(zip(values, each, strict=True))} for each in zip(*values.values(), strict=True)]


def checks(rows: Iterable[Row]) -> Iterator[Check]:
    """Losses compared with their limits for many variables, and the order of the estimators."""
    cases: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        cases.setdefault((row["prior"], row["N"], row["T"]), {})[row["estimator"]] = row
    for (prior, count, samples), found in cases.items():
        if count < LARGE:
            continue
        case = f"{prior} N={count} T={samples}"
        for name, tolerance in TOLERANCE.items():
            row = found[name]
            yield close(f"loss, {name}", case, row["theory_loss"], row["mc_loss"], tolerance, row["se"])
        loss = {name: row["mc_loss"] for name, row in found.items()}
        yield from _ordered(("oracle", "lw_nonlinear", "rie", "sample"), loss, case)
        if prior == "atoms":
            yield from _ordered(("lw_nonlinear", "lw_linear"), loss, case)
            yield from _ordered(("rie", "lw_linear"), loss, case)


def _ordered(names: Sequence[str], loss: Mapping[str, float], case: str) -> Iterator[Check]:
    for better, worse in pairwise(names):
        yield below(f"loss of {better} against {worse}", case, loss[worse], loss[better])
