"""SynFlow."""

from __future__ import annotations

import copy
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor

from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.static import Static


class SynFlow(Static):
    """Iterative synaptic flow pruning: preserves synaptic flow, without data and without collapsing a layer.

    With |θ| for all parameters and buffers and an input of ones, R = 1ᵀ f(1; |θ|) and S = ∂R/∂|θ| ⊙ |θ|. In round k of
    n (``rounds``) the density falls to ρ^{k/n}, and S is recomputed from the remaining weights.

    Differs from the paper:
        The flow is computed in float64, because float32 overflows in deep networks; the number of zeros is exact.

    References:
        Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively conserving
        synaptic flow", NeurIPS 2020, arXiv 2006.05467, Algorithm 1.
    """

    ignores: ClassVar[dict[str, dict[str, object]]] = {"score": {}}

    def saliency(self, probe: Probe) -> dict[str, Tensor]:
        """∂R/∂|θ| ⊙ |θ|, computed on a copy of the model in evaluation mode."""
        inputs, _ = next(probe.batches())
        linear = copy.deepcopy(probe.model).double().eval()
        with torch.no_grad():
            for tensor in chain(linear.parameters(), linear.buffers()):
                if tensor.is_floating_point():
                    tensor.abs_()
        linear(torch.ones_like(inputs[:1], dtype=torch.float64)).sum().backward()
        parameters = dict(linear.named_parameters())
        return {
            name: (parameters[name].grad * parameters[name]).detach()  # type: ignore[operator]
            for name in self.weights.parameters
        }
