"""Memory-economic sparse training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.dynamic import Dynamic, gradient_magnitudes
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule, Stages
from sparsebench.pruning.scores import Score


class MEST(Dynamic):
    """Memory-economic sparse training: prunes slightly beyond the target, then grows at random.

    At updates (``schedule.interval``, and the start of a stage), the lowest |w| + λ |∂L/∂w| are pruned and random
    others grow from zero. Elastic mutation (EM) prunes to s + p and grows to s; with a soft bound (EM&S) it prunes to s
    and grows to s - p, so that new weights train next to those they may replace. p falls from stage to stage.

    Args:
        weights: The prunable weights.
        schedule: Constant sparsity; masks change at due steps, except the first.
        allocation: Determines every layer's number of weights at each sparsity; uniform in the paper.
        score: Score of the initial masks and of growth: random.
        clock: Length of the training.
        soft_bound: EM&S instead of EM.
        margins: p of every stage, as a fraction of the density 1 - s.
        stages: Start times of the second and later stages.
        gradient_weight: λ; 0 in the authors' code.

    Differs from the paper:
        Interval and stages of its CIFAR recipe (5, 90 and 120 of 160 epochs) are fractions of training here, and p
        (0.02 and 0.01 at s = 0.9) fractions of the density. There, the first convolution and the classifier stay dense.

    References:
        Yuan et al., "MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge", NeurIPS 2021,
        arXiv 2110.14032, section 3.
    """

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        clock: Clock,
        soft_bound: bool = False,
        margins: Sequence[float] = (0.2, 0.1, 0.0),
        stages: Sequence[str | float] = ("0.5625", "0.75"),
        gradient_weight: float = 0.0,
    ) -> None:
        super().__init__(weights, schedule, allocation, score)
        self.soft_bound, self.gradient_weight = soft_bound, gradient_weight
        if min(margins, default=-1) < 0 or (margins[-1] > 0 if soft_bound else max(margins) >= 1):
            allowed = "fractions in [0, 1), or non-negative fractions that end in 0 with a soft bound"
            raise SettingError("margins", margins, allowed)
        self.margin = Stages(clock, [p * (1 - schedule.target_sparsity) for p in margins], stages)
        shapes = {name: tuple(p.shape) for name, p in weights.parameters.items()}
        allocation.check(shapes, schedule.target_sparsity + (0 if soft_bound else max(self.margin.values)))

    def scheduled_sparsity(self, step: int) -> float:
        """The sparsity of the masks: s, or s - p with a soft bound."""
        return max(self.schedule.target_sparsity - (self.margin.at(step) if self.soft_bound else 0), 0.0)

    def updates(self, step: int) -> bool:
        """Whether masks change at ``step``."""
        return super().updates(step) or (step in self.margin.starts and self.schedule.target_sparsity > 0)

    def after_step(self, step: int) -> None:
        """Prune the least important weights; grow at random."""
        if not self.updates(step):
            return
        weights, gradients = self.weights.weights(), gradient_magnitudes(self.weights)
        scores = {name: w.abs() + self.gradient_weight * gradients[name] for name, w in weights.items()}
        for name, mask in self.weights.masks.items():
            scores[name].masked_fill_(~mask, -math.inf)
        sparsity = self.schedule.target_sparsity + (0 if self.soft_bound else self.margin.at(step))
        self.weights.set_masks(self.allocation(scores, sparsity))
        self.weights.project_()  # before growing, so that weights that were just pruned start at zero too
        random = self.score(weights, self.generator)
        for name, mask in self.weights.masks.items():
            random[name].masked_fill_(mask, math.inf)
        self.weights.set_masks(self.allocation(random, self.scheduled_sparsity(step)))
