"""Copies from the CPU to a device that nothing waits for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


def send(source: Tensor, device: torch.device) -> Tensor:
    """``source`` on ``device``; itself if it is there already. See :func:`send_`."""
    return source if source.device == device else send_(torch.empty_like(source, device=device), source)


def send_(target: Tensor, source: Tensor) -> Tensor:
    """Copy ``source`` from the CPU into ``target``, and return that, without waiting for its device.

    The copy goes through pinned memory, which PyTorch does not use again before it is done: from other memory the CPU
    would wait until the device has finished all earlier work.
    """
    return target.copy_(source.pin_memory() if target.is_cuda else source, non_blocking=True)


def send_aside(sources: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors from pinned memory on a second stream, while the device computes earlier work on the present one."""
    if device.type != "cuda":
        return [source.to(device) for source in sources]
    present, copying = torch.cuda.current_stream(device), _second_stream(device)
    with torch.cuda.stream(copying):
        copies = [source.to(device, non_blocking=True) for source in sources]
    present.wait_stream(copying)  # the device waits there, not the CPU
    for copy in copies:
        copy.record_stream(present)  # its memory is not used again before that stream is done with it
    return copies


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
