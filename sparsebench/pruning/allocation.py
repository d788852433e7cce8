"""Where the zeros go: from scores and a sparsity to masks with exactly the asked number of zeros."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def zeros_for(sparsity: float, numel: int) -> int:
    """The number of zeros that ``sparsity`` asks of ``numel`` weights: s·N rounded half up.

    Example:
        >>> zeros_for(0.9, 267696)
        240926
    """
    return math.floor(sparsity * numel + 0.5)


@torch.no_grad()
def lowest(scores: Tensor, count: int) -> Tensor:
    """True for exactly the ``count`` lowest of ``scores`` (1-d, float32); of equal ones the first by index.

    By selection, not by a full sort, where the device has a fast one: NumPy's partition on the CPU took
    0.04 s for 25 million scores, ``kthvalue`` 0.5 s and ``sort`` 3.5 s (scripts/bench_select.py).
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if scores.device.type == "cpu":
        threshold = float(np.partition(scores.numpy(), count - 1)[count - 1])
        chosen, ties = scores < threshold, (scores == threshold).nonzero().squeeze(1)
        chosen[ties[: count - int(chosen.sum())]] = True
        return chosen
    cut = scores.sort().values[count - 1]  # no transfer to the host: the stream goes on
    chosen, tied = scores < cut, scores == cut
    return chosen | (tied & (tied.cumsum(0) <= count - chosen.sum()))


def exact_counts(real: Callable[[float], Sequence[float]], caps: Sequence[int], total: int) -> list[int]:
    """Whole numbers of zeros per layer that add up to ``total``.

    They are ``real(s)`` rounded half up, at the sparsity s where the rounded numbers add up (found by bisection;
    layers that jump at the same s are served in order). As a function of ``total`` every layer's number never
    falls, so masks of a rising schedule can nest; rounding by the largest remainder does not have that.

    Args:
        real: Sparsity -> zeros of every layer as a real number, none falling as sparsity rises.
        caps: Most zeros that each layer may have.
        total: The sum to reach; never more than ``sum(caps)`` is given out.
    """

    def rounded(sparsity: float) -> list[int]:
        return [min(math.floor(z + 0.5), cap) for z, cap in zip(real(sparsity), caps, strict=True)]

    low, high = 0.0, 1.0
    below, above = rounded(low), list(caps)
    while (middle := (low + high) / 2) not in (low, high) and sum(below) != total:
        counts = rounded(middle)
        if sum(counts) <= total:
            low, below = middle, counts
        else:
            high, above = middle, counts
    missing = total - sum(below)
    for layer, most in enumerate(above):
        given = min(missing, max(most - below[layer], 0))
        below[layer] += given
        missing -= given
    return below


class Allocation:
    """Turns scores into masks with exactly the asked number of zeros; True = kept.

    Equal scores are pruned in the order of their index, so that every rank gets the same masks.

    Args:
        allow_layer_collapse: Let a layer lose all its weights. If not, the best weight of every layer is
            kept as long as the total allows it, and the total stays exact.
    """

    def __init__(self, allow_layer_collapse: bool = False) -> None:
        self.allow_layer_collapse = allow_layer_collapse

    def __call__(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks (name -> bool tensor of the score's shape) with ``zeros_for(sparsity, numel)`` zeros."""
        raise TypeError(f"{type(self).__name__} does not allocate")


class Global(Allocation):
    """One ranking over all layers: layers compete, and the scores decide each one's sparsity.

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, arXiv 2006.07253, section 5.
    """

    def __call__(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Prune the lowest scores of all layers together."""
        flat = torch.cat([score.reshape(-1) for score in scores.values()])
        if not self.allow_layer_collapse:
            start = 0
            for score in scores.values():
                flat[start + flat[start : start + score.numel()].argmax()] = math.inf
                start += score.numel()
        kept = lowest(flat, zeros_for(sparsity, flat.numel())).logical_not_()
        pieces = kept.split([score.numel() for score in scores.values()])
        return {
            name: piece.view(score.shape) for (name, score), piece in zip(scores.items(), pieces, strict=True)
        }


class LayerWise(Allocation):
    """Every layer has a sparsity of its own, given by its shape; scores rank within a layer only."""

    def zeros(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
        """Zeros of every layer, as real numbers that add up to sparsity · N."""
        raise TypeError(f"{type(self).__name__} has no layer sparsities")

    def __call__(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Prune the lowest scores of each layer."""
        shapes = [tuple(score.shape) for score in scores.values()]
        numels = [score.numel() for score in scores.values()]
        total = zeros_for(sparsity, sum(numels))
        caps = [
            n if self.allow_layer_collapse or total > sum(numels) - len(numels) else n - 1 for n in numels
        ]
        counts = exact_counts(lambda s: self.zeros(shapes, s), caps, total)
        return {
            name: lowest(score.reshape(-1), count).logical_not_().view(score.shape)
            for (name, score), count in zip(scores.items(), counts, strict=True)
        }


class Uniform(LayerWise):
    """The same sparsity in every layer.

    References:
        Zhu and Gupta, "To prune, or not to prune", ICLR workshop 2018, arXiv 1710.01878.
    """

    def zeros(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
        """S · N_l."""
        return [sparsity * math.prod(shape) for shape in shapes]


class ERK(LayerWise):
    """Erdős-Rényi-Kernel: density in proportion to the sum of a layer's dimensions over their product.

    density_l = ε (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w), a linear layer without the kernel. ε
    makes the total right; a layer whose density would exceed 1 is dense and the others are solved again.

    Differs from the paper:
        Counts are rounded so that the total is exact, not floored layer by layer.

    References:
        Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv 1911.11134, section 3.
        Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
        inspired by network science", Nature Communications 2018, arXiv 1707.04780.
    """

    def zeros(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
        """(1 - density_l) N_l."""
        numels = [math.prod(shape) for shape in shapes]
        raw = [sum(shape) / numel for shape, numel in zip(shapes, numels, strict=True)]
        density = [1.0] * len(shapes)
        free = set(range(len(shapes)))
        while free:
            budget = (1 - sparsity) * sum(numels) - sum(n for i, n in enumerate(numels) if i not in free)
            epsilon = budget / sum(raw[i] * numels[i] for i in free)
            densest = max(raw[i] for i in free)
            if epsilon * densest <= 1:
                density = [epsilon * raw[i] if i in free else 1.0 for i in range(len(shapes))]
                break
            free = {i for i in free if raw[i] != densest}
        return [(1 - d) * n for d, n in zip(density, numels, strict=True)]
