"""The interface of an evaluation: its input and its result."""

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
    """A trained network and its data; evaluations must not modify it.

    Args:
        model: The model with its final weights, on the device, in evaluation mode.
        dataset: Data set of the run.
        device: Device and precision.
        prunable: Names of the weights that may be pruned.
        batch_size: Images per training batch, for evaluations whose result depends on it.
        eval_batch_size: Images per forward pass in evaluation; results do not depend on it.
        dense: The dense network of the same configuration; ``None`` if this is the dense one.
    """

    model: nn.Module
    dataset: Dataset
    device: Device
    prunable: Sequence[str]
    batch_size: int
    eval_batch_size: int
    dense: Callable[[], nn.Module] | None

    @torch.no_grad()
    def logits(self, images: Tensor | Images, model: nn.Module | None = None) -> Tensor:
        """Logits of ``model`` (the subject's) on a split or on raw images, uint8 [N, C, H, W]: float32 [N, classes]."""
        model = (model or self.model).eval()
        normalize = Normalize(self.dataset, self.device.channels_last)
        parts: Iterable[Tensor] = (
            images.split(self.eval_batch_size)
            if isinstance(images, Tensor)
            else images.chunks(self.eval_batch_size)
        )
        with self.device.autocast():
            return torch.cat([model(normalize(part)).float() for part in parts])


@dataclass(frozen=True)
class Result:
    """The result of an evaluation.

    Args:
        columns: Columns for the result row; empty strings where not defined.
        details: The rows behind them.
    """

    columns: dict[str, float | int | str]
    details: Sequence[Mapping[str, Any]] = ()


class Evaluation(Protocol):
    """One option of the config group ``evaluate``; its arguments are the keys of its YAML."""

    needs_dense: bool
    """Whether the evaluation compares with the dense network."""

    def __call__(self, subject: Subject) -> Result:
        """Evaluate without modifying the subject."""


def predicted_classes(logits: Tensor) -> Tensor:
    """Class of the highest logit, the first one in case of ties; -1 where a logit is NaN. int64 [N]."""
    index = torch.arange(logits.shape[1], device=logits.device)
    best = torch.where(logits == logits.amax(1, keepdim=True), index, logits.shape[1]).amin(1)
    return best.masked_fill(~logits.isfinite().all(1), -1)


def percent(hits: Tensor) -> float:
    """Fraction of true entries, in percent."""
    return 100 * int(hits.sum()) / hits.numel()
