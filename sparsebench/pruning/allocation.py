"""Allocations: from scores and a sparsity to masks with exactly the requested number of zeros."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sparsebench.errors import SettingError, one_of
from sparsebench.pruning.parameters import count_kept
from sparsebench.transfer import send

COMPAT = ("above_threshold", "floor", "bernoulli")
"""Rules of published code. ``above_threshold``: keep what is strictly above the weight of rank ⌊s N⌋, which prunes one
weight too many, and all ties with it (OpenLTH; third-party DPF). ``floor``: prune ⌊s N_l⌋ (RigL, SynFlow).
``bernoulli``: keep every weight with probability 1 - s_l, so the number is random (sparse momentum, ITOP, GraNet)."""

SAMPLE, CHUNK = 2**16, 2**19
"""Scores of which bounds of a selection are estimated, and that are looked at while they are in a CPU's cache."""


def zeros_for(sparsity: float, numel: int) -> int:
    """Number of zeros among ``numel`` weights for ``sparsity``: s·N rounded half up.

    Example:
        >>> zeros_for(0.9, 267696)
        240926
    """
    return math.floor(sparsity * numel + 0.5)  # not round(): that rounds halves to even


@torch.no_grad()
def lowest(scores: Tensor, count: int | Tensor) -> Tensor:
    """True for exactly the ``count`` lowest of ``scores`` (1-d, float32); ties are broken by index.

    A ``count`` may be a 0-d tensor on the scores' device; only a CPU reads it, so that nothing waits for the device.

    On a CPU by selection, which takes less time than ``abs().max()`` of 25 million scores (scripts/bench_select.py);
    elsewhere by sorting.
    """
    if scores.device.type == "cpu":
        return lowest_by_selection(scores, int(count))
    return lowest_by_sort(scores, count)


def lowest_by_selection(scores: Tensor, count: int) -> Tensor:
    """:func:`lowest` on a CPU; of many scores, only those between two bounds from a sample are ranked."""
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    low, high = _bounds(scores, count) if len(scores) >= 4 * SAMPLE else (math.nan, math.nan)
    if not low <= high:  # few scores, or some that are not numbers
        return torch.from_numpy(_lowest(scores.numpy(), count))
    chosen, up_to, where = (
        torch.empty_like(scores, dtype=torch.bool),
        torch.empty(CHUNK, dtype=torch.bool),
        [],
    )
    for start in range(0, len(scores), CHUNK):  # while a chunk is in the cache
        chunk, below = scores[start : start + CHUNK], chosen[start : start + CHUNK]
        torch.lt(chunk, low, out=below)
        between = torch.le(chunk, high, out=up_to[: len(chunk)]).logical_xor_(below)
        where.append(np.flatnonzero(between.numpy()) + start)
    indices = np.concatenate(where)  # ascending
    missing = count - int(np.count_nonzero(chosen.numpy()))
    if not 0 < missing <= len(indices):  # the sample misled
        return torch.from_numpy(_lowest(scores.numpy(), count))
    chosen.numpy()[indices] = _lowest(scores.numpy()[indices], missing)
    return chosen


def _lowest(scores: np.ndarray, count: int) -> np.ndarray:
    threshold = np.partition(scores, count - 1)[count - 1]  # O(N) selection
    chosen, ties = scores < threshold, np.flatnonzero(scores == threshold)
    chosen[ties[: count - np.count_nonzero(chosen)]] = True  # fill up with the first ties
    return chosen


def _bounds(scores: Tensor, count: int) -> tuple[float, float]:
    """Two bounds with the ``count``-th lowest score between them, very probably, and few others."""
    sample = np.sort(scores[:: max(len(scores) // SAMPLE, 1)].numpy())
    expected = len(sample) * count / len(scores)
    margin = 2 + 4 * math.sqrt(expected * (1 - count / len(scores)))  # standard deviations of a random sample
    first, last = math.floor(expected - margin), math.ceil(expected + margin)
    return (
        float(sample[first]) if first >= 0 else -math.inf,
        float(sample[last]) if last < len(sample) else math.inf,
    )


def lowest_by_sort(scores: Tensor, count: int | Tensor) -> Tensor:
    """:func:`lowest` on any device: reads no value and makes no list of indices, so that nothing waits."""
    ordered = scores.sort().values
    if isinstance(count, int):
        cut = ordered[max(count - 1, 0)]
    else:
        cut = ordered.index_select(0, (count - 1).clamp_min(0).view(1))  # an index of 0-d would be read
    chosen = scores < cut  # [N] bool; at most count
    tied = scores == cut  # [N] bool
    return chosen | (tied & (tied.cumsum(0) <= count - chosen.sum()))


def exact_counts(real: Callable[[float], Sequence[float]], caps: Sequence[int], total: int) -> list[int]:
    """Integer numbers of zeros per layer that sum to ``total``.

    They are ``real(s)`` rounded half up, at the sparsity s at which the rounded numbers sum to ``total`` (found by
    bisection; layers that jump at the same s are served in order). Every layer's number is monotone in ``total``, so
    masks of a rising schedule can nest; rounding by the largest remainder does not guarantee that.

    Args:
        real: Sparsity -> zeros of every layer as real numbers, monotone in the sparsity.
        caps: Maximum number of zeros of each layer.
        total: The sum; at most ``sum(caps)`` is assigned.
    """

    def rounded(sparsity: float) -> list[int]:
        return [min(math.floor(z + 0.5), cap) for z, cap in zip(real(sparsity), caps, strict=True)]

    low, high = 0.0, 1.0  # brackets the sparsity s
    below, above = rounded(low), list(caps)  # zeros per layer at both ends
    while (middle := (low + high) / 2) not in (low, high) and sum(below) != total:
        counts = rounded(middle)
        if sum(counts) <= total:
            low, below = middle, counts  # invariant: sum(below) <= total
        else:
            high, above = middle, counts  # sum(above) > total
    missing = total - sum(below)  # > 0 only if several layers jump at the same s
    for layer, most in enumerate(above):
        given = min(missing, max(most - below[layer], 0))  # layers that jump, in order
        below[layer] += given
        missing -= given
    return below


class Allocation:
    """Turns scores into masks with exactly the requested number of zeros; True = kept.

    Ties are broken by index, so that every rank gets the same masks.

    Args:
        allow_layer_collapse: Allow a layer to lose all its weights. Otherwise the best weight of every layer is kept
            as long as the total allows it; the total stays exact.
        compat: Use a rule of published code instead, which misses the requested number (:data:`COMPAT`).
    """

    def __init__(self, allow_layer_collapse: bool = False, compat: str | None = None) -> None:
        if compat is not None and compat not in COMPAT:
            raise SettingError("compat", compat, one_of(COMPAT, compat))
        self.allow_layer_collapse, self.compat = allow_layer_collapse, compat

    def __call__(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks (name -> bool tensor of the score's shape) with ``zeros_for(sparsity, numel)`` zeros."""
        raise TypeError(f"{type(self).__name__} does not implement __call__()")

    def counts(self, shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> list[int]:
        """Numbers of zeros that ``sparsity`` means for layers of these shapes, as :meth:`prune` takes them."""
        raise TypeError(f"{type(self).__name__} does not implement counts()")

    def prune(self, scores: Mapping[str, Tensor], counts: Sequence[int | Tensor]) -> dict[str, Tensor]:
        """Masks with these numbers of zeros, which may be 0-d tensors on the scores' device."""
        raise TypeError(f"{type(self).__name__} does not implement prune()")

    @property
    def recordable(self) -> bool:
        """Whether masks follow from scores and :meth:`counts` by operations on the device alone."""
        return self.compat is None and type(self).prune is not Allocation.prune

    def check(self, shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> None:
        """Raise before training if the layers (name -> shape) cannot have ``sparsity``."""


@torch.no_grad()
def published_mask(scores: Tensor, zeros: float, compat: str) -> Tensor:
    """Mask of ``scores`` (1-d) by the rule ``compat`` of :data:`COMPAT`, where s N = ``zeros``."""
    if compat == "bernoulli":
        return send(torch.rand(scores.numel()) >= zeros / scores.numel(), scores.device)  # CPU draw
    if compat == "floor":
        return lowest(scores, math.floor(zeros)).logical_not_()  # True = kept
    return scores > scores.sort().values[min(math.floor(zeros), scores.numel() - 1)]  # strict


class Global(Allocation):
    """One ranking over all layers, so that the scores determine each layer's sparsity.

    Example:
        >>> scores = {"a": torch.tensor([9.0, 1.0]), "b": torch.tensor([5.0, 4.0, 3.0, 2.0])}
        >>> {name: mask.tolist() for name, mask in Global()(scores, 0.5).items()}
        {'a': [True, False], 'b': [True, True, False, False]}

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, arXiv 2006.07253, section 5.
    """

    def __call__(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Prune the lowest scores over all layers."""
        if self.compat is None:
            return self.prune(scores, self.counts({n: tuple(s.shape) for n, s in scores.items()}, sparsity))
        flat = joined(list(self.ranked(scores).values()))  # [N] float32
        return self.split(published_mask(flat, sparsity * flat.numel(), self.compat), scores)

    def counts(self, shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> list[int]:
        """The number of zeros of all layers together."""
        return [zeros_for(sparsity, sum(math.prod(shape) for shape in shapes.values()))]

    def prune(self, scores: Mapping[str, Tensor], counts: Sequence[int | Tensor]) -> dict[str, Tensor]:
        """Prune the ``counts[0]`` lowest scores."""
        flat = joined(list(self.ranked(scores).values()))  # [N] float32
        if self.allow_layer_collapse:
            kept = lowest(flat, counts[0]).logical_not_()  # [N] bool, True = kept
        else:
            kept = self.keep_layers(flat, [score.numel() for score in scores.values()], counts[0])
        return self.split(kept, scores)

    def ranked(self, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The scores as all layers are ranked by them."""
        return scores

    @staticmethod
    def split(kept: Tensor, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mask of each layer, from those of all one after the other, [N]."""
        pieces = kept.split([score.numel() for score in scores.values()])  # views, no copies
        return {
            name: piece.view(score.shape) for (name, score), piece in zip(scores.items(), pieces, strict=True)
        }

    @staticmethod
    def keep_layers(flat: Tensor, numels: Sequence[int], zeros: int | Tensor) -> Tensor:
        """The mask with ``zeros`` zeros that keeps the best weight of every layer, [N] bool, True = kept."""
        if isinstance(zeros, int) and flat.device.type == "cpu":  # else looking for a lost layer would wait
            kept = lowest(flat, zeros).logical_not_()
            counts = count_kept(kept.split(list(numels)))
            if counts.min() > 0 and counts.sum() == len(flat) - zeros:  # the latter false if scores are NaN
                return kept
        return lowest(guarded(flat, numels), zeros).logical_not_()


def joined(scores: Sequence[Tensor]) -> Tensor:
    """Scores one after the other, 1-d: the tensor of which they are consecutive parts, or a new one."""
    storage, end = scores[0].untyped_storage(), scores[0].storage_offset()
    for score in scores:
        same = score.untyped_storage()._cdata == storage._cdata
        if not (same and score.storage_offset() == end and score.is_contiguous()):
            return torch.cat([score.reshape(-1) for score in scores])
        end += score.numel()
    return scores[0].as_strided((end - scores[0].storage_offset(),), (1,))


def guarded(flat: Tensor, numels: Sequence[int]) -> Tensor:
    """``flat`` with infinity instead of the best score of every layer (the last of equal ones).

    The best is the maximum of integers that are ordered as (score, index): a few kernels for all layers together.
    """
    bits = (flat.float() + 0.0).view(torch.int32)  # of -0 those of 0; SynFlow's scores are float64
    ordered = bits.bitwise_xor((bits >> 31).bitwise_and_(2**31 - 1))  # the larger, the higher the score
    keys = ordered.long().bitwise_left_shift_(32).bitwise_or_(torch.arange(len(flat), device=flat.device))
    best = torch.stack(torch._foreach_max(keys.split(list(numels)))).bitwise_and_(2**32 - 1)
    return flat.index_fill(0, best, math.inf)


class LAMP(Global):
    """Layer-adaptive magnitude (LAMP): squares over the sum of the squares at least as large in the layer.

    LAMP(u) = w_u² / Σ_{v: |w_v| ≥ |w_u|} w_v², ties in the order of their index; ranked globally. The largest weight
    of a layer has score 1, so no layer collapses as long as one weight per layer is left.

    Example:
        >>> scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, 20.0])}  # 1/5 and 4/4 in both layers
        >>> {name: mask.tolist() for name, mask in LAMP()(scores, 0.5).items()}
        {'a': [False, True], 'b': [False, True]}

    References:
        Lee, Park, Mo, Ahn and Shin, "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021,
        arXiv 2010.07611, section 3.
    """

    def ranked(self, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """LAMP scores; scores of -∞ (pruned for good) stay lowest."""
        return {name: self.relative(score) for name, score in scores.items()}

    @staticmethod
    def relative(score: Tensor) -> Tensor:
        """LAMP scores of one layer, in float32 from sums in float64."""
        ordered, order = score.reshape(-1).sort(stable=True)  # [n] ascending; stable: ties by index
        squares = ordered.clamp_min(0).double().square()  # float64 sums; -∞ → 0
        rest = squares.flip(0).cumsum(0).flip(0)  # Σ of squares from here to the largest
        lamp = (squares / rest.clamp_min(torch.finfo(torch.float64).tiny)).float()  # 0 / 0 → 0
        lamp.masked_fill_(ordered == -math.inf, -math.inf)  # pruned for good: below every score
        return torch.empty_like(lamp).scatter_(0, order, lamp).view(score.shape)  # undo the sort


class LayerWise(Allocation):
    """Layer-wise sparsities, given by the shapes; scores are ranked within each layer."""

    def zeros(self, shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> list[float]:
        """Zeros of every layer as real numbers, monotone in the sparsity, with sum sparsity · N."""
        raise TypeError(f"{type(self).__name__} has no layer sparsities")

    def __call__(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Prune the lowest scores of each layer.

        Raises:
            SettingError: The layers cannot have that many zeros in total.
        """
        shapes = {name: tuple(score.shape) for name, score in scores.items()}
        if self.compat is not None:
            return {
                name: published_mask(score.reshape(-1), zeros, self.compat).view(score.shape)
                for (name, score), zeros in zip(scores.items(), self.zeros(shapes, sparsity), strict=True)
            }
        return self.prune(scores, self.counts(shapes, sparsity))

    def prune(self, scores: Mapping[str, Tensor], counts: Sequence[int | Tensor]) -> dict[str, Tensor]:
        """Prune the ``counts[l]`` lowest scores of layer l."""
        return {
            name: lowest(score.reshape(-1), count).logical_not_().view(score.shape)
            for (name, score), count in zip(scores.items(), counts, strict=True)
        }

    def check(self, shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> None:
        """Raise if the layers cannot reach the total sparsity."""
        self.counts(shapes, sparsity)

    def counts(self, shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> list[int]:
        """Integer zeros of every layer, with the exact total."""
        numels = [math.prod(shape) for shape in shapes.values()]
        total = zeros_for(sparsity, sum(numels))  # exact over all layers, before rounding by layer
        most = math.fsum(self.zeros(shapes, sparsity))  # < total if layers are full (ERK with dense layers)
        if most < total - 0.75:  # rounding accounts for at most 0.5
            raise SettingError("sparsity", sparsity, f"at most {most / sum(numels):.6g} with this allocation")
        free = self.allow_layer_collapse or total > sum(numels) - len(numels)  # or a layer must be emptied
        return exact_counts(lambda s: self.zeros(shapes, s), [n if free else n - 1 for n in numels], total)


class Uniform(LayerWise):
    """The same sparsity in every layer.

    Example:
        >>> Uniform().counts({"a": (4, 5), "b": (8, 10)}, 0.9)
        [18, 72]

    References:
        Zhu and Gupta, "To prune, or not to prune", ICLR workshop 2018, arXiv 1710.01878.
    """

    def zeros(self, shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> list[float]:
        """S · N_l."""
        return [sparsity * math.prod(shape) for shape in shapes.values()]
