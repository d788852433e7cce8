"""Dropping and growing weights at a constant number of non-zeros: the step that dynamic sparse training shares."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsebench.pruning.allocation import lowest


@torch.no_grad()
def drop_and_grow(mask: Tensor, swaps: int, drop_score: Tensor, grow_score: Tensor) -> Tensor:
    """The mask after the ``swaps`` worst kept weights are dropped and as many of the others grown.

    Weights dropped just now may grow again. Of equal scores, the first by index is dropped and the first grown.

    Args:
        mask: bool, True = kept; any shape.
        swaps: How many to drop and grow; at most as many as are kept.
        drop_score: Of every weight, same shape; the lowest of the kept are dropped.
        grow_score: Of every weight, same shape; the highest of what is not kept then grow.

    References:
        Evci et al., "Rigging the Lottery", ICML 2020, arXiv 1911.11134, Algorithm 1.
    """
    kept = mask.reshape(-1)
    # Finite scores: a gradient that overflowed stays behind the infinity that marks what is no candidate.
    drop_score, grow_score = (s.float().reshape(-1).nan_to_num() for s in (drop_score, grow_score))
    dropped = lowest(drop_score.masked_fill(~kept, math.inf), swaps)
    kept = kept & ~dropped
    grown = lowest((-grow_score).masked_fill(kept, math.inf), swaps)
    return (kept | grown).view(mask.shape)


def cosine(fraction: float, step: int, last: int) -> float:
    """Share of weights to swap at ``step``: fraction / 2 · (1 + cos(π step / last)), nothing after ``last``."""
    return 0.0 if step > last else fraction / 2 * (1 + math.cos(math.pi * step / last)) if last else fraction
