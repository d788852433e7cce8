"""Learning labels from random features and from Gaussian ones of the same covariance: universality of the error."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from sparsebench.theory import deep_features as df
from sparsebench.theory.study import Draws, Row, mean_and_error

LOSSES = ("squared", "logistic", "hinge")


def compared(
    loss: str, network: df.Network, samples: tuple[int, int], lam: float, noise: float, draws: Draws
) -> Row:
    """Test error and loss on labels ``sign(theta*.phi / sqrt(k) + noise)``, of real and of Gaussian features.

    Args:
        loss: One of :data:`LOSSES`.
        network: Network that computes the features.
        samples: Number of samples for training and for the test.
        lam: Ridge, as in :func:`learnt`.
        noise: Variance of the noise under the sign.
        draws: Random numbers for inputs, target and noise.

    Returns:
        ``{real,gaussian}_{error,loss}`` with standard errors, and ``theory_loss`` of the squared loss.
    """
    (n, test), omega = samples, network.covariance()
    seeds, k = omega.shape[:2]
    real = network.features(draws.normal(seeds, n + test, network.weights[0].shape[-1]))
    gaussian = draws.normal(seeds, n + test, k) @ torch.linalg.cholesky(omega).transpose(1, 2)
    theta, noises = draws.normal(seeds, k, 1), math.sqrt(noise) * draws.normal(seeds, n + test)
    row: Row = {"theory_loss": _squared(omega, theta, noise, lam, n) if loss == "squared" else math.nan}
    for name, phi in (("real", real / math.sqrt(k)), ("gaussian", gaussian / math.sqrt(k))):
        labels = torch.where((phi @ theta).squeeze(-1) + noises < 0, -1.0, 1.0).to(phi)
        found = learnt(loss, phi[:, :n], labels[:, :n], lam)
        margins = (phi[:, n:] @ found[..., None]).squeeze(-1) * labels[:, n:]
        losses = {"squared": (1 - margins) ** 2, "hinge": (1 - margins).relu()}
        value = losses.get(loss, torch.nn.functional.softplus(-margins)).mean(1)
        row[f"{name}_error"], row[f"se_{name}_error"] = mean_and_error((margins <= 0).to(phi).mean(1))
        row[f"{name}_loss"], row[f"se_{name}_loss"] = mean_and_error(value)
    return row


def learnt(loss: str, design: Tensor, labels: Tensor, lam: float) -> Tensor:
    """Coefficients (seeds, k) of least sum of losses plus ``lam / 2 ||theta||²`` (squared: ``lam ||theta||²``).

    Args:
        loss: One of :data:`LOSSES`.
        design: (seeds, n, k).
        labels: (seeds, n), -1 or 1.
        lam: Ridge.
    """
    if loss == "squared":
        return df.ridge(design, labels, lam)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    found = []
    for own, marks in zip(design.cpu().numpy(), labels.cpu().numpy(), strict=True):
        made: Any = (
            LogisticRegression(C=1 / lam, fit_intercept=False, solver="newton-cholesky", tol=1e-8)
            if loss == "logistic"
            else LinearSVC(
                C=1 / lam, loss="hinge", fit_intercept=False, tol=1e-4, max_iter=100_000, random_state=0
            )
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            found.append(torch.from_numpy(made.fit(own, marks).coef_[0]))
    return torch.stack(found).to(design)


def _squared(omega: Tensor, theta: Tensor, noise: float, lam: float, n: int) -> float:
    """The squared loss on labels: their part linear in the features is the target, the rest acts as noise."""
    values, vectors = torch.linalg.eigh(omega / omega.shape[-1])
    turned = (vectors.transpose(1, 2) @ theta).squeeze(-1)
    power = (values * turned**2).sum(1, keepdim=True) + noise
    target = math.sqrt(2 / math.pi) * turned / power.sqrt()
    rest = 1 - (values * target**2).sum(1)
    each = zip(values.cpu(), target.cpu(), rest.cpu(), strict=True)
    found = [df.conditional(v, t, float(r), lam, n).test for v, t, r in each]
    return sum(found) / len(found)
