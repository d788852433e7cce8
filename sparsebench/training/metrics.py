"""Accuracy: per sample over a whole split, not a mean of batch means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Accuracy:
    """Evaluation of one split.

    Args:
        loss: Mean cross-entropy per sample, in nats, without label smoothing.
        top1: Percent of samples whose class has the highest logit.
        top5: Percent of samples whose class is among the five highest logits (all, with fewer classes).
    """

    loss: float
    top1: float
    top5: float


@torch.no_grad()
def evaluate(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Accuracy:
    """Loss and accuracy of ``forward`` over ``batches`` of (inputs, targets).

    A sample is a top-k hit if fewer than k classes have a higher logit, or an equal one at a lower index. A NaN
    logit is a miss. Sums stay on the device and are read once: hits as integers and losses in float64, so that the
    result does not depend on how samples are divided into batches.

    Args:
        forward: Inputs -> logits.
        batches: All samples, once; with several ranks, this rank's.
        total: Sums over all ranks, float64 on the CPU.
    """
    sums, samples = None, 0
    for inputs, targets in batches:
        logits = forward(inputs).float()
        true = logits.gather(1, targets[:, None])
        index = torch.arange(logits.shape[1], device=logits.device)
        ahead = ((logits > true) | ((logits == true) & (index < targets[:, None]))).sum(1)
        valid = logits.isfinite().all(1)
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        batch = torch.stack([losses.double().sum(), ((ahead < 1) & valid).sum(), ((ahead < 5) & valid).sum()])
        sums = batch if sums is None else sums + batch
        samples += len(targets)
    own = torch.zeros(3, dtype=torch.float64) if sums is None else sums.cpu()
    loss_sum, top1, top5, samples = total(torch.cat([own, own.new_tensor([samples])])).tolist()
    if samples == 0:
        raise ValueError("no samples to evaluate")
    return Accuracy(loss_sum / samples, 100 * top1 / samples, 100 * top5 / samples)


@dataclass
class MaskUpdates:
    """The steps of a training at which its masks were set; counted on the host, from a number that is there.

    Args:
        count: Their number; ``None`` if an earlier version, which did not count, began the training.
        last: The last of them, 0-based.
    """

    count: int | None = 0
    last: int | None = None

    def seen(self, step: int, before: int, after: int) -> None:
        """Note a step, given the versions of the masks before and after it."""
        if before != after and self.count is not None:
            self.count, self.last = self.count + 1, step

    def columns(self) -> dict[str, int | str]:
        """Columns of the summary."""
        return {
            "mask_updates": "" if self.count is None else self.count,
            "last_update_step": "" if self.last is None else self.last,
        }


class TrainLoss:
    """Mean training loss since the last :meth:`read`; the sum stays on the device."""

    def __init__(self, device: torch.device) -> None:
        self.sum = torch.zeros((), dtype=torch.float64, device=device)
        self.samples = 0

    def add(self, loss: Tensor, samples: int) -> None:
        """Add the mean ``loss`` of ``samples`` samples, on the device; the caller counts :attr:`samples`."""
        self.sum += loss.detach().double() * samples

    def read(self) -> float:
        """Return the mean and reset it."""
        mean = float(self.sum) / max(self.samples, 1)
        self.sum.zero_()
        self.samples = 0
        return mean

    def state_dict(self) -> dict[str, Tensor | int]:
        """For the checkpoint."""
        return {"sum": self.sum.cpu(), "samples": self.samples}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Resume from :meth:`state_dict`."""
        self.sum.copy_(torch.as_tensor(state["sum"]))
        self.samples = int(state["samples"])
