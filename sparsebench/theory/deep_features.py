"""Deep random features: coefficients of a layer, covariance, and the error of ridge regression on them.

Features ``phi_l = act(W_l phi_{l-1})`` with weights of variance ``1 / k_{l-1}`` behave in the limit like Gaussian ones
of covariance ``kappa1² W Omega W^T + kappa_star² I`` (Schroeder, Cui, Dmitriev, Loureiro, ICML 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.integrate import quad
from scipy.optimize import bisect, brentq
from torch import Tensor

from sparsebench.theory.study import Draws

Activation = Callable[[Tensor], Tensor]

WIDEST = 12.0
"""Standard deviations over which expectations are integrated."""


@dataclass(frozen=True)
class Layer:
    """Gaussian equivalent of a layer for inputs of variance ``r``: ``act(u) - mean ~ kappa1 u + kappa_star z``.

    Args:
        r: Variance of the inputs.
        mean: ``E act(u)``, which is subtracted.
        kappa1: ``E u act(u) / r``.
        kappa_star: Root of ``Var act(u) - r kappa1²``.
        variance: ``Var act(u)``, the next layer's ``r``.
    """

    r: float
    mean: float
    kappa1: float
    kappa_star: float
    variance: float


def layer(act: Activation, r: float) -> Layer:
    """The coefficients of an activation; it may have a kink or a jump at 0."""

    def expectation(function: Callable[[float, float], float]) -> float:
        def density(z: float) -> float:
            u = math.sqrt(r) * z
            value = act(torch.tensor([u], dtype=torch.float64)).item()
            return function(u, value) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

        parts = (
            quad(density, *ends, epsabs=1e-13, epsrel=1e-12, limit=200)
            for ends in ((-WIDEST, 0), (0, WIDEST))
        )
        return float(sum(value for value, _ in parts))

    mean = expectation(lambda u, value: value)
    kappa1 = expectation(lambda u, value: u * value) / r
    variance = expectation(lambda u, value: (value - mean) ** 2)
    return Layer(r, mean, kappa1, math.sqrt(max(variance - r * kappa1**2, 0.0)), variance)


def layers(act: Activation, depth: int, r: float = 1.0) -> list[Layer]:
    """The coefficients of every layer of a deep network; ``r`` is the variance of its inputs."""
    found: list[Layer] = []
    for _ in range(depth):
        found.append(layer(act, found[-1].variance if found else r))
    return found


@dataclass(frozen=True)
class Network:
    """Deep random features of all seeds.

    Args:
        act: The activation.
        layers: Coefficients of each layer.
        weights: Weights of each layer, (seeds, k_l, k_{l-1}).
    """

    act: Activation
    layers: Sequence[Layer]
    weights: Sequence[Tensor]

    @classmethod
    def drawn(cls, act: Activation, depth: int, d: int, k: int, seeds: int, draws: Draws) -> Network:
        """``depth`` layers of ``k`` units on ``d`` inputs, weights of variance one over their number."""
        shapes = [(k, d), *[(k, k)] * (depth - 1)]
        weights = [draws.normal(seeds, *shape) / math.sqrt(shape[1]) for shape in shapes]
        return cls(act, layers(act, depth), weights)

    def covariance(self) -> Tensor:
        """Linearised covariance (seeds, k, k) of the last layer's features, of inputs with covariance I."""
        omega: Tensor | None = None
        for weight, own in zip(self.weights, self.layers, strict=True):
            inner = weight if omega is None else weight @ omega
            omega = own.kappa1**2 * inner @ weight.transpose(-1, -2)
            omega = omega + own.kappa_star**2 * torch.eye(
                len(omega[0]), dtype=omega.dtype, device=omega.device
            )
        assert omega is not None
        return omega

    def features(self, inputs: Tensor) -> Tensor:
        """Real features (seeds, n, k) of inputs (seeds, n, d)."""
        found = inputs
        for weight, own in zip(self.weights, self.layers, strict=True):
            found = self.act(found @ weight.transpose(-1, -2)) - own.mean
        return found

    def linearisation_error(self, samples: int, draws: Draws) -> float:
        """Relative distance (Frobenius) of the covariance from its linearisation: from two halves, without bias."""
        omega, (seeds, _, d) = self.covariance(), self.weights[0].shape
        first, second = (self.features(draws.normal(seeds, samples, d)) for _ in range(2))
        gaps = [phi.transpose(1, 2) @ phi / samples - omega for phi in (first, second)]
        squared = (gaps[0] * gaps[1]).sum((1, 2)).mean() / (omega**2).sum((1, 2)).mean()
        return squared.clamp(min=0).sqrt().item()

    def sign_teacher(self, inputs: Tensor, units: int, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """A target of sign units outside the span of the features.

        Args:
            inputs: (seeds, n, d).
            units: Number of units of the target.
            draws: Random numbers for its weights.

        Returns:
            The target (seeds, n), its best fit by features over the root of k (seeds, k), and the residual variance
            (seeds,).
        """
        omega = self.covariance()
        seeds, d, k = len(omega), inputs.shape[-1], omega.shape[-1]
        own, readout = layer(torch.sign, 1.0), draws.normal(seeds, units, 1) / math.sqrt(units)
        rows = draws.normal(seeds, units, d) / math.sqrt(d)
        cross = own.kappa1 * rows.transpose(1, 2) @ readout  # E x y
        for weight, coefficient in zip(self.weights, self.layers, strict=True):
            cross = coefficient.kappa1 * weight @ cross  # E phi y
        best = torch.linalg.solve(omega, cross)
        gram = own.kappa1**2 * rows @ rows.transpose(1, 2)
        power = (readout * (gram @ readout + own.kappa_star**2 * readout)).sum((1, 2))
        target = (torch.sign(inputs @ rows.transpose(1, 2)) @ readout).squeeze(-1)
        return target, math.sqrt(k) * best.squeeze(-1), power - (cross * best).sum((1, 2))


@dataclass(frozen=True)
class Ridge:
    """Result of ridge regression on features.

    Args:
        nu: Effective regularisation.
        df1: Degrees of freedom.
        df2: The same of second order.
        test: Mean squared test error, noise included.
        train: Mean squared training error.
    """

    nu: float
    df1: float
    df2: float
    test: float
    train: float


def conditional(values: Tensor, target: Tensor, noise: float, lam: float, n: int) -> Ridge:
    """The equivalent of ridge regression for given weights.

    Args:
        values: (k,) eigenvalues of the features' covariance over ``k``.
        target: (k,) coefficients of the target in its eigenbasis.
        noise: Variance not explained by the features.
        lam: Ridge, on features over the root of ``k``.
        n: Samples.
    """

    def df1(log_nu: float) -> float:
        return float((values / (values + math.exp(log_nu))).sum())

    high = math.log(lam / n + values.sum().item() / n) + 1e-9
    low = math.log(lam / n) - 1e-9
    if df1(low) >= n:  # the roots lie where the features do not interpolate
        low = brentq(lambda t: df1(t) - n, low, high, xtol=1e-13)
    log_nu = brentq(lambda t: math.exp(t) * (1 - df1(t) / n) - lam / n, low, high, xtol=1e-13)
    nu, first = math.exp(log_nu), df1(log_nu)
    second = float(((values / (values + nu)) ** 2).sum())
    bias = nu**2 * (values * target**2 / (values + nu) ** 2).sum().item()
    test = (noise + bias) / (1 - second / n)
    return Ridge(nu, first, second, test, (lam / (n * nu)) ** 2 * test)


def deterministic(
    widths: Sequence[int], coefficients: Sequence[Layer], noise: float, lam: float, n: int
) -> Ridge:
    """The same without drawing weights, for a target ``theta*.phi / sqrt(k)`` with ``theta* ~ N(0, I)``.

    Each layer is a free convolution with a Marchenko-Pastur law and a shift, explicit in the scalar of the layer
    below: one root is found for any depth.

    Args:
        widths: ``(d, k_1, ..., k_L)``.
        coefficients: Coefficients of each layer.
        noise: Variance of the target's noise.
        lam: Ridge.
        n: Samples.
    """

    def climbed(log_nu: float) -> tuple[float, float, float] | None:
        """(nu, D, D') of the top, D the degrees of freedom tr Omega (Omega + nu)^-1; None below the range."""
        d, nu = widths[0], math.exp(log_nu)
        degrees, slope = d / (1 + nu), -d / (1 + nu) ** 2
        for below, above, own in zip(widths, widths[1:], coefficients, strict=False):
            if degrees >= above:
                return None
            scale = own.kappa1**2 * above / below
            q = scale * nu * (1 - degrees / above)
            q_slope = scale * (1 - degrees / above - nu * slope / above)
            z = q - own.kappa_star**2
            if z <= 0:
                return None
            trace = (above - degrees) / q
            trace_slope = (-slope / q - (above - degrees) * q_slope / q**2) / q_slope
            nu, degrees, slope = z, above - z * trace, -(trace + z * trace_slope)
        return (nu, degrees, slope) if degrees < n else None

    k = widths[-1]

    def excess(log_nu: float) -> float:
        top = climbed(log_nu)
        return -1.0 if top is None else n * top[0] / k * (1 - top[1] / n) - lam

    found = climbed(bisect(excess, -60, 60, xtol=1e-14, rtol=1e-15, maxiter=500)) or climbed(60.0)
    assert found is not None
    nu, degrees, slope = found
    second = degrees + nu * slope
    test = (noise + nu / k * (degrees - second)) / (1 - second / n)
    return Ridge(nu / k, degrees, second, test, (lam * k / (n * nu)) ** 2 * test)


def resolvent(design: Tensor, lam: float) -> Tensor:
    """``tr (A^T A + lam)^-1 / k`` (seeds,) of ``design`` A (seeds, n, k)."""
    spectrum = torch.linalg.eigvalsh(design.transpose(1, 2) @ design).clamp(min=0)
    return (1 / (spectrum + lam)).mean(1)


def ridge(design: Tensor, targets: Tensor, lam: float) -> Tensor:
    """Ridge regression (seeds, k) of ``design`` (seeds, n, k) on ``targets`` (seeds, n)."""
    n, k = design.shape[-2:]
    transposed = design.transpose(-1, -2)
    eye = torch.eye(min(n, k), dtype=design.dtype, device=design.device)
    if n < k:
        factor = torch.linalg.cholesky(design @ transposed + lam * eye)
        return (transposed @ torch.cholesky_solve(targets[..., None], factor)).squeeze(-1)
    factor = torch.linalg.cholesky(transposed @ design + lam * eye)
    return torch.cholesky_solve(transposed @ targets[..., None], factor).squeeze(-1)
