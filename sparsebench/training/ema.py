"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsebench.errors import SettingError
from sparsebench.pruning.parameters import MaskedParameters


class WeightAverage:
    """v ← d v + (1 - d) w after every step, over all parameters and batch-norm statistics.

    The weights that the optimiser holds are averaged (for DPF the dense ones). The average under the present masks is
    evaluated, and kept at the end; masks are always computed from the trained weights, never from the average, and
    training continues with the trained weights. So the number of zeros is the scheduled one, and a weight that was just
    pruned is zero whatever its history; one that has just grown starts from its value in the average.

    Args:
        model: The model whose parameters and buffers are averaged, starting from their present values.
        weights: The prunable weights and their masks.
        decay: d, in (0, 1).

    Raises:
        SettingError: ``decay`` is not in (0, 1).

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM Journal on Control and
        Optimization 1992.
    """

    def __init__(self, model: nn.Module, weights: MaskedParameters, decay: float) -> None:
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay < 1:
            raise SettingError("ema", decay, "null, or a decay per step in (0, 1), for example 0.9999")
        self.weights, self.decay, self.installed = weights, float(decay), False
        live = {name: t.detach() for name, t in [*model.named_parameters(), *model.named_buffers()]}
        self._live = {name: t for name, t in live.items() if t.is_floating_point()}
        self._average = {name: t.clone() for name, t in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average after an optimiser step; the weights must not be hidden."""
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the masked average into the model inside the block; its own weights are restored exactly afterwards."""
        if self.installed:
            yield
            return
        before = {name: t.clone() for name, t in self._live.items()}
        self._put()
        try:
            yield
        finally:
            torch._foreach_copy_(list(self._live.values()), list(before.values()))

    def install(self) -> None:
        """Put the masked average into the model permanently, at the end of training."""
        self._put()
        self.installed = True

    @torch.no_grad()
    def _put(self) -> None:
        for name, live in self._live.items():
            mask = self.weights.masks.get(name)
            live.copy_(self._average[name] if mask is None else self._average[name] * mask)

    def state_dict(self) -> dict[str, Tensor]:
        """For the checkpoint."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from :meth:`state_dict`."""
        for name, average in self._average.items():
            average.copy_(state[name])
