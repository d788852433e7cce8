"""Progress output: a bar on a terminal, one line per evaluation otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from sparsebench.clock import format_duration

REFRESH = 1.0  # seconds between reads of the loss


class Progress:
    """Shows a run on standard error.

    Args:
        label: Label of the run.
        total_steps: Steps of the whole run.
        done_steps: Steps done before a resume.
        epochs: Length of the whole run.
        log: Called with one line per evaluation.
        shown: Whether anything is printed.
    """

    def __init__(
        self,
        label: str,
        total_steps: int,
        done_steps: int = 0,
        epochs: float = 0.0,
        log: Callable[[str], None] = lambda line: None,
        shown: bool = True,
    ) -> None:
        self.label, self.total, self.left = label, total_steps, total_steps - done_steps
        self.epochs, self.log, self.shown = epochs, log, shown
        self._last: Mapping[str, float | None] = {}
        self.steps = self.samples = 0
        self.terminal = shown and sys.stderr.isatty()
        self.bar = tqdm(
            total=total_steps, initial=done_steps, desc=label, unit="step", dynamic_ncols=True, mininterval=0.2,
            disable=not self.terminal,
        )  # fmt: skip
        self.started = self._last_refresh = time.monotonic()
        self._shown: dict[str, str] = {}
        self._loss: Tensor | None = None
        self._copy_done: torch.cuda.Event | None = None

    @property
    def rate(self) -> float:
        """Training images per second since the start or resume, evaluations included."""
        return self.samples / max(time.monotonic() - self.started, 1e-9)

    def step(self, samples: int, loss: Tensor, scheduled_sparsity: float | None) -> None:
        """Advance by one step. The loss is read at most once a second, without waiting for the device."""
        self.samples += samples
        self.steps += 1
        if not self.terminal:
            return
        self.bar.update()
        now = time.monotonic()
        if now - self._last_refresh < REFRESH:
            return
        self._last_refresh = now
        if self._loss is not None and (self._copy_done is None or self._copy_done.query()):
            self._shown["loss"] = f"{float(self._loss):.3f}"
            self._loss = None
        if self._loss is None and loss.device.type == "cuda":
            self._loss = torch.empty((), pin_memory=True).copy_(loss.detach(), non_blocking=True)
            self._copy_done = torch.cuda.Event()
            self._copy_done.record()
        elif self._loss is None:
            self._loss = loss.detach().clone()
        if scheduled_sparsity is not None:
            self._shown["sparsity"] = f"{scheduled_sparsity:.3f}"
        self._shown["img/s"] = f"{self.rate:,.0f}"
        self.bar.set_postfix(self._shown)

    @property
    def eta(self) -> float | None:
        """Estimated seconds to the end; ``None`` before the first step."""
        if not self.steps:
            return None
        return (self.left - self.steps) * (time.monotonic() - self.started) / self.steps

    def snapshot(self) -> dict[str, float | None]:
        """The progress of the run, for its lease file; does not wait for the device."""
        step = self.total - self.left + self.steps
        return {
            "step": step, "steps": self.total, "epoch": step / self.total * self.epochs, "epochs": self.epochs,
            "val_top1": self._last.get("val_top1"), "sparsity": self._last.get("sparsity"),
            "images_per_second": round(self.rate, 1), "eta": None if self.eta is None else round(self.eta, 1),
        }  # fmt: skip

    def evaluated(self, row: Mapping[str, float | None]) -> None:
        """Show an evaluation, a row of metrics.csv."""
        self._last = row
        loss = "-" if row["train_loss"] is None else f"{row['train_loss']:.4f}"
        eta = "-" if self.eta is None else format_duration(self.eta)
        line = (
            f"{self.label}  epoch {row['epoch']:g}/{self.epochs:g}  loss {loss}  "
            f"val_top1 {row['val_top1']:.2f} %  sparsity {row['sparsity']:.4f}  {self.rate:,.0f} images/s  "
            f"ETA {eta}"
        )
        self.log(line)
        if self.terminal:
            self._shown |= {"loss": loss, "val": f"{row['val_top1']:.2f}%"}
            self._shown |= {"sparsity": f"{row['sparsity']:.3f}", "img/s": f"{self.rate:,.0f}"}
            self.bar.set_postfix(self._shown)
            return
        if self.shown:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()
