"""Collectives between ranks, and how their errors are reported."""

from __future__ import annotations

import io
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from sparsebench.errors import RunError, SettingError


class Stateful(Protocol):
    """An object with a state to copy."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state."""


def broadcast_state(method: Stateful, model: nn.Module, group: Any) -> None:
    """Broadcast the state of ``method`` and the parameters of ``model`` from the first rank of ``group``."""
    first = dist.get_global_rank(group, 0) if group is not None else 0
    message = [to_bytes(method.state_dict())]
    dist.broadcast_object_list(message, src=first, group=group)
    method.load_state_dict(torch.load(io.BytesIO(message[0]), map_location="cpu", weights_only=True))
    for parameter in model.parameters():
        dist.broadcast(parameter.detach(), src=first, group=group)


def allreduce_sum_hook(group: Any, bucket: Any) -> torch.futures.Future[Tensor]:
    """DDP communication hook that sums a bucket of gradients instead of averaging it.

    Each rank's loss is its part of the mean over the global batch, so gradients have the same scale as in one
    process, also when fp16 scales the loss.
    """
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def to_bytes(value: Any) -> bytes:
    """Serialise ``value``."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def to_picklable_exception(error: Exception | None, rank: int) -> Exception | None:
    """``error`` in a form that other ranks can raise; only ``rank`` prints it."""
    if error is None:
        return None
    picklable = (
        error if isinstance(error, (SettingError, RunError, OSError)) else RunError(short_message(error))
    )
    if not hasattr(picklable, "rank"):
        picklable.rank = rank  # type: ignore[union-attr]
    return picklable


def is_communication_error(error: RuntimeError) -> bool:
    """Whether gloo, nccl or the store raised ``error`` because another rank is gone or does not answer."""
    if isinstance(error, RunError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "NCCL" in str(error)


def short_message(error: Exception) -> str:
    """The first line of an error, without the source location in the library that raised it."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.split("] ", 1)[-1].split(". ")[0].strip()[:200] or type(error).__name__
