"""Spartan."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation, LayerWise
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Pruner
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Magnitude
from sparsebench.pruning.soft_topk import SoftMask


class Spartan(Pruner):
    """Spartan: the largest of the weights times a soft top-k mask of themselves.

    The forward sees Π_k(θ ⊙ m), m = soft_topk(|θ|, k, β), where Π_k keeps the k largest. Its gradient passes Π_k as if
    it were not there. k falls along the schedule, β rises to ``beta`` until ``schedule.stop``; then both are frozen.

    Args:
        weights: The prunable weights.
        schedule: When masks change.
        allocation: Whether layers share a soft mask (global, as in the paper) or each has its own.
        beta: The last β; the authors take 10 for ResNet-50, 20 for vision transformers.

    Differs from the paper:
        The threshold of the soft mask is found by another iteration, closer to the sum k.

    References:
        Tai, Tian and Lim, "Spartan: Differentiable Sparsity via Regularized Transportation", NeurIPS 2022,
        arXiv 2205.14107, section 3.
    """

    def __init__(
        self, weights: MaskedParameters, schedule: Schedule, allocation: Allocation, beta: float = 10.0
    ) -> None:
        super().__init__(weights, schedule, allocation, Magnitude())
        if not beta >= 1:
            raise SettingError("beta", beta, "a sharpness of at least 1")
        self.beta, self.soft = beta, SoftMask(weights, shared=not isinstance(allocation, LayerWise))

    def sharpness(self, step: int) -> float:
        """β of the step."""
        return 1 + (self.beta - 1) * step / max(self.schedule.stop, 1)

    def before_forward(self, step: int) -> None:
        """Both masks if due; then the model sees Π_k(θ ⊙ m)."""
        if self.schedule.due(step):
            self.update_masks(step)
            self.soft.follow(self.sharpness(step))
        self.weights.hide_(self.values())

    def values(self) -> dict[str, Tensor]:
        """Π_k(θ ⊙ m)."""
        return {n: w * self.soft.m[n] * self.weights.masks[n] for n, w in self.weights.weights().items()}

    def after_backward(self, step: int) -> bool:
        """From the gradient by Π_k(θ ⊙ m) to that by θ."""
        self.weights.restore_()
        self.soft.chain_(self.sharpness(step), frozen=not self.dense_gradient(step))
        if not self.dense_gradient(step):
            self.weights.mask_grads_()
        return True

    def dense_gradient(self, step: int) -> bool:
        """The gradient reaches every weight until the masks are frozen."""
        return step <= self.schedule.stop

    def evaluating(self) -> AbstractContextManager[None]:
        """The network's weights."""
        return self.weights.applied(self.values())

    def on_end(self) -> None:
        """Leaves them in the model."""
        self.weights.bake_(self.values())

    def state_dict(self) -> dict[str, Any]:
        """Both masks."""
        return {**super().state_dict(), "soft": dict(self.soft.m)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.soft.m = {name: state["soft"][name].to(mask.device) for name, mask in self.soft.m.items()}
