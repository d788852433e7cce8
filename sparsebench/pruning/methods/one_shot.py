"""One-shot magnitude pruning."""

from __future__ import annotations

from sparsebench.pruning.methods.gmp import GMP


class OneShot(GMP):
    """One-shot magnitude pruning: train dense, prune once to the target, fine-tune what is left.

    Pruning and fine-tuning lie inside the one budget: the ``one_shot`` schedule says when the cut is, and the
    learning rate goes on along its schedule.

    References:
        Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks",
        NeurIPS 2015, arXiv 1506.02626.
    """
