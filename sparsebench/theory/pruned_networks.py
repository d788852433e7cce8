"""Random ReLU networks and their pruned copies: layers, pruning, operator norms, and the wide limit of the gap."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse.linalg import svds
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from sparsebench.theory.relu_kernel import moment
from sparsebench.theory.study import Draws

DISTRIBUTIONS = ("gauss", "uniform")
METHODS = ("random", "magnitude")


def lost_energy(dist: str, method: str, rho: float) -> float:
    """Fraction ``E[w²; removed] / E[w²]`` of a layer's energy that goes with a fraction ``rho`` of its weights.

    Args:
        dist: Distribution of the weights: gauss or uniform, of mean 0.
        method: random, or magnitude, which removes the smallest.
        rho: In (0, 1).
    """
    if method == "random":
        return rho
    if dist == "uniform":
        return rho**3
    t = math.sqrt(2) * torch.erfinv(torch.tensor(rho, dtype=torch.float64)).item()
    return rho - math.sqrt(2 / math.pi) * t * math.exp(-(t**2) / 2)


def gap(eta: float, depth: int) -> tuple[float, float]:
    """``E |F - f|² / E |F|²`` of a wide network and its pruned copy, and the same of the copy rescaled.

    Per layer the correlation of the two falls by ``sqrt(1 - eta)`` and rises with ReLU. Rescaling gives the pruned
    layers the energy they had.

    Args:
        eta: Fraction of every layer's energy that was removed.
        depth: Weight matrices, or convolutions.
    """
    left = math.sqrt(1 - eta)
    correlation = torch.tensor(left, dtype=torch.float64)
    for _ in range(depth - 1):
        correlation = left * 2 * moment(correlation)
    r = correlation.item()
    return 1 - 2 * r * left**depth + left ** (2 * depth), 2 - 2 * r


def removed_norm(eta: float, energy: float) -> float:
    """Operator norm of the weights removed from a wide layer: 2 sqrt(eta energy).

    Args:
        eta: Fraction of the energy that was removed.
        energy: Variance of a weight times the inputs of a unit; 2 keeps the signal's size through ReLU.
    """
    return 2 * math.sqrt(eta * energy)


def layers(draws: Draws, dist: str, energy: float, *shape: int) -> Tensor:
    """Independent layers (seeds, outputs, inputs[, kernel, kernel]) of weights of mean 0.

    Args:
        draws: Random numbers for the weights.
        dist: gauss or uniform.
        energy: Variance of a weight times the inputs of a unit.
        shape: Shape of the result.
    """
    deviation = math.sqrt(energy / math.prod(shape[2:]))
    if dist == "gauss":
        return draws.normal(*shape) * deviation
    return (2 * draws.uniform(*shape) - 1) * (math.sqrt(3) * deviation)


def pruned(weights: Tensor, scores: Tensor, removed: int) -> Tensor:
    """``weights`` without the ``removed`` ones of lowest ``scores`` in each layer; both (seeds, ...)."""
    edges = scores.flatten(1).kthvalue(removed, dim=1).values
    return weights * (scores > edges.view(-1, *[1] * (scores.ndim - 1)))


def dense(weights: Tensor, inputs: Tensor) -> Tensor:
    """Layers (seeds, m, d) on inputs (seeds, n, d): (seeds, n, m)."""
    return inputs @ weights.transpose(1, 2)


def circular(weights: Tensor, inputs: Tensor) -> Tensor:
    """Convolutions (seeds, c, d, k, k) on inputs (seeds, n, d, side, side) with periodic padding."""
    seeds, outputs, _, size, _ = weights.shape
    joined = inputs.transpose(0, 1).flatten(1, 2)  # one group of channels per seed
    half = (size - 1) // 2
    padded = functional.pad(joined, (half, size - 1 - half) * 2, mode="circular")
    found = functional.conv2d(padded, weights.flatten(0, 1), groups=seeds)
    return found.unflatten(1, (seeds, outputs)).transpose(0, 1)


def dense_norm(weights: Tensor) -> float:
    """Operator norm of a matrix (m, d)."""
    matrix = weights.cpu().numpy()
    start = np.ones(min(matrix.shape))  # not random, so that all digits are reproducible
    with threadpool_limits(1, user_api="blas"):  # more threads do not speed up many small products
        # The error is second order in the tolerance.
        return float(svds(matrix, k=1, return_singular_vectors=False, tol=1e-4, v0=start)[0])


def circular_norm(weights: Tensor, side: int) -> float:
    """Operator norm of a periodic convolution (c, d, k, k) on images of ``side``²: the largest over frequencies."""
    frequencies = torch.fft.rfft2(weights, s=(side, side)).flatten(2).permute(2, 0, 1)
    return torch.linalg.matrix_norm(frequencies, 2).max().item()


def product_bound(norms: Tensor) -> float:
    """Bound on ``|F(x) - f(x)| / |x|`` from operator norms: one layer is exchanged after the other.

    Args:
        norms: (layers, 3) of the layer, of its pruned copy, and of their difference.
    """
    whole, copy, difference = norms.T
    return sum(
        (whole[:i].prod() * difference[i] * copy[i + 1 :].prod()).item() for i in range(len(difference))
    )


def ratio(parts: Tensor, wholes: Tensor) -> tuple[float, float]:
    """``E part / E whole`` with its standard error; both (seeds,)."""
    found = (parts.sum() / wholes.sum()).item()
    spread = ((parts - found * wholes) / wholes.mean()).std().item() if len(parts) > 1 else math.nan
    return found, spread / math.sqrt(len(parts))
