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
    """Spartan: the largest weights, multiplied by a soft top-k mask of their magnitudes.

    The forward uses Π_k(θ ⊙ m), m = soft_topk(|θ|, k, β), where Π_k keeps the k largest; its gradient is
    straight-through for Π_k. k falls along the schedule, β rises to ``beta`` until both freeze at ``schedule.stop``.

    Args:
        weights: The prunable weights.
        schedule: When masks change.
        allocation: Whether layers share a soft mask (global, as in the paper) or each has its own.
        beta: Final β; the authors use 10 for ResNet-50 and 20 for vision transformers.

    Differs from the paper:
        The threshold of the soft mask is found by another iteration, with a sum closer to k.

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
        """Update both masks if due, and put Π_k(θ ⊙ m) into the model."""
        if self.schedule.due(step):
            self.update_masks(step)
            self.soft.follow(self.sharpness(step))
        self.weights.hide_(self.values())

    def values(self) -> dict[str, Tensor]:
        """Π_k(θ ⊙ m)."""
        return {n: w * self.soft.m[n] * self.weights.masks[n] for n, w in self.weights.weights().items()}

    def after_backward(self, step: int) -> bool:
        """Chain rule from Π_k(θ ⊙ m) to θ."""
        self.weights.restore_()
        self.soft.chain_(self.sharpness(step), frozen=not self.dense_gradient(step))
        if not self.dense_gradient(step):
            self.weights.mask_grads_()
        return True

    def program(self, step: int) -> str | None:
        """The same at every step once β and both masks are frozen."""
        return None if self.dense_gradient(step) else "frozen"

    def dense_gradient(self, step: int) -> bool:
        """The gradient reaches every weight until the masks are frozen."""
        return step <= self.schedule.stop

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluate the network's weights."""
        return self.weights.applied(self.values())

    def on_end(self) -> None:
        """Leave Π_k(θ ⊙ m) in the model."""
        self.weights.bake_(self.values())

    def state_dict(self) -> dict[str, Any]:
        """Both masks."""
        return {**super().state_dict(), "soft": dict(self.soft.m)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.soft.m = {name: state["soft"][name].to(mask.device) for name, mask in self.soft.m.items()}
