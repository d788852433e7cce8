"""What a person sees while a run works: a bar on a terminal, one line an evaluation elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm import tqdm

REFRESH = 1.0  # seconds between two looks at the loss


class Progress:
    """Shows a run on standard error.

    Args:
        label: Of the run.
        total_samples: Training samples of the whole run.
        done_samples: Of them, those before a resume.
    """

    def __init__(self, label: str, total_samples: int, done_samples: int = 0) -> None:
        self.label, self.total, self.done = label, total_samples, done_samples
        self.started, self.first = time.monotonic(), done_samples
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total_samples, initial=done_samples, desc=label, unit="img", unit_scale=True, dynamic_ncols=True,
            disable=not self.terminal, mininterval=0.2,
        )  # fmt: skip
        self._shown: dict[str, str] = {}
        self._looked = self.started
        self._loss: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def step(self, samples: int, loss: Tensor, scheduled_sparsity: float) -> None:
        """Advance by a step. The loss is fetched at most once a second, without waiting for the device."""
        self.done += samples
        if not self.terminal:
            return
        self.bar.update(samples)
        now = time.monotonic()
        if now - self._looked < REFRESH:
            return
        self._looked = now
        if self._loss is not None and (self._copied is None or self._copied.query()):
            self._shown["loss"] = f"{float(self._loss):.3f}"
            self._loss = None
        if self._loss is None and loss.device.type == "cuda":
            self._loss = torch.empty((), pin_memory=True).copy_(loss.detach(), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        elif self._loss is None:
            self._loss = loss.detach().clone()
        self._shown["sparsity"] = f"{scheduled_sparsity:.3f}"
        self.bar.set_postfix(self._shown)

    def evaluated(self, row: Mapping[str, float], epochs: float) -> None:
        """Show an evaluation, a row of metrics.csv."""
        if self.terminal:
            self._shown |= {"val": f"{row['val_top1']:.2f}%", "sparsity": f"{row['sparsity']:.3f}"}
            self.bar.set_postfix(self._shown)
            return
        rate = (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)
        left = int((self.total - self.done) / rate) if rate else 0
        print(
            f"{self.label}  epoch {row['epoch']:g}/{epochs:g}  loss {row['train_loss']:.4f}  "
            f"val_top1 {row['val_top1']:.2f} %  sparsity {row['sparsity']:.4f}  {rate:,.0f} images/s  "
            f"left {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Leave the terminal tidy."""
        self.bar.close()
