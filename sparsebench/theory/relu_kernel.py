"""Products of ReLU units averaged over Gaussian inputs, in closed form (arc-cosine kernel of degree 1)."""

from __future__ import annotations

import math

from torch import Tensor


def moment(cosine: Tensor) -> Tensor:
    """``E relu(s) relu(t)`` of standard normal ``s`` and ``t``: convex and increasing, 1/2 at 1 and 0 at -1.

    Args:
        cosine: Their correlation, any shape.
    """
    cosine = cosine.clamp(-1, 1)
    return ((1 - cosine**2).sqrt() + cosine * (math.pi - cosine.arccos())) / (2 * math.pi)


def kernel(units: Tensor, others: Tensor) -> Tensor:
    """``E relu(u.x) relu(w.x)`` over ``x ~ N(0, I)``: (..., m, n).

    Args:
        units: (..., m, d) none of them 0.
        others: (..., n, d) none of them 0.
    """
    lengths = units.norm(dim=-1)[..., :, None] * others.norm(dim=-1)[..., None, :]
    return lengths * moment(units @ others.transpose(-1, -2) / lengths)


def energy(
    units: Tensor, outputs: Tensor, targets: Tensor, target_outputs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The part of a two-layer network's squared error that depends on the network, with its gradient.

    ``E (f - g)² - E g²`` for ``f = sum_j outputs_j relu(units_j.x)``, ``g`` the same of the targets, ``x ~ N(0, I)``.

    Args:
        units: (..., m, d) none of them 0.
        outputs: (..., m).
        targets: (..., n, d) none of them 0.
        target_outputs: (..., n).

    Returns:
        The energy (...), its gradient in the units (..., m, d) and in the outputs (..., m).
    """
    lengths, target_lengths = units.norm(dim=-1), targets.norm(dim=-1)
    directions = units / lengths[..., None]
    within = (directions @ directions.transpose(-1, -2)).clamp(-1, 1)
    within.diagonal(dim1=-2, dim2=-1).fill_(1)  # the angle is 0 exactly
    across = (directions @ (targets / target_lengths[..., None]).transpose(-1, -2)).clamp(-1, 1)
    own, of_own = _pull(within, lengths * outputs)
    other, of_other = _pull(across, target_lengths * target_outputs)
    # own, other: E relu(direction.x) f(x) and g(x)
    found = (outputs * lengths * (own - 2 * other)).sum(-1)
    side = (of_own[0] - of_other[0])[..., None] * directions
    side = side + (of_own[1] * outputs[..., None, :]) @ units
    side = side - (of_other[1] * target_outputs[..., None, :]) @ targets
    return found, 2 * outputs[..., None] * side, 2 * lengths * (own - other)


def _pull(cosines: Tensor, weights: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """For each direction with weighted units: the sum of the kernel, of the sines, and the angles' part."""
    sines, fraction = (1 - cosines**2).sqrt() / (2 * math.pi), (math.pi - cosines.arccos()) / (2 * math.pi)
    weighted = sines @ weights[..., None]
    total = weighted + (cosines * fraction) @ weights[..., None]
    return total.squeeze(-1), (weighted.squeeze(-1), fraction)


def row_moment(inputs: int) -> float:
    """``E k(u, w)`` of a unit vector ``u`` with a ReLU unit ``w ~ N(0, I / inputs)``; 1 / (2 pi) of many inputs."""
    ratio = math.exp(math.lgamma(inputs / 2) - math.lgamma((inputs + 1) / 2))
    return math.sqrt(inputs) / (2 * math.sqrt(2) * math.pi) * ratio
