"""In-time over-parameterisation."""

from __future__ import annotations

from sparsebench.errors import SettingError, one_of
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.dynamic import Dynamic
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class ITOP(Dynamic):
    """In-time over-parameterisation: RigL or SET with few, large mask updates until the end of training.

    Every ΔT (``schedule.interval``) steps, in every layer, the ⌈p_t nnz_l⌉ smallest |w| are dropped and as many with
    the largest |∂L/∂w| (RigL-ITOP) or random ones (SET-ITOP) are grown. p_t decays along half a cosine from
    ``drop_fraction`` to ``final_drop_fraction`` over the training. With a long ΔT, grown weights have time to become
    large, so that many weights are explored in the end: R_s, the column ``explored``.

    Args:
        weights: The prunable weights.
        schedule: Constant sparsity; masks change at due steps, except the first.
        allocation: Allocation of the initial masks; ERK in the paper.
        score: Score of the initial masks and of random growth: random.
        growth: ``gradient`` (RigL-ITOP) or ``random`` (SET-ITOP).
        drop_fraction: p_0, in (0, 1].
        final_drop_fraction: p at the end.

    Differs from the paper:
        By default ΔT is a fraction of training, that of RigL-ITOP on CIFAR (4,000 of 97,656 steps), because that many
        steps would be most of a short training; for SET-ITOP it is 1,500 steps, 0.015. The number of zeros is exact;
        in the authors' code it is random.

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
        """Growth by gradient needs the gradient of every weight."""
        return self.growth == "gradient" and self.updates(step)

    def after_step(self, step: int) -> None:
        """Drop the smallest weights; grow by the gradient of this step's batch, or at random."""
        if self.updates(step):
            by_gradient = self.growth == "gradient"
            self.swap_within_layers(
                step, self.gradients if by_gradient else self.score(self.weights.weights(), self.generator)
            )
