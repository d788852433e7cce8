"""Random static masks."""

from __future__ import annotations

from sparsebench.pruning.static import Static


class RandomStatic(Static):
    """Random pruning at initialisation: a random mask, fixed for the whole training.

    With ``allocation=from_file`` it uses another method's layer-wise sparsities.

    References:
        Liu et al., "The Unreasonable Effectiveness of Random Pruning: Return of the Most Naive Baseline for
        Sparse Training", ICLR 2022, arXiv 2202.02643.
    """
