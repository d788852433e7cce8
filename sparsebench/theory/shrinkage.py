"""Covariance estimators that keep the sample's eigenvectors: shrinkage of its eigenvalues, and the optimal one.

The loss of eigenvalues ``e`` is ``|E - C|² / N = mean(C²) - 2 mean(e o) + mean(e²)`` with ``o = v'Cv`` of the sample's
eigenvectors ``v``: those are the oracle's eigenvalues.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf_shrinkage, oas
from torch import Tensor

from sparsebench.theory import spectra


@dataclass(frozen=True)
class Sample:
    """Eigenvalues and eigenvectors of ``X'X / T``, of Gaussian rows of independent variables.

    Args:
        values: (batch, N) ascending (variance).
        oracle: (batch, N) ``v'Cv`` of each eigenvector (variance).
    """

    values: Tensor
    oracle: Tensor

    @classmethod
    def of(cls, data: Tensor, variances: Tensor) -> Sample:
        """The sample of ``data`` (batch, T, N), whose columns have the ``variances`` (batch or 1, N)."""
        values, vectors = torch.linalg.eigh(data.mT @ data / data.shape[1])
        return cls(values, (vectors**2 * variances[..., None]).sum(-2))

    def loss(self, estimate: Tensor, variances: Tensor) -> Tensor:
        """``|E - C|² / N``: (batch,), of eigenvalues (batch, N) in the order of the sample's."""
        return (variances**2).mean(-1) + (estimate**2 - 2 * estimate * self.oracle).mean(-1)


# ------------------------------------------------------------------------- estimates from the eigenvalues


def rotationally_invariant(values: Tensor, q: float) -> Tensor:
    """The estimator of Ledoit and Peche as Bun, Bouchaud and Potters compute it, without their correction.

    Args:
        values: (..., N) sample eigenvalues (variance).
        q: Variables over samples, below 1.
    """
    return _rotationally_invariant(values, q)[0]


def corrected(values: Tensor, q: float) -> Tensor:
    """As :func:`rotationally_invariant`, with the correction of small eigenvalues, and with the sample's trace."""
    estimate, z, scale = _rotationally_invariant(values, q)
    low = (values.min(-1, keepdim=True).values / scale).to(z.dtype)
    root = math.sqrt(q)
    variance, high = low / (1 - root) ** 2, low * ((1 + root) / (1 - root)) ** 2
    white = (z + variance * (q - 1) - (z - low).sqrt() * (z - high).sqrt()) / (2 * q * z * variance)
    factor = variance.real * (1 - q + q * z * white).abs() ** 2 / (values / scale)
    estimate = estimate * factor.clamp(min=1)
    return estimate * values.sum(-1, keepdim=True) / estimate.sum(-1, keepdim=True)


def _rotationally_invariant(values: Tensor, q: float) -> tuple[Tensor, Tensor, Tensor]:
    """The estimate, the points of the complex plane, and the unit: the formula assumes eigenvalues of mean 1."""
    scale = values.mean(-1, keepdim=True)
    unit, count = values / scale, values.shape[-1]
    z = torch.complex(unit, torch.full_like(unit, -1 / math.sqrt(count)))
    inverse = 1 / (z[..., :, None] - unit[..., None, :])
    others = (inverse.sum(-1) - inverse.diagonal(dim1=-2, dim2=-1)) / count
    return values / (1 - q + q * z * others).abs() ** 2, z, scale


def nonlinear_ledoit_wolf(values: Tensor, n: int) -> Tensor:
    """Analytical nonlinear shrinkage: density and Hilbert transform by Epanechnikov's kernel of local bandwidth.

    Args:
        values: (..., p) sample eigenvalues (variance).
        n: Samples, more than variables.
    """
    concentration, width = values.shape[-1] / n, values[..., None, :] / n ** (1 / 3)
    x = (values[..., :, None] - values[..., None, :]) / width
    bump = 3 / (4 * math.sqrt(5)) * (1 - x**2 / 5)
    density = (bump.clamp(min=0) / width).mean(-1)
    edge = x.abs() == math.sqrt(5)  # where 0 stands before an infinite logarithm
    logarithm = ((math.sqrt(5) - x) / (math.sqrt(5) + x)).abs().masked_fill(edge, 1).log()
    hilbert = ((-3 * x / (10 * math.pi) + bump / math.pi * logarithm) / width).mean(-1)
    real = 1 - concentration - math.pi * concentration * values * hilbert
    return values / ((math.pi * concentration * values * density) ** 2 + real**2)


def clipped(values: Tensor, q: float) -> Tensor:
    """Clipping: eigenvalues inside the bulk of white data of the same mean are replaced by their mean.

    Args:
        values: (..., N) sample eigenvalues (variance).
        q: Variables over samples.
    """
    inside = values <= values.mean(-1, keepdim=True) * (1 + math.sqrt(q)) ** 2
    mean = (values * inside).sum(-1, keepdim=True) / inside.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(inside, mean, values)


def towards_mean(values: Tensor, intensity: Tensor) -> Tensor:
    """Linear shrinkage of eigenvalues (..., N) to their mean, by intensities (...) in [0, 1]."""
    return (1 - intensity[..., None]) * values + intensity[..., None] * values.mean(-1, keepdim=True)


def linear_intensities(data: Tensor) -> dict[str, Tensor]:
    """Ledoit and Wolf's (``lw_linear``) and the oracle-approximating (``oas``) intensity of data (batch, T, N)."""
    own = data.cpu().numpy()
    found = {
        "lw_linear": [ledoit_wolf_shrinkage(rows, assume_centered=True) for rows in own],
        "oas": [oas(rows, assume_centered=True)[1] for rows in own],
    }
    return {name: torch.as_tensor(np.array(fractions)).to(data) for name, fractions in found.items()}


def estimates(sample: Sample, n: int, intensities: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Estimator -> its eigenvalues (batch, N), in the order of the sample's.

    Args:
        sample: Sample of ``n`` rows.
        n: Rows, more than N.
        intensities: Linear estimator -> its intensities (batch,), of :func:`linear_intensities`.
    """
    values, p = sample.values, sample.values.shape[-1]
    return {
        "sample": values,
        "clipped": clipped(values, p / n),
        **{name: towards_mean(values, fraction) for name, fraction in intensities.items()},
        "rie_raw": rotationally_invariant(values, p / n),
        "rie": corrected(values, p / n),
        "lw_nonlinear": nonlinear_ledoit_wolf(values, n),
        "oracle": sample.oracle,
    }


# ------------------------------------------------------------------------------ limits of many variables


@dataclass(frozen=True)
class Limits:
    """Losses (variance²) with infinitely many variables.

    Args:
        sample: Loss of the sample's eigenvalues.
        linear: Loss of the best linear shrinkage.
        oracle: Loss of the best eigenvalues for the sample's eigenvectors.
        intensity: Intensity of the best linear shrinkage.
    """

    sample: float
    linear: float
    oracle: float
    intensity: float


def limits_of_atoms(variances: np.ndarray, fractions: np.ndarray, q: float) -> Limits:
    """For a true spectrum of atoms (atoms,) with their fractions (atoms,), and ``q`` variables per sample."""
    first, second = (fractions * variances).sum(), (fractions * variances**2).sum()
    bulk = spectra.bulk(variances, fractions, q)
    return _limits(q, first, second, float(second - (bulk.mass * bulk.shrunk**2).sum()))


def limits_of_inverse_wishart(q_prior: float, q: float) -> Limits:
    """For ``C = (1 - q_prior) W^-1`` with ``W`` a white Wishart matrix of ratio ``q_prior``: linear is best."""
    spread = q_prior / (1 - q_prior)
    return _limits(q, 1.0, 1 + spread, spread * q / (spread + q))


def _limits(q: float, first: float, second: float, oracle: float) -> Limits:
    bias, noise = second - first**2, q * first**2
    return Limits(
        sample=float(noise),
        linear=float(bias * noise / (bias + noise)),
        oracle=oracle,
        intensity=float(noise / (bias + noise)),
    )
