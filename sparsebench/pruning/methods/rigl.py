"""RigL."""

from __future__ import annotations

from torch import Tensor

from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.dynamic import Dynamic, drop_and_grow, gradient_magnitudes, kept_fraction
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class RigL(Dynamic):
    """Rigged lottery: drops the smallest weights and grows those with the largest gradient.

    Every ΔT (``schedule.interval``) steps up to T_end (``schedule.stop``), in every layer, the α_t nnz_l smallest |w|
    are dropped and as many weights with the largest |∂L/∂w| are grown, with zero value and momentum. α_t decays from α
    (``drop_fraction``) along half a cosine. A mask update replaces the optimiser step, as in the authors' code.

    Args:
        weights: The prunable weights.
        schedule: Constant sparsity; when masks change.
        allocation: Allocation of the initial masks; ERK in the paper.
        score: Score of the initial masks: random.
        drop_fraction: α, in (0, 1].

    Differs from the paper:
        Ties are broken by index; the authors' code adds noise.

    References:
        Evci, Gale, Menick, Castro and Elsen, "Rigging the Lottery: Making All Tickets Winners", ICML 2020,
        arXiv 1911.11134, Algorithm 1.
    """

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        drop_fraction: float = 0.3,
    ) -> None:
        super().__init__(weights, schedule, allocation, score, drop_fraction)

    def updates(self, step: int) -> bool:
        """Whether masks change at ``step``: also at the first one, and never at target sparsity 0."""
        return self.schedule.due(step) and self.schedule.target_sparsity > 0

    def dense_gradient(self, step: int) -> bool:
        """Growth needs the gradient of every weight."""
        return self.updates(step)

    def after_backward(self, step: int) -> bool:
        """At a mask update the gradients stay dense for :meth:`after_step`, and the optimiser does not step."""
        if self.updates(step):
            return False
        self.weights.mask_grads_()
        return True

    def after_step(self, step: int) -> None:
        """Drop and grow. Pruned weights have zero value and momentum, so grown weights start at zero."""
        if self.updates(step):
            fraction = self.fraction(step) if self.step_numbers is None else self.step_numbers[0]
            gradients, masks = gradient_magnitudes(self.weights), {}
            for name, weight in self.weights.weights().items():
                masks[name] = self.swap(name, weight.abs(), gradients[name], fraction)
            self.weights.set_masks(masks)
            self.weights.project_()

    def program(self, step: int) -> bool | None:
        """Steps with a mask update, and the others."""
        return self.updates(step)

    def numbers(self, step: int) -> list[float]:
        """The fraction to swap."""
        return [self.fraction(step)] if self.updates(step) else []

    def swap(self, name: str, size: Tensor, gradient: Tensor, fraction: float | Tensor) -> Tensor:
        """The next mask of one layer from its |w| and |∂L/∂w|."""
        mask = self.weights.masks[name]
        return drop_and_grow(mask, kept_fraction(mask, fraction).floor().long(), size, gradient)
