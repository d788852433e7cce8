"""Parameter groups for weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float, norm_weight_decay: bool) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser, in the model's order within each group.

    Args:
        model: The model.
        weight_decay: Weight decay of convolutions and linear layers.
        norm_weight_decay: Whether it also applies to normalisation parameters and biases (as in He et al.).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if norm_weight_decay:
        return [{"params": parameters, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
