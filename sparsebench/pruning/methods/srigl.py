"""Structured RigL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Allocation, lowest
from sparsebench.pruning.dynamic import best_inputs, drop, grow, kept_fraction
from sparsebench.pruning.methods.rigl import RigL
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score


class SRigL(RigL):
    """Structured RigL: constant fan-in within each layer, with ablation of neurons that matter little.

    At RigL's mask updates, in a layer with a budget of n_l weights: (1) the salient weights are the kept ones except
    the ⌊α_t nnz_l⌋ smallest |w|, and as many with the largest |∂L/∂w|; (2) neurons with fewer than
    max(1, ⌊γ ⌊n_l / neurons⌋⌋) salient weights are ablated, and may return later; (3) each of the n others has
    k = ⌊n_l / n⌋ inputs: the largest |w| of those kept in (1), then the largest |∂L/∂w|. So layer l has at most n_l
    weights, and more than n_l - n.

    Args:
        weights: The prunable weights; neurons are the rows (filters) of a weight.
        schedule: Constant sparsity; when masks change.
        allocation: Determines n_l; ERK in the paper.
        score: Score of the initial inputs of each neuron: random.
        drop_fraction: α, in (0, 1].
        min_salient: γ, in [0, 1]; 0.3 for convolutional networks in the paper.

    Differs from the paper:
        The last prunable layer is never ablated, whether it is the classifier or not. Initial weights are rescaled to
        the sparse fan-in instead of redrawn. If n_l < neurons, only n_l neurons are active at first.

    References:
        Lasby, Golubeva, Evci, Nica and Ioannou, "Dynamic Sparse Training with Structured Sparsity", ICLR 2024,
        arXiv 2305.02299, section 3.
    """

    def __init__(
        self,
        weights: MaskedParameters,
        schedule: Schedule,
        allocation: Allocation,
        score: Score,
        drop_fraction: float = 0.3,
        min_salient: float = 0.3,
    ) -> None:
        super().__init__(weights, schedule, allocation, score, drop_fraction)
        if not 0 <= min_salient <= 1:
            raise SettingError("min_salient", min_salient, "a fraction of a neuron's inputs in [0, 1]")
        self.min_salient = min_salient
        drawn = allocation(score(weights.weights(), torch.Generator()), schedule.target_sparsity)
        self.budgets = {name: int(mask.sum()) for name, mask in drawn.items()}  # n_l

    def target_zeros(self, step: int) -> None:
        """None: equal fan-ins rarely add up to the target."""

    @torch.no_grad()
    def on_start(self, probe: Probe) -> None:
        """Choose random inputs for every neuron, and scale weights to the smaller fan-in."""
        self.generator.set_state(probe.generator.get_state())
        random, masks = self.score(self.weights.weights(), self.generator), {}
        for name, weight in self.weights.parameters.items():
            n = min(self.budgets[name], len(weight))
            active, k = lowest(-random[name].flatten(1).amax(1), n), self.budgets[name] // max(n, 1)
            masks[name] = best_inputs(random[name], active, k)
            weight.mul_(math.sqrt(weight[0].numel() / max(k, 1)))
        self.weights.set_masks(masks)
        self.weights.project_()

    def program(self, step: int) -> bool | None:
        """The same at every step between mask updates, which read values."""
        return None if self.updates(step) else False

    def numbers(self, step: int) -> list[float]:
        """None: mask updates are not recorded."""
        return []

    def swap(self, name: str, size: Tensor, gradient: Tensor, fraction: float | Tensor) -> Tensor:
        """The next mask of one layer from its |w| and |∂L/∂w|."""
        mask, budget = self.weights.masks[name], self.budgets[name]
        swaps = kept_fraction(mask, fraction).floor().long()
        kept = drop(mask, swaps, size)
        salient = (kept | grow(torch.zeros_like(mask), swaps, gradient)).flatten(1).sum(1).float()
        active = mask.flatten(1).any(1)
        if name != list(self.weights.masks)[-1]:  # enough neurons that k is at most the dense fan-in
            least = max(1, math.floor(self.min_salient * (budget // len(mask))))
            active = (salient >= least) | lowest(-salient, math.ceil(budget / mask[0].numel()))
        k = budget // active.sum().clamp_min(1)
        stays = kept & best_inputs(size.masked_fill(~kept, -math.inf), active, k)
        return best_inputs(gradient.masked_fill(stays, math.inf), active, k)
