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
    """Memory-economic sparse training: pruned a little further than the target, then grown at random.

    At updates (``schedule.interval``, and where a stage starts), the lowest |w| + λ |∂L/∂w| are pruned and random
    others grown, from zero. Elastic mutation (EM) prunes to s + p and grows to s; with a soft bound (EM&S) it prunes
    to s and grows to s - p, so that new weights train beside those they may replace. p falls from stage to stage.

    Args:
        weights: The prunable weights.
        schedule: Constant sparsity; when masks change, the first step excepted.
        allocation: Gives every layer its number of weights, at each of the sparsities; uniform in the paper.
        score: Of the initial masks and of growth: random.
        clock: Length of the training.
        soft_bound: EM&S instead of EM.
        margins: p of every stage, as a share of the density 1 - s.
        stages: Times at which the second stage and those after it start.
        gradient_weight: λ; 0 in the authors' code.

    Differs from the paper:
        Interval and stages of its CIFAR recipe (5, 90 and 120 of 160 epochs) are shares of training here, and p (0.02
        and 0.01 at s = 0.9) shares of the density. There, the first convolution and the classifier are not pruned.

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
            raise SettingError(
                "margins", margins, "shares in [0, 1), or from 0 up to a last of 0 with a soft bound"
            )
        self.margin = Stages(clock, [p * (1 - schedule.target_sparsity) for p in margins], stages)
        shapes = {name: tuple(p.shape) for name, p in weights.parameters.items()}
        allocation.check(shapes, schedule.target_sparsity + (0 if soft_bound else max(self.margin.values)))

    def scheduled_sparsity(self, step: int) -> float:
        """The s of the masks: s - p with a soft bound."""
        return max(self.schedule.target_sparsity - (self.margin.at(step) if self.soft_bound else 0), 0.0)

    def updates(self, step: int) -> bool:
        """Whether masks change at ``step``."""
        return super().updates(step) or (step in self.margin.starts and self.schedule.target_sparsity > 0)

    def after_step(self, step: int) -> None:
        """Prune the least important; grow at random."""
        if not self.updates(step):
            return
        weights, gradients, final = (
            self.weights.weights(),
            gradient_magnitudes(self.weights),
            self.schedule.target_sparsity,
        )
        scores = {name: w.abs() + self.gradient_weight * gradients[name] for name, w in weights.items()}
        for name, mask in self.weights.masks.items():
            scores[name].masked_fill_(~mask, -math.inf)
        self.weights.set_masks(
            self.allocation(scores, final + (0 if self.soft_bound else self.margin.at(step)))
        )
        self.weights.project_()  # before growing: what has just been pruned starts at zero as well
        random = self.score(weights, self.generator)
        for name, mask in self.weights.masks.items():
            random[name].masked_fill_(mask, math.inf)
        self.weights.set_masks(self.allocation(random, self.scheduled_sparsity(step)))
