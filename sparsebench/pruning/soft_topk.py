"""A soft top-k mask and its derivative: regularised optimal transport between weights and {kept, pruned}."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsebench.pruning.parameters import MaskedParameters

ITERATIONS = 16
"""Newton iterations for the threshold, with bisection if a step would leave the interval."""


@torch.no_grad()
def soft_topk(values: Mapping[str, Tensor], kept: Tensor, beta: float) -> dict[str, Tensor]:
    """The m in [0, 1] with Σ m = k that maximises Σ m v + H(m) / β, for costs of one: m_i = σ(β (v_i - τ)).

    H is the binary entropy summed over weights; for β -> ∞, m is the mask of the k largest. The threshold τ is found by
    Newton's method with a fixed number of iterations, to avoid synchronising with the device.

    Args:
        values: Name -> v.
        kept: k, a scalar on their device, between 1 and the number of values.
        beta: β.

    References:
        Tai, Tian and Lim, "Spartan: Differentiable Sparsity via Regularized Transportation", NeurIPS 2022,
        arXiv 2205.14107, section 3.
    """
    flat = torch.cat([v.reshape(-1) for v in values.values()])
    # bracket: all m_i ≥ k / n at ``low``, and all m_i ≤ k / n at ``high``
    spread = torch.logit(kept.double() / flat.numel()).to(flat.dtype) / beta
    low, high = flat.min() - spread, flat.max() - spread
    threshold = (low + high) / 2
    for _ in range(ITERATIONS):
        mask = (beta * (flat - threshold)).sigmoid()
        excess = mask.sum() - kept
        low, high = torch.where(excess >= 0, threshold, low), torch.where(excess >= 0, high, threshold)
        step = threshold + excess / (beta * (mask * (1 - mask)).sum())
        threshold = torch.where((low <= step) & (step <= high), step, (low + high) / 2)
    return {name: (beta * (v - threshold)).sigmoid() for name, v in values.items()}


@torch.no_grad()
def soft_topk_gradient(
    gradients: Mapping[str, Tensor], masks: Mapping[str, Tensor], beta: float
) -> dict[str, Tensor]:
    """∂L/∂v from ∂L/∂m = g: β m (1 - m) (g - c), with c such that the sum is zero, since the threshold depends on v.

    Args:
        gradients: Name -> g.
        masks: Name -> m, of :func:`soft_topk`.
        beta: β.
    """
    slopes = {name: masks[name] * (1 - masks[name]) for name in gradients}
    weighted = torch.stack([(g * slopes[name]).sum() for name, g in gradients.items()]).sum()
    total = torch.stack([slope.sum() for slope in slopes.values()]).sum()
    # The slope is zero if everything is kept.
    mean = weighted / total.clamp_min(torch.finfo(total.dtype).tiny)
    return {name: beta * slopes[name] * (g - mean) for name, g in gradients.items()}


class SoftMask:
    """Soft top-k masks m(|w|) of prunable weights, where k is the number of weights kept by the hard masks.

    Args:
        weights: The prunable weights.
        shared: Whether all layers share one k and threshold, instead of one per layer.
    """

    def __init__(self, weights: MaskedParameters, shared: bool) -> None:
        self.weights = weights
        self.m = {name: torch.ones_like(w).detach() for name, w in weights.parameters.items()}
        self.groups = [list(self.m)] if shared else [[name] for name in self.m]

    def follow(self, beta: float) -> None:
        """Update m from the present weights and hard masks."""
        weights = self.weights.weights()
        for group in self.groups:
            kept = torch.stack([self.weights.masks[name].sum() for name in group]).sum()
            self.m |= soft_topk({name: weights[name].abs() for name in group}, kept, beta)

    @torch.no_grad()
    def chain_(self, beta: float, frozen: bool) -> None:
        """Chain rule from w ⊙ m to w, in place: m ⊙ g, plus sign(w) ⊙ ∂m/∂|w| (w ⊙ g) unless m is ``frozen``."""
        weights = self.weights.parameters
        gradients = {name: w.grad for name, w in weights.items() if w.grad is not None}
        for group in self.groups:
            by_mask = {name: gradients[name] * weights[name] for name in group if name in gradients}
            by_size = {} if frozen else soft_topk_gradient(by_mask, self.m, beta)
            for name in by_mask:
                gradients[name].mul_(self.m[name])
                if not frozen:
                    gradients[name].add_(weights[name].sign() * by_size[name])
