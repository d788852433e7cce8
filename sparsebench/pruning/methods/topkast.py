"""Top-K always sparse training."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Pruner
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class TopKAST(Pruner):
    """Top-KAST: the forward uses the largest weights, the gradient reaches some more, the rest is unchanged.

    In every layer, A contains the largest D N_l of |θ| and B ⊇ A the largest (D + M) N_l, with D = 1 - ``sparsity`` and
    M = ``extra_density``, recomputed every N (``schedule.interval``) steps. With α = 1_A ⊙ θ in the forward,

        θ_i <- θ_i - η (∂L/∂α_i + λ ρ_i θ_i) for i in B, ρ_i = 1 in A and 1/D in B outside A.

    The second term is the exploration loss (λ: the optimiser's weight decay): new weights in B have to grow against a
    stronger decay to stay. Outside B, weights and momentum are unchanged.

    Args:
        weights: The prunable weights.
        schedule: Constant sparsity; when the sets change.
        allocation: Allocation of both sets; uniform in the paper.
        score: |θ|.
        extra_density: M, the fraction of the weights that only the gradient reaches, at most the pruned fraction.

    Differs from the paper:
        The sets change every 16 steps by default instead of every step; the paper finds no harm up to 100. The
        exploration loss is part of the gradient also with AdamW.

    References:
        Jayakumar, Pascanu, Rae, Osindero and Elsen, "Top-KAST: Top-K Always Sparse Training", NeurIPS 2020,
        arXiv 2106.03517, section 2.
    """

    gradient_masks = True

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        extra_density: float = 0.1,
    ) -> None:
        super().__init__(weights, schedule, allocation, score)
        if not 0 <= extra_density <= 1:
            raise SettingError("extra_density", extra_density, "a fraction of the weights in [0, 1]")
        self.extra_density = extra_density
        self.decay = weights.disable_weight_decay_()

    def before_forward(self, step: int) -> None:
        """Update A and B if due, and put 1_A ⊙ θ into the model."""
        if self.schedule.due(step):
            sparsity = self.schedule.sparsity(step)
            scores = self.score(self.weights.weights())
            larger = self.allocation(scores, max(sparsity - self.extra_density, 0.0))
            self.weights.set_masks(self.allocation(scores, sparsity), backward=larger)
            self.weights.project_optimizer_()
        self.weights.hide_()

    @torch.no_grad()
    def after_backward(self, step: int) -> bool:
        """Mask the gradient by B, and add the exploration loss."""
        self.weights.restore_()
        self.weights.mask_grads_()
        density = 1 - self.schedule.sparsity(step)
        backward = self.weights.backward or self.weights.masks
        for name, theta in self.weights.parameters.items():
            if theta.grad is not None:
                rho = torch.where(self.weights.masks[name], 1.0, 1 / density) * backward[name]
                theta.grad.add_(theta * rho, alpha=self.decay)
        return True

    def program(self, step: int) -> tuple[bool, float] | None:
        """Steps with a change of the sets, and the others; the sparsity is constant."""
        due = self.schedule.due(step)
        return None if due and not self.records_updates else (due, self.schedule.sparsity(step))

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluate the weights of A."""
        return self.weights.applied()
