"""Discovering neural wirings."""

from __future__ import annotations

from sparsebench.pruning.methods.ste import STE


class DNW(STE):
    """Discovering neural wirings: straight-through pruning of every layer at the target from the first step.

    Every forward uses the largest (1 - s) N_l |w| of each layer; the gradient updates all weights. It is DPF with
    p = 1, the same sparsity in every layer and no ramp.

    References:
        Wortsman, Farhadi and Rastegari, "Discovering Neural Wirings", NeurIPS 2019, arXiv 1906.00586,
        Algorithm 1.
    """
