"""SNIP."""

from __future__ import annotations

from torch import Tensor

from sparsebench.errors import require_int
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score
from sparsebench.pruning.static import Sanity, Static


class SNIP(Static):
    """Single-shot network pruning: keep the weights whose removal would change the loss most, at initialisation.

    s_j = |w_j ∂L/∂w_j| / Σ_k |w_k ∂L/∂w_k|, the gradient of the loss by a mask of ones.

    Args:
        weights: The prunable weights.
        schedule: Of constant sparsity from step 0.
        allocation: Global in the paper.
        score: Not used: the saliency takes its place.
        sanity: Sanity checks.
        rounds: Above 1: iterative SNIP.
        batches: Training batches that the loss is the mean over.
        training_mode: Score with the batch's statistics in batch norm, not with the running ones.

    Differs from the paper:
        Weights only, and trained from the same initialisation that was scored; the authors' code scores
        biases too and trains from another one (``reinit``).

    References:
        Lee, Ajanthan and Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019,
        arXiv 1810.02340, Algorithm 1.
    """

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
        """|w ⊙ ∂L/∂w| over its sum."""
        with probe.scoring(self.training_mode):
            gradients = probe.gradients(self.weights.parameters, self.batches)
        scores = {n: (p.detach() * gradients[n]).abs() for n, p in self.weights.parameters.items()}
        total = sum(float(score.double().sum()) for score in scores.values()) or 1.0
        return {name: score / total for name, score in scores.items()}
