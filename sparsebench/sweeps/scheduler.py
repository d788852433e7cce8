"""Schedules the runs of a sweep until every one is finished or has failed for good."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsebench.errors import RunError, printable
from sparsebench.records.lease import FOLDER, Lease
from sparsebench.records.states import SWEEP, ResultsFolder, RunState, write_plan

DONE = ("finished", "diverged")
"""States that a retry would not change."""

POLL = 2.0
"""Seconds between checks of runs that other processes hold."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep.

    Args:
        run_id: Its id.
        results: Its results folder.
        overrides: Its overrides.
        again: Whether it is made again although it is finished.
        search: Whether it is a search over several runs (``tune_to_target``), whose end its own id does not show.
    """

    run_id: str
    results: Path
    overrides: tuple[str, ...]
    search: bool = False
    again: bool = False

    def __str__(self) -> str:
        return shlex.join(self.overrides)


class Scheduler:
    """Decides from the state on disk which runs to launch, also while equal sweeps run at the same time.

    Args:
        runs: The runs.
        folder: Folder of this sweep in ``RESULTS/.sweeps``.
        retries: How often a failed run is retried.
        batch_size: Runs to launch at once; all by default.
        overwrite: Whether finished runs are run again.
    """

    def __init__(
        self, runs: Sequence[PlannedRun], folder: Path, retries: int, batch_size: int | None, overwrite: bool
    ) -> None:
        self.runs, self.folder, self.retries = list(runs), folder, retries
        self.batch_size, self.overwrite = batch_size, overwrite
        self._tries: Counter[PlannedRun] = Counter()
        self._launched: set[PlannedRun] = set()

    def states(self) -> dict[PlannedRun, RunState]:
        """The present state of each run."""
        found = {results: ResultsFolder(results) for results in {run.results for run in self.runs}}
        return {run: found[run.results].state(run.run_id, str(run)) for run in self.runs}

    def finish(self, launch: Callable[[Sequence[Sequence[str]], int], Any]) -> None:
        """Launch runs that are neither finished nor running, retry failed ones, and wait for runs of other processes.

        Args:
            launch: Called with (overrides of each job, number of the first); returns when all have ended.

        Raises:
            RunError: Some runs failed or diverged.
        """
        results = self.folder.parent.parent
        lease = Lease.claim(results / FOLDER, f"{SWEEP}{self.folder.name}")
        assert isinstance(lease, Lease)  # the folder's name is unique to this process
        with lease:
            waiting = False
            while True:
                todo, held = self._todo()
                if todo:
                    self._launch(todo, launch)
                    continue
                if not held:
                    break
                if not waiting:
                    print(f"waiting for {held} runs that other processes hold", file=sys.stderr, flush=True)
                waiting = True
                time.sleep(POLL)
        self._refuse_failures()

    def _todo(self) -> tuple[list[PlannedRun], int]:
        """(runs to launch now, number of runs that others hold)."""
        states, todo, held = self.states(), [], 0
        for run, found in states.items():
            again = (self.overwrite or run.search or run.again) and run not in self._launched
            if found.state == "running":
                held += 1
            elif again or (not self._is_done(run, found) and self._tries[run] <= self.retries):
                todo.append(run)
        return todo, held

    def _is_done(self, run: PlannedRun, found: RunState) -> bool:
        return found.state in DONE or (run.search and run in self._launched and found.state != "failed")

    def _launch(self, todo: list[PlannedRun], launch: Callable[[Sequence[Sequence[str]], int], Any]) -> None:
        size = self.batch_size or len(todo)
        for start in range(0, len(todo), size):
            batch = todo[start : start + size]
            number = len(self._launched)
            self._launched.update(batch)
            write_plan(self.folder, [(r.run_id, str(r), r in self._launched) for r in self.runs])
            launch([[*run.overrides, "wait=false"] for run in batch], number)
            states = self.states()
            self._tries.update(run for run in batch if states[run].state != "running")

    def _refuse_failures(self) -> None:
        states = self.states()
        left = [
            (run, found)
            for run, found in states.items()
            if found.state == "diverged" or not self._is_done(run, found)
        ]
        if left:
            run, found = left[0]
            why = found.error or {"diverged": "its loss is not a finite number"}.get(
                found.state, f"{found.state}: it ended without an error message; see {self.folder}"
            )
            raise RunError(f"{len(left)} of {len(states)} runs are not finished: {run}: {why}")


def table(states: Iterable[tuple[PlannedRun, RunState]]) -> str:
    """One line per run: its state and overrides."""
    return "\n".join(printable(f"{found.state:<11} {run}") for run, found in states)
