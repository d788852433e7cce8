"""How many weights of a trained network can be pruned before its training loss increases."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparsebench.data.arrays import stratified
from sparsebench.errors import SettingError, one_of, require_int
from sparsebench.evaluation.subject import Result, Subject

KEPT = (*(k / 20 for k in range(20, 1, -1)), *(k / 100 for k in range(9, 0, -1)), 0.005, 0.002, 0.001)
"""Fractions α of the prunable weights to evaluate."""

ORDERS = ("magnitude", "random")


class Prunability:
    """Smallest fraction of prunable weights that can be kept, without retraining, at about the same training loss.

    min α with L(α') ≤ (1 + β) · L(1) + absolute for every evaluated α' ≥ α: the loss need not be monotone, and a dip
    below a fraction that failed does not count. L is the mean cross-entropy in evaluation mode over the same training
    images, without augmentation. Lower is simpler, and predicts better generalisation. For a network that is sparse
    already, α is relative to all prunable weights, so it is at most about the density.

    Differs from the paper: the tolerance β and the grid are this project's; the paper's are not known.

    Args:
        beta: β, relative tolerance.
        absolute: Absolute tolerance, in nats; a relative one alone is too strict for losses near zero.
        order: ``magnitude``, smallest first over all layers; or ``random``, with ``seed``.
        samples: Number of training images, stratified; ``null`` for all.
        seed: Seed of the random order.

    Raises:
        SettingError: A value is out of range.

    References:
        Kuhn, Lyle, Gomez, Rothfuss and Gal, "Robustness to Pruning Predicts Generalization in Deep Neural Networks",
        2021, arXiv 2103.06002.
    """

    needs_dense = False

    def __init__(
        self,
        beta: float = 0.1,
        absolute: float = 0.01,
        order: str = "magnitude",
        samples: int | None = 2000,
        seed: int = 0,
    ) -> None:
        for name, value in (("beta", beta), ("absolute", absolute)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise SettingError(name, value, "a number, 0 or more")
        if order not in ORDERS:
            raise SettingError("order", order, one_of(ORDERS, order))
        require_int("samples", samples, least=1, optional=True)
        require_int("seed", seed, least=0)
        self.beta = beta
        self.absolute = absolute
        self.order = order
        self.samples = samples
        self.seed = seed

    def __call__(self, subject: Subject) -> Result:
        """Column ``prunability`` (a fraction in (0, 1]); details: ``kept`` and ``train_loss``."""
        train = subject.dataset.train
        if self.samples is not None and self.samples < len(train):
            train = train.take(stratified(train.labels, self.samples, 0).to(train.labels.device))
        # A drawn sample is kept in memory, because the loss is evaluated many times; all images may not fit.
        images = train if self.samples is None else torch.cat(list(train.chunks(subject.eval_batch_size)))
        model = copy.deepcopy(subject.model)
        weights = [model.get_parameter(name) for name in subject.prunable]
        order = self._order(weights)
        details: list[dict[str, float]] = []
        pruned = 0
        for kept in KEPT:
            zeros = len(order) - math.floor(kept * len(order) + 0.5)
            _zero(weights, order[pruned:zeros])
            pruned = zeros
            loss = float(cross_entropy(subject.logits(images, model).double(), train.labels))
            details.append({"kept": kept, "train_loss": loss})
            if not loss <= (1 + self.beta) * details[0]["train_loss"] + self.absolute:
                break
        return Result({"prunability": smallest(details, self.beta, self.absolute)}, details)

    def _order(self, weights: list[torch.nn.Parameter]) -> Tensor:
        """Indices into all weights in pruning order; zeros come before all others."""
        values = torch.cat([weight.detach().flatten() for weight in weights]).abs()
        if self.order == "random":
            random = torch.rand(len(values), generator=torch.Generator().manual_seed(self.seed))
            values = torch.where(values > 0, random.to(values.device), -1.0)
        return values.argsort(stable=True)


def smallest(details: list[dict[str, float]], beta: float, absolute: float) -> float:
    """The smallest ``kept`` that meets the tolerance together with all larger ones; ``details`` descend from 1."""
    allowed = (1 + beta) * details[0]["train_loss"] + absolute
    best = details[0]["kept"]
    for row in details:
        if not row["train_loss"] <= allowed:
            break
        best = row["kept"]
    return best


@torch.no_grad()
def _zero(weights: list[torch.nn.Parameter], indices: Tensor) -> None:
    start = 0
    for weight in weights:
        own = indices[(indices >= start) & (indices < start + weight.numel())] - start
        flat = weight.flatten()
        flat[own] = 0
        weight.copy_(flat.view_as(weight))
        start += weight.numel()
