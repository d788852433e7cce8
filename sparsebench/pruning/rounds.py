"""Several trainings in a row: train, prune what is smallest, train again."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sparsebench.errors import SettingError, require_int
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Pruner
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class Rounds(Pruner):
    """Iterative magnitude pruning: a dense training, then rounds of pruning and training again.

    Round r of R prunes to the density (1 - s)^{r/R}, the smallest |w_T| of what the round before has left, and trains
    again with a fixed mask. What it trains from, and from which step on, is a method's own.

    Args:
        weights: The prunable weights.
        schedule: Gives the target sparsity.
        allocation: Turns scores into masks.
        score: What to keep of the trained weights.
        model: Whose state goes from one training to the next.
        rounds: R; ``None`` for as many as it takes to prune at most 20 % of what is left in each.
    """

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        model: nn.Module,
        rounds: int | None = None,
    ) -> None:
        super().__init__(weights, schedule, allocation, score)
        require_int("rounds", rounds, least=1, optional=True)
        wanted = math.ceil(math.log(1 - schedule.target_sparsity) / math.log(0.8) - 1e-9)
        self.rounds = 0 if schedule.target_sparsity == 0 else rounds or wanted
        self.trainings, self.training, self.model = self.rounds + 1, 0, model

    def scheduled_sparsity(self, step: int) -> float:
        """1 - (1 - s)^{r/R}, through the whole training r."""
        if self.training == self.rounds:
            return self.schedule.target_sparsity
        return 1 - (1 - self.schedule.target_sparsity) ** (self.training / self.rounds)

    def begin(self, training: int, before: Mapping[str, Any]) -> int:
        """Prune what the training before has left, then :meth:`rewind`; the first training is dense."""
        self.training = training
        if training == 0:
            return 0
        self.model.load_state_dict(before["model"])
        scores = self.score(self.weights.weights())
        for name, kept in before["masks"].items():
            scores[name].masked_fill_(~kept.to(scores[name].device), -math.inf)  # once pruned stays pruned
        self.weights.set_masks(self.allocation(scores, self.scheduled_sparsity(0)))
        first_step = self.rewind(before)
        self.weights.project_()
        return first_step

    def rewind(self, before: Mapping[str, Any]) -> int:
        """Put the model where a round trains from, and return the step it starts at."""
        raise TypeError(f"{type(self).__name__} does not say where rounds start")

    def handover(self) -> dict[str, Any]:
        """The trained model and its masks, for the next round."""
        if self.training == self.rounds:
            return {}
        return copy.deepcopy({"model": self.model.state_dict(), "masks": self.weights.masks})

    def after_backward(self, step: int) -> bool:
        """Pruned weights have weight, momentum and gradient zero: they stay zero."""
        self.weights.mask_grads_()
        return True

    def summary(self) -> dict[str, float | int | str]:
        """Which round, of how many."""
        return {"round": self.training, "rounds": self.rounds}


def retraining_start(time: str | float, total_steps: int, steps: int) -> int:
    """The step at which the last ``steps`` of a training start.

    Raises:
        SettingError: They are none, or more than there are.
    """
    if not 0 < steps <= total_steps:
        raise SettingError(
            "retrain", time, f"a time of at least one step and at most the training, {total_steps} steps"
        )
    return total_steps - steps


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of the model's state and of the optimiser's (momentum), without its learning rate."""
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]})


def restore(state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put :func:`snapshot` back."""
    model.load_state_dict(state["model"])
    # A copy: the optimiser goes on in the tensors that it is given, and the next round comes back to these.
    optimizer.load_state_dict({**optimizer.state_dict(), "state": copy.deepcopy(state["optimizer"])})
