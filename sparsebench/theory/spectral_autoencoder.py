"""A network that cleans eigenvalues, compared with estimators without training: part of the random-matrix study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sparsebench.theory import shrinkage
from sparsebench.theory.study import Check, Draws, Point, Row, below, mean_and_error

HIDDEN = (32, 16, 32)
BATCH, RATE = 256, 1e-3
NUMBERS = 2**24
"""Entries of a batch of data: 128 MB."""

PRIOR = "power law with 0-3 spikes"
NETWORKS = ("ae_true", "ae_oracle")


def points(own: Mapping[str, Any]) -> Iterator[Point]:
    """Every size with every repetition of the training."""
    for count, samples in own["sizes"]:
        yield from ({"N": count, "T": samples, "seed": seed} for seed in range(own["repeats"]))


def rows(own: Mapping[str, Any], point: Point, draws: Draws) -> list[Row]:
    """One row per estimator: errors on the test spectra."""
    count, samples = point["N"], point["T"]
    train = _spectra(count, own["train_spectra"], draws)
    batch = max(1, NUMBERS // (count * samples))
    parts = [shrinkage.Sample.of(_data(part, samples, draws), part) for part in train.split(batch)]
    values, oracle = (torch.cat([getattr(part, name) for part in parts]) for name in ("values", "oracle"))
    targets = torch.stack([train.sort(-1).values, oracle])
    networks = Networks(values, targets, draws)
    networks.train(own["epochs"], draws)

    test = _spectra(count, own["test_spectra"], draws)
    data = _data(test, samples, draws)
    sample = shrinkage.Sample.of(data, test)
    made = shrinkage.estimates(sample, samples, shrinkage.linear_intensities(data))
    made.update(zip(NETWORKS, networks(sample.values), strict=True))
    true = test.sort(-1).values
    found = []
    for name, estimate in made.items():
        error, se_error = mean_and_error(((estimate.sort(-1).values - true) ** 2).mean(-1))
        frobenius, se_frobenius = mean_and_error(sample.loss(estimate, test))
        found.append({
            **point, "estimator": name, "eig_mse": error, "se_eig": se_error, "frob": frobenius,
            "se_frob": se_frobenius, "train_spectra": own["train_spectra"], "epochs": own["epochs"], "prior": PRIOR,
        })  # fmt: skip
    return found


def _spectra(count: int, number: int, draws: Draws) -> Tensor:
    """True eigenvalues (number, count) of mean 1: a power law of random exponent with a few spikes."""
    exponents = 0.1 + 0.8 * draws.uniform(number, 1)
    found = (1 - draws.uniform(number, count)) ** -exponents
    found = torch.minimum(found, 20 * found.median(-1, keepdim=True).values)
    spikes = (4 * draws.uniform(number, 1)).floor()
    sizes = (2 + 10 * draws.uniform(number, count)) * found.mean(-1, keepdim=True)
    found = torch.where(torch.arange(count, device=draws.device) < spikes, sizes, found)
    return found / found.mean(-1, keepdim=True)


def _data(variances: Tensor, samples: int, draws: Draws) -> Tensor:
    return draws.normal(len(variances), samples, variances.shape[1]) * variances[:, None].sqrt()


class Networks:
    """Autoencoders of eigenvalues, trained side by side on the same inputs: N-32-16-32-N with ReLU.

    Args:
        inputs: (spectra, N) sample eigenvalues (variance), each spectrum in order.
        targets: (networks, spectra, N) targets of each network.
        draws: Random numbers for the initial weights.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, draws: Draws) -> None:
        self.centre, self.scale = inputs.mean(0), inputs.std(0)
        self.target_centre, self.target_scale = targets.mean(1, keepdim=True), targets.std(1, keepdim=True)
        self.inputs = (inputs - self.centre) / self.scale
        self.targets = (targets - self.target_centre) / self.target_scale
        self.layers = []
        for before, after in pairwise((inputs.shape[1], *HIDDEN, inputs.shape[1])):
            bound = 1 / math.sqrt(before)  # as torch.nn.Linear
            weight = bound * (2 * draws.uniform(len(targets), before, after) - 1)
            bias = bound * (2 * draws.uniform(len(targets), 1, after) - 1)
            self.layers.append((weight.requires_grad_(), bias.requires_grad_()))

    def _forward(self, standard: Tensor) -> Tensor:
        found = standard.expand(len(self.targets), -1, -1)
        for weight, bias in self.layers[:-1]:
            found = torch.baddbmm(bias, found, weight).relu()
        weight, bias = self.layers[-1]
        return torch.baddbmm(bias, found, weight)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Cleaned eigenvalues (networks, spectra, N) of sample eigenvalues (spectra, N)."""
        with torch.no_grad():
            return self._forward((inputs - self.centre) / self.scale) * self.target_scale + self.target_centre

    def train(self, epochs: int, draws: Draws) -> None:
        """Least squares by Adam with a cosine learning-rate schedule; ``draws`` give the order of the spectra."""
        parameters = [tensor for layer in self.layers for tensor in layer]
        optimizer = torch.optim.Adam(parameters, RATE, fused=True)
        steps = epochs * -(-len(self.inputs) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(epochs):
            for chosen in draws.uniform(len(self.inputs)).argsort().split(BATCH):
                errors = self._forward(self.inputs[chosen]) - self.targets[:, chosen]
                optimizer.zero_grad()
                (errors**2).mean((1, 2)).sum().backward()
                optimizer.step()
                schedule.step()


def checks(rows: Iterable[Row]) -> Iterator[Check]:
    """The networks compared with the rotationally invariant estimator, and all with the oracle."""
    cases: dict[tuple[int, int, int], dict[str, Row]] = {}
    for row in rows:
        cases.setdefault((row["N"], row["T"], row["seed"]), {})[row["estimator"]] = row
    for (count, samples, seed), found in cases.items():
        case = f"N={count} T={samples} seed={seed}"
        yield below(
            "error of the eigenvalues, ae_true against half of rie's",
            case, 0.5 * found["rie"]["eig_mse"], found["ae_true"]["eig_mse"],
        )  # fmt: skip
        yield below("loss, ae_oracle against rie", case, found["rie"]["frob"], found["ae_oracle"]["frob"])
        best = min(row["frob"] for name, row in found.items() if name != "oracle")
        yield below("loss, oracle against the best of the others", case, best, found["oracle"]["frob"])
