"""Learned sparsity: parameters trained together with the weights determine what is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Pruner


@dataclass(frozen=True)
class TunedSetting:
    """The setting that controls a method's sparsity, for a search of the value that reaches a target.

    Args:
        setting: Name of the setting.
        densest: End of the search interval with the lowest sparsity.
        sparsest: End of the search interval with the highest sparsity.
    """

    setting: str
    densest: float
    sparsest: float


class Learned(Pruner):
    """The network computes with v = f(w, s); w and s are both trained, without a target sparsity.

    A method implements :meth:`value` and :meth:`chain`. No saving of training FLOPs is claimed.

    Args:
        weights: The prunable weights.
        optimizer: Their optimiser; s is added to it.
        s: Name of a weight -> its learned parameter.
        group: Settings of the parameter group of s, where they differ from the weights'.
    """

    reparametrizes = True
    tuned: ClassVar[TunedSetting | None] = None

    def __init__(
        self,
        weights: MaskedParameters,
        optimizer: torch.optim.Optimizer,
        s: Mapping[str, Tensor],
        group: Mapping[str, Any] | None = None,
    ) -> None:
        self.weights = weights
        self.s = {name: nn.Parameter(s[name].to(w.device)) for name, w in weights.parameters.items()}
        optimizer.add_param_group({"params": list(self.s.values()), **(group or {})})

    def value(self, name: str, w: Tensor) -> Tensor:
        """V of one weight."""
        raise TypeError(f"{type(self).__name__} does not implement value()")

    def chain(self, name: str, w: Tensor, gradient: Tensor) -> None:
        """Turn the gradient with respect to v into that of w, in place, and that of s, in ``s.grad``."""
        raise TypeError(f"{type(self).__name__} does not implement chain()")

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """Name -> v, the values that the network computes with."""
        return {name: self.value(name, w) for name, w in self.weights.weights().items()}

    def scheduled_sparsity(self, step: int) -> float | None:
        """There is no target sparsity."""
        return None

    def dense_forward(self, step: int) -> bool:
        """All weights take part in the forward pass."""
        return True

    def before_forward(self, step: int) -> None:
        """Put v into the model."""
        self.weights.hide_(self.values())

    @torch.no_grad()
    def after_backward(self, step: int) -> bool:
        """Restore w, and compute the gradients of w and s."""
        self.weights.restore_()
        for name, w in self.weights.parameters.items():
            if w.grad is not None:
                self.chain(name, w.detach(), w.grad)
        return True

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluate with v."""
        return self.weights.applied(self.values())

    def on_end(self) -> None:
        """Leave v in the model."""
        self.weights.bake_(self.values())

    def state_dict(self) -> dict[str, Any]:
        """Masks, and s."""
        return {**super().state_dict(), "s": {name: s.detach().clone() for name, s in self.s.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        super().load_state_dict(state)
        self._load_learned(state["s"])

    @torch.no_grad()
    def _load_learned(self, s: Mapping[str, Tensor]) -> None:
        for name, parameter in self.s.items():
            parameter.copy_(s[name])
