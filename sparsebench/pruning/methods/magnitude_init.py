"""Magnitude pruning at initialisation."""

from __future__ import annotations

from sparsebench.pruning.static import Static


class MagnitudeInit(Static):
    """Magnitude pruning at initialisation: the smallest initial weights are pruned before training.

    References:
        Frankle, Dziugaite, Roy and Carbin, "Pruning Neural Networks at Initialization: Why Are We Missing the
        Mark?", ICLR 2021, arXiv 2009.08576, section 3.
    """
