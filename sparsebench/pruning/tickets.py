"""Learned tickets: masks learned over several trainings, then one training of what they keep, from an early point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError, require_int
from sparsebench.pruning.learned import Learned
from sparsebench.pruning.parameters import MaskedParameters


class LearnedTicket(Learned):
    """Rounds that learn masks, each a training, and one more for the weights that are then kept.

    The model goes on from round to round; for the last training it goes back to ``rewind`` of the first.
    Its learned s stays fixed then. Every training starts with an optimiser of its own: no momentum.

    Args:
        model: With the weights its batch statistics go on and back.
        weights: The prunable weights.
        optimizer: Theirs; s joins it.
        clock: Length of each training.
        s: Name of a weight -> what is learned for it.
        group: Settings of the optimiser for s that are not those of the weights.
        rounds: How many.
        rewind: Time in the first round.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: MaskedParameters,
        optimizer: torch.optim.Optimizer,
        clock: Clock,
        s: Mapping[str, Tensor],
        group: Mapping[str, Any],
        rounds: int,
        rewind: str | float,
    ) -> None:
        super().__init__(weights, optimizer, s, group)
        self.model, self.clock, self.rewind = model, clock, clock.steps(rewind, "rewind")
        require_int("rounds", rounds, least=1)
        if self.rewind >= clock.total_steps:
            raise SettingError("rewind", rewind, f"a time before the end, step {clock.total_steps}")
        self.trainings, self.training = rounds + 1, 0
        self.fixed = False
        """Whether masks are no longer learned."""
        self.early: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}

    def ticket(self) -> dict[str, Tensor]:
        """The masks that s says."""
        raise TypeError(f"{type(self).__name__} finds no ticket")

    def between_rounds(self) -> None:
        """What happens to s before the next round."""

    @torch.no_grad()
    def begin(self, training: int, before: Mapping[str, Any]) -> int:
        """Go on from the last round, or back with its ticket."""
        self.training, self.fixed = training, training == self.trainings - 1
        if before:
            self._load_learned(before["s"])
            self.early = before["early"]
            self.model.load_state_dict(self.early if self.fixed else before["last"])
        if self.fixed:
            self.weights.set_masks(self.ticket())
            self.weights.project_()
        elif before:
            self.between_rounds()
        return 0

    def before_forward(self, step: int) -> None:
        """The model sees v."""
        if step == self.rewind and self.training == 0:
            self.early = self._copy()
        super().before_forward(step)

    def dense_forward(self, step: int) -> bool:
        """All weights take part until the ticket is found."""
        return not self.fixed

    def on_end(self) -> None:
        """Leaves the ticket in the model."""
        self._last = self._copy()
        if not self.fixed:
            self.weights.set_masks(self.ticket())
            self.fixed = True
        super().on_end()

    def handover(self) -> dict[str, Any]:
        """The early point, where this round ended, and s."""
        if self.training == self.trainings - 1:
            return {}
        return {"early": self.early, "last": self._last, "s": self.state_dict()["s"]}

    def summary(self) -> dict[str, float | int | str]:
        """Which round, of how many; the last is the training of the ticket."""
        return {"round": self.training, "rounds": self.trainings - 1}

    def state_dict(self) -> dict[str, Any]:
        """Masks, s and the early point."""
        return {**super().state_dict(), "early": self.early}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.early = state["early"]

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}
