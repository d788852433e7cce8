"""What ranks tell each other, and what it means when one does not answer."""

from __future__ import annotations

import io
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from sparsebench.errors import RunError, SettingError


class Stateful(Protocol):
    """What has a state to copy."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state over."""


def broadcast_state(method: Stateful, model: nn.Module, group: Any) -> None:
    """Give every rank of ``group`` the state of its first rank's ``method``, and the parameters of its ``model``."""
    first = dist.get_global_rank(group, 0) if group is not None else 0
    message = [to_bytes(method.state_dict())]
    dist.broadcast_object_list(message, src=first, group=group)
    method.load_state_dict(torch.load(io.BytesIO(message[0]), map_location="cpu", weights_only=True))
    for parameter in model.parameters():
        dist.broadcast(parameter.detach(), src=first, group=group)


def allreduce_sum_hook(group: Any, bucket: Any) -> torch.futures.Future[Tensor]:
    """The sum of a bucket of gradients, where the wrapper would take a mean: each rank's loss is its share of it.

    So what backward computes has the scale that it has in one process, also where fp16 scales the loss.
    """
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def to_bytes(value: Any) -> bytes:
    """``value`` as bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def to_picklable_exception(error: Exception | None, rank: int) -> Exception | None:
    """``error`` as other ranks are told of it: they end in the same way, and leave the printing to ``rank``."""
    if error is None:
        return None
    picklable = (
        error if isinstance(error, (SettingError, RunError, OSError)) else RunError(short_message(error))
    )
    if not hasattr(picklable, "rank"):
        picklable.rank = rank  # type: ignore[union-attr]
    return picklable


def is_communication_error(error: RuntimeError) -> bool:
    """Whether gloo, nccl or the store says it: another rank is gone, or does not answer."""
    if isinstance(error, RunError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "NCCL" in str(error)


def short_message(error: Exception) -> str:
    """The first line of an error, without where in which library it arose."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.split("] ", 1)[-1].split(". ")[0].strip()[:200] or type(error).__name__
