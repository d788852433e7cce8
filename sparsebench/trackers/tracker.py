"""The interface of a tracker, and a wrapper that keeps its failures from stopping the run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsebench.errors import SettingError


@dataclass(frozen=True)
class TrackedRun:
    """A tracker's information about a run.

    Args:
        folder: The run folder, in which the tracker may create files.
        name: Display name.
        run_id: Identifier, the same when the run is resumed.
        config: The resolved config.
        resumed: Whether the run has been started before.
    """

    folder: Path
    name: str
    run_id: str
    config: Mapping[str, Any]
    resumed: bool


class Tracker:
    """No tracker: results are in the CSVs of the run folder only."""

    def start(self, run: TrackedRun) -> None:
        """Open the run; called before its first row, and again after an interruption."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the columns of metrics.csv after ``step`` steps."""

    def finish(self, row: Mapping[str, Any]) -> None:
        """Close the run with its result, the columns of summary.csv."""


class Tracking:
    """A run's tracker that never stops the run: after its first failure it is disabled, with one warning.

    Args:
        tracker: The tracker from the config.
        run: Information about the run.
        warn: Called with a message about the failure.
    """

    def __init__(self, tracker: Tracker, run: TrackedRun, warn: Callable[[str], None]) -> None:
        self.tracker, self.run, self.warn = tracker, run, warn
        self.failed = False

    def start(self) -> None:
        """Open the run, before time is measured: some trackers take seconds to import."""
        self._safely(lambda: self.tracker.start(self.run))

    def record(self, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Log the last of ``rows``; earlier ones have been logged."""
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
        except Exception as error:  # whatever a tracker raises must not stop the run
            self.failed = True
            what = " ".join(str(error).split()) or type(error).__name__
            self.warn(f"{type(self.tracker).__name__} failed, the run continues without it: {what}")


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numeric columns."""
    return {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def need(package: str) -> None:
    """Check that a tracker's package is installed.

    Raises:
        SettingError: It is not.
    """
    if importlib.util.find_spec(package) is None:
        raise SettingError(
            "tracker", package, f"its package to be installed: pip install 'sparsebench[{package}]'"
        )
