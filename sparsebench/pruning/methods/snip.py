"""SNIP."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sparsebench.errors import require_int
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score
from sparsebench.pruning.static import Sanity, Static


class SNIP(Static):
    """Single-shot network pruning: keeps the weights whose removal would change the loss most, at initialisation.

    s_j = |w_j ∂L/∂w_j| / Σ_k |w_k ∂L/∂w_k|, the gradient of the loss with respect to a mask of ones.

    Args:
        weights: The prunable weights.
        schedule: Of constant sparsity from step 0.
        allocation: Global in the paper.
        score: Not used; the saliency replaces it.
        sanity: Sanity checks.
        rounds: Number of pruning rounds; iterative SNIP if above 1.
        batches: Training batches to average the loss over.
        training_mode: Score with batch statistics in batch norm instead of running ones.

    Differs from the paper:
        Only weights are scored, and training starts from the initialisation that was scored; the authors' code also
        scores biases and reinitialises (``reinit``).

    References:
        Lee, Ajanthan and Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019,
        arXiv 1810.02340, Algorithm 1.
    """

    ignores: ClassVar[dict[str, dict[str, object]]] = {"score": {}}

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
    ) -> None:
        super().__init__(weights, schedule, allocation, score, sanity, rounds)
        require_int("batches", batches, least=1)
        self.batches, self.training_mode = batches, training_mode

    def saliency(self, probe: Probe) -> dict[str, Tensor]:
        """|w ⊙ ∂L/∂w| divided by its sum."""
        with probe.scoring(self.training_mode):
            gradients = probe.gradients(self.weights.parameters, self.batches)
        scores = {n: (p.detach() * gradients[n]).abs() for n, p in self.weights.parameters.items()}
        total = sum(float(score.double().sum()) for score in scores.values()) or 1.0
        return {name: score / total for name, score in scores.items()}
