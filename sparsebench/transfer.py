"""Copies from the CPU to a device that nothing waits for."""

from __future__ import annotations

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
