"""Continuous sparsification."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.learned import TunedSetting
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.tickets import LearnedTicket


class ContinuousSparsification(LearnedTicket):
    """Continuous sparsification: learns a soft mask for every weight that hardens over rounds, then trains the ticket.

    v = w ⊙ σ(β s) / σ(s_0) with the loss L(v) + λ Σ σ(β s); β rises geometrically from 1 to ``beta`` over the epochs.
    After a round s <- min(β s, s_0), and w is kept. The ticket is v = w ⊙ [s > 0] / σ(s_0): after the last round w is
    rewound to time ``rewind`` of the first round and trained alone.

    Args:
        model: The model, whose buffers are kept and rewound with the weights.
        weights: The prunable weights.
        optimizer: Their optimiser; s is added to it, without weight decay.
        clock: Length of each training.
        s_init: s_0; the lower, the sparser.
        rounds: Trainings with soft masks, before that of the ticket.
        beta: β at the end of a round.
        penalty: λ.
        s_lr: Learning rate of s; it follows the weights' schedule.
        rewind: Time in the first round.

    Differs from the paper:
        Every training starts with momentum zero.

    References:
        Savarese, Silva and Maire, "Winning the Lottery with Continuous Sparsification", NeurIPS 2020,
        arXiv 1912.04427, Algorithm 2.
    """

    tuned = TunedSetting("prune.s_init", densest=0.3, sparsest=-0.3)

    def __init__(
        self, model: nn.Module, weights: MaskedParameters, optimizer: torch.optim.Optimizer, clock: Clock,
        s_init: float = 0.0, rounds: int = 3, beta: float = 200.0, penalty: float = 1e-8, s_lr: float = 0.1,
        rewind: str | float = "2ep",
    ) -> None:  # fmt: skip
        s = {name: torch.full_like(w, s_init) for name, w in weights.parameters.items()}
        group = {"lr": s_lr, "weight_decay": 0.0}
        super().__init__(model, weights, optimizer, clock, s, group, rounds, rewind)
        if not beta >= 1:
            raise SettingError("beta", beta, "a temperature of at least 1")
        self.s_init, self.scale = s_init, 1 + math.exp(-s_init)
        self.beta, self.last_beta, self.penalty = 1.0, beta, penalty

    def ticket(self) -> dict[str, Tensor]:
        """[s > 0]."""
        return {name: s > 0 for name, s in self.s.items()}

    def between_rounds(self) -> None:
        """Reset s of kept weights; s of pruned weights stays strongly negative."""
        for s in self.s.values():
            s.mul_(self.last_beta).clamp_(max=self.s_init)

    def before_forward(self, step: int) -> None:
        """Set β of the epoch, and put v into the model."""
        self.beta = self.temperature(step)
        super().before_forward(step)

    def temperature(self, step: int) -> float:
        """β of the step's epoch."""
        epochs = math.ceil(self.clock.total_steps / self.clock.steps_per_epoch)
        return self.last_beta ** (step // self.clock.steps_per_epoch / max(epochs - 1, 1))

    def program(self, step: int) -> tuple[bool, float] | None:
        """The same at every step of an epoch, which has one β."""
        return None if super().program(step) is None else (self.fixed, self.temperature(step))

    def mask(self, name: str) -> Tensor:
        """σ(β s), then [s > 0]."""
        return self.weights.masks[name].float() if self.fixed else (self.beta * self.s[name]).sigmoid()

    def value(self, name: str, w: Tensor) -> Tensor:
        """V."""
        return w * (self.mask(name) * self.scale)

    def chain(self, name: str, w: Tensor, gradient: Tensor) -> None:
        """∂v/∂w is m / σ(s_0) and ∂v/∂s is w β m (1 - m) / σ(s_0), with m = σ(β s)."""
        mask = self.mask(name)
        if not self.fixed:
            self.s[name].grad = (gradient * w * self.scale + self.penalty) * self.beta * mask * (1 - mask)
        gradient.mul_(mask * self.scale)
