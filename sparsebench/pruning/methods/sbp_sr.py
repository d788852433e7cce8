"""Robust pruning at initialisation."""

from __future__ import annotations

import math

import torch

from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.methods.snip import SNIP
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score
from sparsebench.pruning.static import Sanity

EDGE_OF_CHAOS = 2.0  # σ_w² for ReLU without biases


class SBPSR(SNIP):
    """Sensitivity-based pruning with stable ResNets: SNIP at the edge of chaos, with rescaling back to it.

    W^l ~ N(0, σ_w² / fan_in) with σ_w² = 2, the edge of chaos of ReLU without biases; masks by |W ⊙ ∂L/∂W|; then
    W^l <- ρ_l W^l with ρ_l = √(σ_w² / α_l), α_l = fan_in · mean((m^l ⊙ W^l)²). With ``model.stable``, block
    bodies are scaled by 1 / √L. Under batch norm ρ_l does not change the function.

    Args:
        weights: The prunable weights.
        schedule: Of constant sparsity from step 0.
        allocation: Global in the paper.
        score: Not used; the saliency replaces it.
        sanity: Sanity checks.
        rounds: Number of pruning rounds; iterative if above 1.
        batches: Training batches to average the loss over.
        training_mode: Score with batch statistics in batch norm.
        rescale: Whether to apply ρ_l.

    Differs from the paper:
        ρ_l is defined with σ_w² so that a dense layer at the edge of chaos has ρ_l = 1.

    References:
        Hayou, Ton, Doucet and Teh, "Robust Pruning at Initialization", ICLR 2021, arXiv 2002.08797, sections 2, 3.
    """

    reparametrizes = True

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        sanity: Sanity | None = None,
        rounds: int = 1,
        batches: int = 1,
        training_mode: bool = False,
        rescale: bool = True,
    ) -> None:
        super().__init__(weights, schedule, allocation, score, sanity, rounds, batches, training_mode)
        self.rescale = rescale

    def on_start(self, probe: Probe) -> None:
        """Initialise at the edge of chaos, prune as SNIP, rescale to the edge."""
        with torch.no_grad():
            for parameter in (p for p in probe.model.parameters() if p.dim() > 1):
                drawn = torch.randn(parameter.shape, generator=probe.generator)
                parameter.copy_(drawn * math.sqrt(EDGE_OF_CHAOS / parameter[0].numel()))
        super().on_start(probe)
        if self.rescale:
            self.rescale_()

    @torch.no_grad()
    def rescale_(self) -> None:
        """Apply ρ_l to every layer that keeps a weight."""
        for weight in self.weights.parameters.values():
            alpha = weight[0].numel() * float(weight.double().square().mean())
            if alpha > 0:
                weight.mul_(math.sqrt(EDGE_OF_CHAOS / alpha))
