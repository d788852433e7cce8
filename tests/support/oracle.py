"""An independent DPF: straight-through autograd and a full stable sort. Shares no code with the package."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class _Mask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None  # not gradient * mask


class StraightThrough(nn.Module):
    """Parametrisation whose forward is the masked weight and whose backward is the identity."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return _Mask.apply(weight, self.mask)


class OracleDPF:
    """Masks ``modules``' weights by global magnitude, ties by index, through the parametrisation."""

    def __init__(self, modules: list[nn.Module]) -> None:
        for module in modules:
            parametrize.register_parametrization(module, "weight", StraightThrough(module.weight))
        self.modules = modules

    def dense(self) -> list[Tensor]:
        return [module.parametrizations.weight.original for module in self.modules]

    def update(self, sparsity: float) -> None:
        flat = torch.cat([w.detach().abs().reshape(-1) for w in self.dense()])
        count = int(sparsity * flat.numel() + 0.5)
        mask = torch.ones_like(flat)
        mask[flat.sort(stable=True).indices[:count]] = 0
        start = 0
        for module, weight in zip(self.modules, self.dense(), strict=True):
            piece = mask[start : start + weight.numel()].view_as(weight)
            module.parametrizations.weight[0].mask.copy_(piece)
            start += weight.numel()
