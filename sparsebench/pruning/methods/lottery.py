"""The lottery ticket procedure with weight rewinding."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.rounds import Rounds, restore, snapshot
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class Lottery(Rounds):
    """Lottery tickets with rewinding: train, prune, rewind to the weights of step k, train again.

    Every round starts at step k (``rewind``) with m ⊙ w_k: weights, batch norm, momentum and learning rate are those
    of step k of the dense training, and so are the batches. k = 0 is the original procedure.

    Args:
        weights: The prunable weights.
        schedule: Provides the target sparsity.
        allocation: Global in the paper.
        score: Magnitude.
        model: The model whose state is rewound.
        optimizer: The optimiser whose momentum is rewound.
        clock: Length of the training.
        rounds: R; ``None`` for as many as needed to prune at most 20 % of the remaining weights in each.
        rewind: Time k.

    References:
        Frankle, Dziugaite, Roy and Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020,
        arXiv 1912.05671, Algorithm 2.
        Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, arXiv 1803.03635.
    """

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        model: nn.Module,
        optimizer: Optimizer,
        clock: Clock,
        rounds: int | None = None,
        rewind: str | float = "0.05",
    ) -> None:
        super().__init__(weights, schedule, allocation, score, model, rounds)
        self.k, self.optimizer = clock.steps(rewind, "rewind"), optimizer
        if self.k >= clock.total_steps:
            raise SettingError("rewind", rewind, f"a time before the end, step {clock.total_steps}")
        self.ticket: dict[str, Any] = {}

    def before_forward(self, step: int) -> None:
        """At step k of the dense training, store w_k."""
        if step == self.k and self.training == 0 and self.rounds:
            self.ticket = snapshot(self.model, self.optimizer)

    def program(self, step: int) -> Hashable | None:
        """The same at every step of a training, except the one that stores w_k."""
        return None if step == self.k else super().program(step)

    def rewind(self, before: Mapping[str, Any]) -> int:
        """Restore w_k."""
        self.ticket = before["ticket"]
        restore(self.ticket, self.model, self.optimizer)
        return self.k

    def handover(self) -> dict[str, Any]:
        """Model, masks and w_k."""
        return {**state, "ticket": self.ticket} if (state := super().handover()) else {}

    def state_dict(self) -> dict[str, Any]:
        """Masks and w_k."""
        return {**super().state_dict(), "ticket": self.ticket}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        super().load_state_dict(state)
        self.ticket = state["ticket"]
