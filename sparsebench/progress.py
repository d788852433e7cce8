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
        total_steps: Of the whole run.
        done_steps: Of them, those before a resume.
        shown: Whether anything is shown.
    """

    def __init__(self, label: str, total_steps: int, done_steps: int = 0, shown: bool = True) -> None:
        self.label, self.left, self.shown = label, total_steps - done_steps, shown
        self.steps = self.samples = 0
        self.terminal = shown and sys.stderr.isatty()
        self.bar = tqdm(
            total=total_steps, initial=done_steps, desc=label, unit="step", dynamic_ncols=True, mininterval=0.2,
            disable=not self.terminal,
        )  # fmt: skip
        self.started = self._looked = time.monotonic()
        self._shown: dict[str, str] = {}
        self._loss: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    @property
    def rate(self) -> float:
        """Training images per second since the start or resume, evaluations included."""
        return self.samples / max(time.monotonic() - self.started, 1e-9)

    def step(self, samples: int, loss: Tensor, scheduled_sparsity: float | None) -> None:
        """Advance by a step. The loss is fetched at most once a second, without waiting for the device."""
        self.samples += samples
        self.steps += 1
        if not self.terminal:
            return
        self.bar.update()
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
        if scheduled_sparsity is not None:
            self._shown["sparsity"] = f"{scheduled_sparsity:.3f}"
        self._shown["img/s"] = f"{self.rate:,.0f}"
        self.bar.set_postfix(self._shown)

    def evaluated(self, row: Mapping[str, float | None], epochs: float) -> None:
        """Show an evaluation, a row of metrics.csv."""
        loss = "-" if row["train_loss"] is None else f"{row['train_loss']:.4f}"
        if self.terminal:
            self._shown |= {"loss": loss, "val": f"{row['val_top1']:.2f}%"}
            self._shown |= {"sparsity": f"{row['sparsity']:.3f}", "img/s": f"{self.rate:,.0f}"}
            self.bar.set_postfix(self._shown)
            return
        if not self.shown:
            return
        eta = int((self.left - self.steps) * (time.monotonic() - self.started) / max(self.steps, 1))
        print(
            f"{self.label}  epoch {row['epoch']:g}/{epochs:g}  loss {loss}  "
            f"val_top1 {row['val_top1']:.2f} %  sparsity {row['sparsity']:.4f}  {self.rate:,.0f} images/s  "
            f"ETA {eta // 3600}:{eta // 60 % 60:02d}:{eta % 60:02d}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Leave the terminal tidy."""
        self.bar.close()
