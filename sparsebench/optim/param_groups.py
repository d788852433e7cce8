"""Parameter groups: what weight decay acts on."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float, norm_weight_decay: bool) -> list[dict[str, Any]]:
    """Parameters for an optimiser, in the model's order within each group.

    Args:
        model: The model.
        weight_decay: For weights of convolutions and linear layers.
        norm_weight_decay: Whether it also acts on normalisation parameters and biases (He et al. do so).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if norm_weight_decay:
        return [{"params": parameters, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
