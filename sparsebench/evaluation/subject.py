"""The contract of an evaluation: what it is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparsebench.data.batching import Normalize
from sparsebench.data.dataset import Dataset, Images
from sparsebench.distributed.device import Device


@dataclass(frozen=True)
class Subject:
    """A trained network and what it is tested on; evaluations leave all of it as it is.

    Args:
        model: With its final weights, on the device, in evaluation mode.
        dataset: Its data.
        device: Where and how precisely it computes.
        prunable: Names of the weights that may be pruned.
        batch_size: Images a forward pass.
        dense: The dense network of the same configuration; ``None`` if this is the one.
    """

    model: nn.Module
    dataset: Dataset
    device: Device
    prunable: Sequence[str]
    batch_size: int
    dense: Callable[[], nn.Module] | None

    @torch.no_grad()
    def logits(self, images: Tensor | Images, model: nn.Module | None = None) -> Tensor:
        """What ``model`` (the subject's) answers to a split or raw images, uint8 [N, C, H, W]: float32 [N, classes]."""
        model = (model or self.model).eval()
        normalize = Normalize(self.dataset, self.device.channels_last)
        parts: Iterable[Tensor] = (
            images.split(self.batch_size) if isinstance(images, Tensor) else images.chunks(self.batch_size)
        )
        with self.device.autocast():
            return torch.cat([model(normalize(part)).float() for part in parts])


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Args:
        columns: For the result row; empty texts for what is not defined.
        details: The rows behind them.
    """

    columns: dict[str, float | int | str]
    details: Sequence[Mapping[str, Any]] = ()


class Evaluation(Protocol):
    """One option of the config group ``evaluate``; its arguments are the keys of its YAML."""

    needs_dense: bool
    """Whether it compares with the dense network."""

    def __call__(self, subject: Subject) -> Result:
        """Evaluate; the subject stays as it is."""


def predicted_classes(logits: Tensor) -> Tensor:
    """Class of the highest logit, the first of equal ones; -1 where a logit is not a number. int64 [N]."""
    index = torch.arange(logits.shape[1], device=logits.device)
    best = torch.where(logits == logits.amax(1, keepdim=True), index, logits.shape[1]).amin(1)
    return best.masked_fill(~logits.isfinite().all(1), -1)


def percent(hits: Tensor) -> float:
    """Share of true entries, in per cent."""
    return 100 * int(hits.sum()) / hits.numel()
