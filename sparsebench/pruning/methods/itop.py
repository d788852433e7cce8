"""In-time over-parameterisation."""

from __future__ import annotations

from sparsebench.errors import SettingError, one_of
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.dynamic import Dynamic
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class ITOP(Dynamic):
    """In-time over-parameterisation: RigL or SET with few, large mask updates, up to the end of training.

    Every ΔT -> ``schedule.interval`` steps, in every layer, the ⌈p_t nnz_l⌉ smallest |w| are dropped and as many of
    the largest |∂L/∂w| (RigL-ITOP) or random ones (SET-ITOP) grown. p_t falls along half a cosine from
    ``drop_fraction`` to ``final_drop_fraction`` over all of training. With a long ΔT what grows has the time to become
    large, so in the end many weights have been tried: R_s, the column ``explored``.

    Args:
        weights: The prunable weights.
        schedule: Constant sparsity; when masks change, the first step excepted.
        allocation: Of the initial masks; ERK in the paper.
        score: Of the initial masks and of random growth: random.
        growth: ``gradient`` (RigL-ITOP) or ``random`` (SET-ITOP).
        drop_fraction: p_0, in (0, 1].
        final_drop_fraction: p at the end.

    Differs from the paper:
        ΔT is a share of training by default, that of RigL-ITOP on CIFAR (4,000 of 97,656 steps), as so many steps
        would be most of a short one; for SET-ITOP it is 1,500 steps, 0.015. What is masked stays exact in number
        where the authors' code draws it.

    References:
        Liu, Yin, Mocanu and Pechenizkiy, "Do We Actually Need Dense Over-Parameterization? In-Time
        Over-Parameterization in Sparse Training", ICML 2021, arXiv 2102.02887, section 3.
    """

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        growth: str = "gradient",
        drop_fraction: float = 0.5,
        final_drop_fraction: float = 0.005,
    ) -> None:
        super().__init__(weights, schedule, allocation, score, drop_fraction, final_drop_fraction)
        if growth not in ("gradient", "random"):
            raise SettingError("growth", growth, one_of(("gradient", "random"), growth))
        self.growth = growth

    def dense_gradient(self, step: int) -> bool:
        """Growing by gradient looks at the gradient of every weight."""
        return self.growth == "gradient" and self.updates(step)

    def after_step(self, step: int) -> None:
        """Drop the smallest; grow by the gradient of this step's batch, or at random."""
        if self.updates(step):
            by_gradient = self.growth == "gradient"
            self.swap_within_layers(
                step, self.gradients if by_gradient else self.score(self.weights.weights(), self.generator)
            )
