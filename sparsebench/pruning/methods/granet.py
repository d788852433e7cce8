"""Gradual pruning with neuroregeneration."""

from __future__ import annotations

import math
from typing import ClassVar

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation, Global
from sparsebench.pruning.dynamic import Dynamic
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Magnitude, Score


class GraNet(Dynamic):
    """Gradual pruning with zero-cost neuroregeneration: global pruning, then swaps within layers.

    Every ΔT (``schedule.interval``) steps: (1) up to t_f (``schedule.end``), the smallest |w| of all layers are
    pruned to the sparsity s_t = s_f - (s_f - s_i) (1 - (t - t_0) / (n ΔT))³; (2) in every layer, the ⌈p_t nnz_l⌉
    smallest |w| are dropped and as many with the largest |∂L/∂w| are grown. p_t decays along half a cosine over the
    training.

    Args:
        weights: The prunable weights.
        schedule: Its ramp from 0 to the target is rescaled to start at s_i.
        allocation: Allocation of the initial masks; ERK in the paper.
        score: Score of the initial masks: random.
        initial_density: 1 - s_i, in (0, 1]; 0.5 is sparse-to-sparse training, 1 is dense-to-sparse.
        drop_fraction: p_0, in (0, 1].
        final_drop_fraction: p at the end.

    Differs from the paper:
        By default ΔT and t_f are the same fractions of training as on CIFAR (1,000 of 62,560 steps; half, as in the
        authors' script). No layer loses all its weights. The ramp ends at the target; in the authors' code, one update
        short of it.

    References:
        Liu, Chen, Chen, Atashgahi, Yin, Kou, Shen, Pechenizkiy, Wang and Mocanu, "Sparse Training via Boosting Pruning
        Plasticity with Neuroregeneration", NeurIPS 2021, arXiv 2106.10404, section 4.
    """

    gradual = True
    ignores: ClassVar[dict[str, dict[str, object]]] = {
        "score": {"prune.initial_density": 1.0}
    }  # of masks that keep everything

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        initial_density: float = 0.5,
        drop_fraction: float = 0.5,
        final_drop_fraction: float = 0.005,
    ) -> None:
        super().__init__(weights, schedule, allocation, score, drop_fraction, final_drop_fraction)
        if not 0 < initial_density <= 1:
            raise SettingError("initial_density", initial_density, "a fraction of the weights in (0, 1]")
        self.initial_sparsity = min(1 - initial_density, schedule.target_sparsity)
        self.pruning = Global(allocation.allow_layer_collapse)

    def scheduled_sparsity(self, step: int) -> float:
        """s_t."""
        final = self.schedule.target_sparsity
        left = 1 - self.schedule.sparsity(step) / final if final else 0.0
        return final - (final - self.initial_sparsity) * left

    def dense_gradient(self, step: int) -> bool:
        """Growth needs the gradient of every weight."""
        return self.updates(step)

    def after_step(self, step: int) -> None:
        """Prune globally, then drop and grow within layers."""
        if not self.updates(step):
            return
        if self.scheduled_sparsity(step) > self.scheduled_sparsity(step - 1):
            scores = Magnitude()(self.weights.weights())
            for name, mask in self.weights.masks.items():
                scores[name].masked_fill_(~mask, -math.inf)
            self.weights.set_masks(self.pruning(scores, self.scheduled_sparsity(step)))
        self.swap_within_layers(step, self.gradients)
