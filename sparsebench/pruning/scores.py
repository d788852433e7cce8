"""How much a weight matters: higher means keep. Scores have no side effects."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Score:
    """Maps weights to scores of the same shapes; higher means keep."""

    def __call__(
        self, weights: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Scores of ``weights`` (name -> tensor); ``generator`` is for scores that draw, on the CPU."""
        raise TypeError(f"{type(self).__name__} does not score")


class Magnitude(Score):
    """The absolute value of the weight, |w|.

    References:
        Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks",
        NeurIPS 2015, arXiv 1506.02626.
    """

    def __call__(
        self, weights: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """|w|, in float32: half precision would make ties."""
        return {name: weight.detach().float().abs() for name, weight in weights.items()}


class Random(Score):
    """A standard normal number for every weight: random pruning.

    References:
        Liu et al., "The Unreasonable Effectiveness of Random Pruning", ICLR 2022, arXiv 2202.02643.
    """

    def __call__(
        self, weights: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Draws on the CPU, so that every device and rank gets the same numbers."""
        return {
            name: torch.randn(weight.shape, generator=generator).to(weight.device)
            for name, weight in weights.items()
        }
