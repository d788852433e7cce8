"""Soft threshold weight reparametrisation."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsebench.pruning.learned import Learned, TunedSetting
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe


class STR(Learned):
    """Soft threshold reparametrisation: every layer learns the threshold below which its weights are zero.

    v = sign(w) ⊙ relu(|w| - σ(s_l)), hence ∂L/∂w = [v ≠ 0] ∂L/∂v and ∂L/∂s_l = -σ'(s_l) Σ [v ≠ 0] sign(w) ∂L/∂v, with
    one s_l per layer, initially ``s_init``. There is no target sparsity: it results from s_init, weight decay and the
    length of training. Weight decay also applies to s_l; where σ(s_init) is 0 in float32, only that moves it at first.

    Args:
        weights: The prunable weights.
        optimizer: Their optimiser; the thresholds are added with the same learning rate and weight decay.
        s_init: Initial value of all s_l; the higher, the sparser.

    Differs from the paper:
        s_init suits trainings of about a thousand steps; the paper's (-3200 for 90 % with weight decay 2.25e-5)
        leaves these dense.

    References:
        Kusupati, Ramanujan, Somani, Wortsman, Jain, Kakade and Farhadi, "Soft Threshold Weight Reparameterization for
        Learnable Sparsity", ICML 2020, arXiv 2002.03231, section 3.
    """

    tuned = TunedSetting("prune.s_init", densest=-20.0, sparsest=0.0)

    def __init__(
        self, weights: MaskedParameters, optimizer: torch.optim.Optimizer, s_init: float = -2.3
    ) -> None:
        super().__init__(
            weights, optimizer, {name: torch.tensor(float(s_init)) for name in weights.parameters}
        )

    def value(self, name: str, w: Tensor) -> Tensor:
        """Soft threshold: v = sign(w) max(|w| - σ(s), 0)."""
        return w.sign() * (w.abs() - self.s[name].sigmoid()).relu()

    def chain(self, name: str, w: Tensor, gradient: Tensor) -> None:
        """∂v/∂w is 1 and ∂v/∂s is -σ'(s) sign(w) where v ≠ 0."""
        gradient.mul_(self.weights.masks[name])
        threshold = self.s[name].sigmoid()
        self.s[name].grad = -threshold * (1 - threshold) * (gradient * w.sign()).sum()

    def on_start(self, probe: Probe) -> None:
        """Initialise the masks."""
        self.follow()

    def after_step(self, step: int) -> None:
        """Update the masks from the weights."""
        self.follow()

    def follow(self) -> None:
        """Set masks to the non-zero values."""
        self.weights.set_masks({name: v != 0 for name, v in self.values().items()})
