"""Pruning at initialisation: masks from scores before training, then fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsebench.errors import require_int
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe, Pruner
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score
from sparsebench.transfer import send


@dataclass(frozen=True)
class Sanity:
    """Sanity checks for pruning at initialisation: do the chosen weights matter, or only the layers' sparsities?

    Args:
        invert_scores: Keep what the method would prune first.
        shuffle_within_layer: Randomly permute each layer's mask, keeping its sparsity.
        reinit: Keep the mask and reinitialise the weights.

    References:
        Frankle, Dziugaite, Roy and Carbin, "Pruning Neural Networks at Initialization: Why Are We Missing the
        Mark?", ICLR 2021, arXiv 2009.08576, section 5.
        Su et al., "Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot", NeurIPS 2020,
        arXiv 2009.11094.
    """

    invert_scores: bool = False
    shuffle_within_layer: bool = False
    reinit: bool = False


class Static(Pruner):
    """A mask that is computed before the first step and then fixed.

    Args:
        weights: The prunable weights.
        schedule: Of constant sparsity from step 0.
        allocation: Turns scores into masks.
        score: Score, for methods that use only the weights.
        sanity: Sanity checks; none by default.
        rounds: Number of pruning rounds, each with new scores; density falls geometrically.
    """

    asks_schedule = "target"

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        sanity: Sanity | None = None,
        rounds: int = 1,
    ) -> None:
        super().__init__(weights, schedule, allocation, score)
        require_int("rounds", rounds, least=1)
        self.sanity, self.rounds = sanity or Sanity(), rounds

    def saliency(self, probe: Probe) -> dict[str, Tensor]:
        """Scores of the prunable weights; called with masks applied; higher means keep."""
        return self.score({n: p.detach() for n, p in self.weights.parameters.items()}, probe.generator)

    def on_start(self, probe: Probe) -> None:
        """Prune to the target in rounds; pruned weights stay pruned."""
        target = self.schedule.target_sparsity
        for round_ in range(1, self.rounds + 1):
            sparsity = target if round_ == self.rounds else 1 - (1 - target) ** (round_ / self.rounds)
            with self.weights.applied():
                scores = self.saliency(probe)
            sign = -1 if self.sanity.invert_scores else 1
            for name, mask in self.weights.masks.items():
                scores[name] = (sign * scores[name]).masked_fill(~mask, -math.inf)
            self.weights.set_masks(self.allocation(scores, sparsity))
        if self.sanity.shuffle_within_layer:
            self.weights.set_masks({n: _permuted(m, probe.generator) for n, m in self.weights.masks.items()})
        if self.sanity.reinit:
            probe.reinitialize()
        self.weights.project_()

    def after_backward(self, step: int) -> bool:
        """Mask gradients: pruned weights have zero value, momentum and gradient, so they stay zero."""
        self.weights.mask_grads_()
        return True

    def program(self, step: int) -> str:
        """The same at every step."""
        return "masked gradients"


def _permuted(mask: Tensor, generator: torch.Generator) -> Tensor:
    order = send(torch.randperm(mask.numel(), generator=generator), mask.device)
    return mask.reshape(-1)[order].view(mask.shape)
