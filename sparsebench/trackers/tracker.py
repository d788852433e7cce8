"""The contract of a tracker, and what keeps its failures away from the run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsebench.errors import SettingError


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Args:
        folder: The run folder, where files of its own may go.
        name: For people.
        run_id: The same when the run goes on after an interruption.
        config: Resolved.
        resumed: Whether it has been started before.
    """

    folder: Path
    name: str
    run_id: str
    config: Mapping[str, Any]
    resumed: bool


class Tracker:
    """No tracker: the CSVs in the run folder are all there is."""

    def start(self, run: TrackedRun) -> None:
        """Open the run; called before its first row, again after an interruption."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The columns of metrics.csv after ``step`` steps."""

    def finish(self, row: Mapping[str, Any]) -> None:
        """Close the run with its result, the columns of summary.csv."""


class Tracking:
    """A run's tracker, which never stops the run: at its first failure it is left out, with one warning.

    Args:
        tracker: From the config.
        run: What it is told.
        warn: Told of the failure.
    """

    def __init__(self, tracker: Tracker, run: TrackedRun, warn: Callable[[str], None]) -> None:
        self.tracker, self.run, self.warn = tracker, run, warn
        self.failed = False

    def start(self) -> None:
        """Open the run; before the clock runs, for some trackers take seconds to import."""
        self._safely(lambda: self.tracker.start(self.run))

    def record(self, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Log the last of ``rows``; those before it have been."""
        step = int(rows[-1]["step"] or 0)
        values = {name: float(v) for name, v in rows[-1].items() if v is not None and name != "step"}
        self._safely(lambda: self.tracker.log(step, values))

    def finish(self, row: Mapping[str, Any]) -> None:
        """Close the run."""
        self._safely(lambda: self.tracker.finish(row))

    def _safely(self, act: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            act()
        except Exception as error:  # a tracker is never a condition for running, whatever it ends in
            self.failed = True
            what = " ".join(str(error).split()) or type(error).__name__
            self.warn(f"{type(self.tracker).__name__} failed, the run goes on without it: {what}")


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The columns that are numbers."""
    return {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def need(package: str) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        SettingError: It is not.
    """
    if importlib.util.find_spec(package) is None:
        raise SettingError(
            "tracker", package, f"its package to be installed: pip install 'sparsebench[{package}]'"
        )
