"""Iterative pruning: train, prune the smallest weights, train again."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Mapping
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

    Round r of R prunes the smallest |w_T| kept by the round before, to the density (1 - s)^{r/R}, and trains again with
    a fixed mask. Methods define the weights and the step that a round starts from.

    Args:
        weights: The prunable weights.
        schedule: Provides the target sparsity.
        allocation: Turns scores into masks.
        score: Score of the trained weights.
        model: The model whose state is passed from one training to the next.
        rounds: R; ``None`` for as many as needed to prune at most 20 % of the remaining weights in each.
    """

    asks_schedule = "target"

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
        """1 - (1 - s)^{r/R} during training r."""
        if self.training == self.rounds:
            return self.schedule.target_sparsity
        return 1 - (1 - self.schedule.target_sparsity) ** (self.training / self.rounds)

    def begin(self, training: int, before: Mapping[str, Any]) -> int:
        """Prune the weights of the previous training, then :meth:`rewind`; the first training is dense."""
        self.training = training
        if training == 0:
            return 0
        self.model.load_state_dict(before["model"])
        scores = self.score(self.weights.weights())
        for name, kept in before["masks"].items():
            scores[name].masked_fill_(~kept.to(scores[name].device), -math.inf)  # pruned weights stay pruned
        self.weights.set_masks(self.allocation(scores, self.scheduled_sparsity(0)))
        first_step = self.rewind(before)
        self.weights.project_()
        return first_step

    def rewind(self, before: Mapping[str, Any]) -> int:
        """Set the model to the state that a round starts from; returns its first step."""
        raise TypeError(f"{type(self).__name__} does not implement rewind()")

    def handover(self) -> dict[str, Any]:
        """The trained model and its masks, for the next round."""
        if self.training == self.rounds:
            return {}
        return copy.deepcopy({"model": self.model.state_dict(), "masks": self.weights.masks})

    def after_backward(self, step: int) -> bool:
        """Mask gradients: pruned weights have zero value, momentum and gradient, so they stay zero."""
        self.weights.mask_grads_()
        return True

    def program(self, step: int) -> Hashable | None:
        """The same at every step of a training."""
        return "masked gradients"

    def summary(self) -> dict[str, float | int | str]:
        """The round, and the number of rounds."""
        return {"round": self.training, "rounds": self.rounds}


def retraining_start(time: str | float, total_steps: int, steps: int) -> int:
    """The step at which the last ``steps`` of a training start.

    Raises:
        SettingError: ``steps`` is not between 1 and ``total_steps``.
    """
    if not 0 < steps <= total_steps:
        raise SettingError(
            "retrain", time, f"a time between one step and the whole training, {total_steps} steps"
        )
    return total_steps - steps


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of the model's state and of the optimiser's (momentum), without hyperparameters."""
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]})


def restore(state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore a :func:`snapshot`."""
    model.load_state_dict(state["model"])
    # A copy, because the optimiser updates these tensors in place and the next round needs them again.
    optimizer.load_state_dict({**optimizer.state_dict(), "state": copy.deepcopy(state["optimizer"])})
