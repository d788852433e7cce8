"""GraSP."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score
from sparsebench.pruning.static import Sanity, Static


class GraSP(Static):
    """Gradient signal preservation: prune the weights whose removal hurts the gradient's norm least.

    S = -w ⊙ H g with g = ∂L/∂w and its Jacobian H; the highest S are pruned, so the score is w ⊙ H g. The loss is
    computed from logits divided by a temperature, on a class-balanced sample.

    Args:
        weights: The prunable weights.
        schedule: Of constant sparsity from step 0.
        allocation: Global in the paper.
        score: Not used; the saliency replaces it.
        sanity: Sanity checks.
        samples_per_class: Training images per class, scored in two halves.
        temperature: Temperature T of the logits.
        training_mode: Score with batch statistics in batch norm, like the authors' code.

    Differs from the paper:
        The classifier is scored as initialised; the authors' code reinitialises it for scoring.

    References:
        Wang, Zhang and Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020,
        arXiv 2002.07376, Algorithm 1 and 2.
    """

    ignores: ClassVar[dict[str, dict[str, object]]] = {"score": {}}

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        sanity: Sanity | None = None,
        samples_per_class: int = 10,
        temperature: float = 200.0,
        training_mode: bool = True,
    ) -> None:
        super().__init__(weights, schedule, allocation, score, sanity)
        if samples_per_class < 2:
            raise SettingError("samples_per_class", samples_per_class, "at least two, one for each half")
        if temperature <= 0:
            raise SettingError("temperature", temperature, "a number above 0")
        self.samples_per_class, self.temperature = samples_per_class, temperature
        self.training_mode = training_mode

    def saliency(self, probe: Probe) -> dict[str, Tensor]:
        """W ⊙ H g."""
        names, weights = list(self.weights.parameters), list(self.weights.parameters.values())
        inputs, targets = probe.balanced(self.samples_per_class)
        halves = [(inputs[half::2], targets[half::2]) for half in range(2)]

        def gradient(part: tuple[Tensor, Tensor], graph: bool) -> tuple[Tensor, ...]:
            loss = probe.criterion(probe.model(part[0]) / self.temperature, part[1]) / len(halves)
            return torch.autograd.grad(loss, weights, create_graph=graph)

        with probe.scoring(self.training_mode):
            g = [sum(parts) for parts in zip(*(gradient(half, False) for half in halves), strict=True)]
            hessian_g = [torch.zeros_like(w) for w in weights]
            for half in halves:
                z = sum((a.detach() * b).sum() for a, b in zip(g, gradient(half, True), strict=True))
                for total, part in zip(hessian_g, torch.autograd.grad(z, weights), strict=True):
                    total += part
        return {n: w.detach() * h for n, w, h in zip(names, weights, hessian_g, strict=True)}
