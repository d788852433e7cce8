"""The largest eigenvalue of a sample covariance and its predictions: a part of the study of random matrices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from sparsebench.theory import spectra
from sparsebench.theory.study import (
    ERRORS,
    Check,
    Draws,
    Point,
    Row,
    below,
    close,
    mean_and_error,
    near,
    relative,
)

SPECTRA = ("uniform", "halves", "geometric")
LARGE = 100
"""Number of variables beyond which fewer seeds are used."""

NUMBERS = 2**24
"""Entries of a batch of data: 128 MB."""


def points(own: Mapping[str, Any]) -> Iterator[Point]:
    """White data, data with one spike, general spectra, and small cases with a known bound only."""
    for n, p in own["sizes"]:
        yield {"spectrum": "white", "n": n, "p": p}
    for n, p in own["spiked_sizes"]:
        yield from ({"spectrum": "spiked", "n": n, "p": p, "spike": spike} for spike in own["spikes"])
    for spectrum in own["spectra"]:
        for q in own["ratios"]:
            yield from ({"spectrum": spectrum, "n": round(p / q), "p": p} for p in own["variables"])
    for centred in (False, True):
        for p in own["small"]:
            yield {"spectrum": "small", "n": max(4, 2 * p), "p": p, "centred": centred}


def row(own: Mapping[str, Any], point: Point, draws: Draws) -> Row:
    """The row of a grid point."""
    n, p, spectrum, spike = point["n"], point["p"], point["spectrum"], point.get("spike", math.nan)
    variances = _variances(spectrum, p, spike)
    seeds = own["small_seeds"] if spectrum == "small" else own["seeds" if p <= LARGE else "large_seeds"]
    largest, smallest, overlap = _simulated(variances, n, seeds, draws, point)
    law, true = _law(spectrum, n, variances, spike), float(variances.max())
    low, high = spectra.edges(variances, np.full(p, 1 / p), p / n)
    mean, error = mean_and_error(largest)
    overlap_mean, overlap_error = mean_and_error(overlap)
    return {
        "spectrum": spectrum, "n": n, "p": p, "q": p / n, "spike": spike, "centred": point.get("centred", False),
        "true_max": true, "edge": law.edge if law else high, "tw_mean": law.mean if law else math.nan,
        "tw_sd": law.sd if law else math.nan, "mc_mean": mean, "se": error, "mc_sd": largest.std().item(),
        "rel_dev": relative(mean, law.mean) if law else math.nan,
        "overlap_theory": law.overlap if law else math.nan, "overlap_mc": overlap_mean, "overlap_se": overlap_error,
        "p_over_theory": law.over if law else math.nan, "p_over_mc": (largest > true).double().mean().item(),
        "p_over_bound": float(chi2.sf(n, n - point.get("centred", False))),
        "true_min": float(variances.min()), "lower_edge": low, "mc_min": smallest.mean().item(), "seeds": seeds,
    }  # fmt: skip


def _variances(spectrum: str, p: int, spike: float) -> np.ndarray:
    """True eigenvalues: 100 values for a named spectrum, each repeated equally often."""
    if spectrum in ("white", "spiked"):
        found = np.ones(p)
        found[0] = spike if spectrum == "spiked" else 1
        return found
    if spectrum == "small":
        return np.linspace(3, 1, p)
    few = min(p, 100)
    base = {
        "uniform": np.linspace(1, 3, few),
        "halves": np.where(np.arange(few) < few // 2, 1.0, 3.0),
        "geometric": np.geomspace(1, 10, few),
    }[spectrum]
    return np.repeat(base, p // few)


def _law(spectrum: str, n: int, variances: np.ndarray, spike: float) -> spectra.Largest | None:
    if spectrum == "small":
        return None
    if spectrum == "white":
        return spectra.white(n, len(variances))
    return spectra.spiked(n, len(variances), spike) if spectrum == "spiked" else spectra.general(n, variances)


def _simulated(
    variances: np.ndarray, n: int, seeds: int, draws: Draws, point: Point
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest and smallest eigenvalue, and the squared cosine with the spike (NaN without): each (seeds,)."""
    deviations = torch.as_tensor(np.sqrt(variances)).to(draws.device)
    batch, found = max(1, NUMBERS // (n * len(variances))), []
    for start in range(0, seeds, batch):
        data = draws.normal(min(batch, seeds - start), n, len(variances)) * deviations
        if point.get("centred"):
            data = data - data.mean(1, keepdim=True)
        gram = data.mT @ data / n
        if point["spectrum"] == "spiked":
            values, vectors = torch.linalg.eigh(gram)
            overlap = vectors[:, 0, -1] ** 2
        else:
            values = torch.linalg.eigvalsh(gram)
            overlap = torch.full_like(values[:, 0], math.nan)
        found.append(torch.stack([values[:, -1], values[:, 0], overlap]))
    largest, smallest, overlap = torch.cat(found, 1)
    return largest, smallest, overlap


def checks(rows: Iterable[Row]) -> Iterator[Check]:
    """Means, standard deviations and eigenvectors compared with predictions, or with bounds if there is none."""
    for row in rows:
        case = _case(row)
        if row["spectrum"] == "small":
            yield from _bounds(row, case)
            continue
        if row["spectrum"] == "spiked":
            distance = row["spike"] / spectra.bbp_threshold(row["q"]) - 1
            if abs(distance) < 0.2:  # near the transition neither law holds at finite size
                continue
            yield near(
                "overlap with the spike",
                case, row["overlap_theory"], row["overlap_mc"], 0.02, row["overlap_se"],
            )  # fmt: skip
        tolerance = 0.01
        if row["spectrum"] in SPECTRA:
            tolerance = 0.015 if row["p"] < 400 else 0.006
        yield close("largest eigenvalue", case, row["tw_mean"], row["mc_mean"], tolerance, row["se"])
        if row["seeds"] >= 200:
            yield close("its standard deviation", case, row["tw_sd"], row["mc_sd"], 0.15)
        yield below("smallest eigenvalue, on average", case, row["true_min"], row["mc_min"])


def _bounds(row: Row, case: str) -> Iterator[Check]:
    """Two inequalities at any size: the mean is biased upwards, and a draw is too large with a known probability."""
    factor = 1 - 1 / row["n"] if row["centred"] else 1.0
    yield below(
        "true largest eigenvalue, compared with the sample mean plus 3.5 standard errors",
        case, row["mc_mean"] + ERRORS * row["se"], factor * row["true_max"],
    )  # fmt: skip
    error = math.sqrt(row["p_over_bound"] * (1 - row["p_over_bound"]) / row["seeds"])
    yield below(
        "bound on the probability of over-estimation, compared with the frequency plus 3.5 standard errors",
        case, row["p_over_mc"] + ERRORS * error, row["p_over_bound"],
    )  # fmt: skip


def _case(row: Row) -> str:
    kind = {
        "spiked": f"spike {row['spike']:g}",
        "small": "small, " + ("centred" if row["centred"] else "known mean"),
    }
    return f"{kind.get(row['spectrum'], row['spectrum'])} n={row['n']} p={row['p']}"
