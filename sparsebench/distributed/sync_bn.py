"""Synchronised batch normalisation, over the samples of all ranks."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def with_sync_batch_norm(model: nn.Module, group: Any) -> nn.Module:
    """A copy of ``model`` that shares its parameters and buffers and normalises over the global batch.

    On a GPU it uses ``torch.nn.SyncBatchNorm``, which does not support CPU tensors.

    Args:
        model: Left unchanged, so that methods, evaluation and FLOP counts see its own layers.
        group: The process group.
    """
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(model, cast(dict[int, Any], shared))
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(twin, group)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, _SyncBatchNorm(child, group))
    return twin


class _SyncBatchNorm(nn.Module):
    """Batch norm that uses the mean and the biased variance over all ranks in training mode.

    Args:
        own: The batch norm that holds parameters, buffers and settings.
        group: The process group.
    """

    def __init__(self, own: _BatchNorm, group: Any) -> None:
        super().__init__()
        self.own, self.group = own, group

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise features [N, C, ...] per channel over all ranks; a rank may have N = 0."""
        own = self.own
        if not self.training:
            return own(inputs)
        over = [dim for dim in range(inputs.dim()) if dim != 1]
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        count = inputs.new_tensor([inputs.numel() / inputs.shape[1]])
        sums = _AllReduceSum.apply(torch.cat([inputs.sum(over), count]), self.group)
        samples = sums[-1].detach()
        mean = sums[:-1] / samples
        centred = inputs - mean.view(shape)
        variance = _AllReduceSum.apply(centred.square().sum(over), self.group) / samples
        if own.running_mean is not None and own.running_var is not None:
            with torch.no_grad():
                assert own.num_batches_tracked is not None
                own.num_batches_tracked.add_(1)
                momentum = 1 / float(own.num_batches_tracked) if own.momentum is None else own.momentum
                own.running_mean.lerp_(mean, momentum)
                own.running_var.lerp_(variance * (samples / (samples - 1)), momentum)
        outputs = centred * (variance + own.eps).rsqrt().view(shape)
        return outputs * own.weight.view(shape) + own.bias.view(shape) if own.affine else outputs


class _AllReduceSum(torch.autograd.Function):
    """All-reduce (sum) in the forward and in the backward pass."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total, group=ctx.group)
        return total, None
