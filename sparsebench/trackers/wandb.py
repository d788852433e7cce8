"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsebench.errors import SettingError, one_of
from sparsebench.trackers.tracker import TrackedRun, Tracker, need

MODES = ("offline", "online")


class WandB(Tracker):
    """A Weights & Biases run with the run's own id, by default offline in the run folder (``wandb sync`` uploads it).

    Args:
        project: Name of the project.
        entity: User or team that owns the project; ``null`` for the default one.
        mode: ``offline`` or ``online``.

    Raises:
        SettingError: wandb is not installed, or there is no such mode.
    """

    def __init__(
        self, project: str = "sparsebench", entity: str | None = None, mode: str = "offline"
    ) -> None:
        if mode not in MODES:
            raise SettingError("mode", mode, one_of(MODES, mode))
        need("wandb")
        self.project, self.entity, self.mode = project, entity, mode

    def start(self, run: TrackedRun) -> None:
        """Create the run, or reopen the one with the same id."""
        import wandb

        self.run = wandb.init(
            project=self.project, entity=self.entity, mode=self.mode, id=run.run_id, name=run.name,
            dir=str(run.folder), config=dict(run.config), resume="allow" if self.mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one point per column."""
        self.run.log(dict(values), step=step)

    def finish(self, row: Mapping[str, Any]) -> None:
        """Store the result as the run's summary."""
        self.run.summary.update({name: value for name, value in row.items() if value != ""})
        self.run.finish()
