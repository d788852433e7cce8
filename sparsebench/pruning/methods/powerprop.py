"""Powerpropagation."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.methods.gmp import GMP
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class Powerprop(GMP):
    """Powerpropagation: weights are powers of the trained parameters, so large weights learn faster than small ones.

    w = θ |θ|^(α-1), hence ∂L/∂θ = ∂L/∂w · α |θ|^(α-1): θ = 0 is a critical point. θ starts at sign(w_0) |w_0|^(1/α),
    so the initial network is unchanged. Weights are pruned by |w| along the schedule as in GMP; with α (``alpha``) = 1
    it is bitwise equal to GMP.

    Args:
        weights: The prunable weights.
        schedule: When weights are pruned, and how many.
        allocation: Turns scores into masks.
        score: |w|.
        alpha: α, at least 1.

    Differs from the paper:
        The optimiser's weight decay is applied as L2 on w, through the chain rule like the loss.

    References:
        Schwarz, Jayakumar, Pascanu, Latham and Teh, "Powerpropagation: A sparsity inducing weight
        reparameterisation", NeurIPS 2021, arXiv 2110.00296, section 2.
    """

    reparametrizes = True

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        alpha: float = 2.0,
    ) -> None:
        super().__init__(weights, schedule, allocation, score)
        if not alpha >= 1:
            raise SettingError("alpha", alpha, "a power of at least 1")
        self.alpha = alpha
        self.decay = weights.disable_weight_decay_()

    @torch.no_grad()
    def on_start(self, probe: Probe) -> None:
        """θ_0 from w_0."""
        for theta in self.weights.parameters.values():
            theta.copy_(theta.sign() * theta.abs().pow(1 / self.alpha))

    def values(self) -> dict[str, Tensor]:
        """The network's weights, w = θ |θ|^(α-1)."""
        return {n: theta * theta.abs().pow(self.alpha - 1) for n, theta in self.weights.weights().items()}

    def before_forward(self, step: int) -> None:
        """Put w into the model."""
        self.weights.hide_(self.values())

    @torch.no_grad()
    def after_backward(self, step: int) -> bool:
        """Chain rule from ∂L/∂w to ∂L/∂θ, with weight decay on w; gradients of pruned weights are masked."""
        for w in self.weights.parameters.values():
            if w.grad is not None:
                w.grad.add_(w, alpha=self.decay)
        self.weights.restore_()
        for theta in self.weights.parameters.values():
            if theta.grad is not None:
                theta.grad.mul_(self.alpha * theta.abs().pow(self.alpha - 1))
        return super().after_backward(step)

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluate the network's weights."""
        return self.weights.applied(self.values())

    def on_end(self) -> None:
        """Leave w in the model."""
        self.weights.bake_(self.values())
