"""Learned sparsity: what is pruned follows from parameters that are trained together with the weights."""

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
    """The setting that a method's sparsity follows from, for a search of the value that gives a target.

    Args:
        setting: Its name as the user writes it.
        densest: The end of the search with the lowest sparsity; it rises from there on.
        sparsest: The other end.
    """

    setting: str
    densest: float
    sparsest: float


class Learned(Pruner):
    """The network computes with v = f(w, s); both w and s are trained, and no sparsity is asked for.

    A method gives :meth:`value` and :meth:`chain`. No saving of training FLOPs is claimed.

    Args:
        weights: The prunable weights.
        optimizer: Theirs; s joins it.
        s: Name of a weight -> what is learned for it.
        group: Settings of the optimiser for s that are not those of the weights.
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
        """The v of one weight."""
        raise TypeError(f"{type(self).__name__} has no values to compute with")

    def chain(self, name: str, w: Tensor, gradient: Tensor) -> None:
        """The gradient by v becomes that by w, in place, and that by s, in ``s.grad``."""
        raise TypeError(f"{type(self).__name__} has no gradients")

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """Name -> v, what the network computes with."""
        return {name: self.value(name, w) for name, w in self.weights.weights().items()}

    def scheduled_sparsity(self, step: int) -> float | None:
        """None is asked for."""
        return None

    def dense_forward(self, step: int) -> bool:
        """All weights take part."""
        return True

    def before_forward(self, step: int) -> None:
        """The model sees v."""
        self.weights.hide_(self.values())

    @torch.no_grad()
    def after_backward(self, step: int) -> bool:
        """Back to w, with the gradients of w and s."""
        self.weights.restore_()
        for name, w in self.weights.parameters.items():
            if w.grad is not None:
                self.chain(name, w.detach(), w.grad)
        return True

    def evaluating(self) -> AbstractContextManager[None]:
        """With v."""
        return self.weights.applied(self.values())

    def on_end(self) -> None:
        """Leaves v in the model."""
        self.weights.bake_(self.values())

    def state_dict(self) -> dict[str, Any]:
        """Masks, and what is learned."""
        return {**super().state_dict(), "s": {name: s.detach().clone() for name, s in self.s.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict(state)
        self._load_learned(state["s"])

    @torch.no_grad()
    def _load_learned(self, s: Mapping[str, Tensor]) -> None:
        for name, parameter in self.s.items():
            parameter.copy_(s[name])
