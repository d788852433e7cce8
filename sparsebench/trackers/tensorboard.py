"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsebench.trackers.tracker import TrackedRun, Tracker, need, numbers


class TensorBoard(Tracker):
    """Event files in the run folder's ``tensorboard`` folder; ``tensorboard --logdir results/runs`` shows all runs.

    Raises:
        SettingError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        need("tensorboard")

    def start(self, run: TrackedRun) -> None:
        """Import tensorboard's modules, so that logging the first row is fast."""
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.make = run, SummaryWriter
        self.writer: SummaryWriter | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one scalar per column; after an interruption, earlier events from the first ``step`` on are purged."""
        self.step = step
        if self.writer is None:
            purge = step if self.run.resumed else None
            self.writer = self.make(str(self.run.folder / "tensorboard"), purge_step=purge)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self, row: Mapping[str, Any]) -> None:
        """Log the result's numbers as ``summary/...``."""
        if self.writer is None:
            return
        for name, value in numbers(row).items():
            self.writer.add_scalar(f"summary/{name}", value, self.step)
        self.writer.close()
