"""Learned tickets: learn masks over several trainings, then train the kept weights from an early checkpoint."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError, require_int
from sparsebench.pruning.learned import Learned
from sparsebench.pruning.parameters import MaskedParameters


class LearnedTicket(Learned):
    """Several trainings (rounds) that learn masks, and a final training of the kept weights.

    The model is carried over from round to round; for the final training it is rewound to time ``rewind`` of the first
    round, and s is fixed. Every training starts with zero momentum.

    Args:
        model: The model, whose buffers are carried over and rewound with the weights.
        weights: The prunable weights.
        optimizer: Their optimiser; s is added to it.
        clock: Length of each training.
        s: Name of a weight -> its learned parameter.
        group: Settings of the parameter group of s, where they differ from the weights'.
        rounds: Number of rounds.
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
        """The masks given by s."""
        raise TypeError(f"{type(self).__name__} does not implement ticket()")

    def between_rounds(self) -> None:
        """Called before the next round, to change s."""

    @torch.no_grad()
    def begin(self, training: int, before: Mapping[str, Any]) -> int:
        """Continue from the last round, or rewind with its ticket."""
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
        """Put v into the model."""
        if step == self.rewind and self.training == 0:
            self.early = self._copy()
        super().before_forward(step)

    def program(self, step: int) -> Hashable | None:
        """The same at every step of a training, except the one that stores the early checkpoint."""
        return None if step == self.rewind and self.training == 0 else self.fixed

    def dense_forward(self, step: int) -> bool:
        """All weights take part until the ticket is fixed."""
        return not self.fixed

    def on_end(self) -> None:
        """Leave the ticket in the model."""
        self._last = self._copy()
        if not self.fixed:
            self.weights.set_masks(self.ticket())
            self.fixed = True
        super().on_end()

    def handover(self) -> dict[str, Any]:
        """The early checkpoint, the final state of this round, and s."""
        if self.training == self.trainings - 1:
            return {}
        return {"early": self.early, "last": self._last, "s": self.state_dict()["s"]}

    def summary(self) -> dict[str, float | int | str]:
        """The round, and the number of rounds; the last is the training of the ticket."""
        return {"round": self.training, "rounds": self.trainings - 1}

    def state_dict(self) -> dict[str, Any]:
        """Masks, s and the early checkpoint."""
        return {**super().state_dict(), "early": self.early}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.early = state["early"]

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}
