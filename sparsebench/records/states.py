"""The state of every run of a results folder: running, failed, finished, ..."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsebench.errors import reason
from sparsebench.files import leads_out, make_shared, read_text, write_csv, write_json
from sparsebench.records import lease, provenance, schema
from sparsebench.records.damage import (
    DamagedRunError,
    Report,
    ignore,
    is_number,
    read_provenance,
    read_row,
    read_rows,
)
from sparsebench.records.run_folder import is_finished, is_run, run_id_of, runs, training_of

STATES = ("damaged", "running", "queued", "planned", "interrupted", "failed", "diverged", "finished")
"""
damaged: its files cannot be read; running: held by a live process; queued: passed to its launcher by a live sweep;
planned: listed by a sweep; interrupted: started, but not held by a process; failed: the last attempt raised an error;
diverged: non-finite loss.
"""

SWEEPS, PLAN = ".sweeps", "plan.csv"

PLAN_COLUMNS = ("run_id", "launched", "overrides")


@dataclass(frozen=True)
class RunState:
    """One run.

    Args:
        run_id: Id of the run; with several trainings, of the first.
        state: One of :data:`STATES`.
        name: Name of its folder, or its overrides if it has none yet.
        folder: The run folder; with several trainings, the one started last.
        row: The summary of a finished run, else its last evaluation or heartbeat.
        heartbeat: Time of the last heartbeat of a running one.
        error: Error message of a failed one, or what is wrong with a damaged one.
    """

    run_id: str
    state: str
    name: str
    folder: Path | None = None
    row: Mapping[str, Any] = field(default_factory=dict)
    heartbeat: float | None = None
    error: str = ""


class ResultsFolder:
    """A snapshot of a results folder.

    Args:
        path: The folder; nested results folders are not included.
        report: Called with plans of sweeps that cannot be read.
    """

    def __init__(self, path: Path, report: Report = ignore) -> None:
        self.path, self.report = path, report
        self.folders: dict[str, Path] = {}
        if path.is_dir():
            with os.scandir(path) as entries:
                names = sorted(e.name for e in entries if not e.name.startswith(".") and "-" in e.name)
            self.folders = {run_id_of(path / name): path / name for name in names}
        self.holders = lease.holders(path / lease.FOLDER)

    @cached_property
    def planned(self) -> dict[str, tuple[str, bool]]:
        """run_id -> (overrides, whether a live sweep has launched it), of every run that a sweep has planned here."""
        found: dict[str, tuple[str, bool]] = {}
        for plan in sorted((self.path / SWEEPS).glob(f"*/{PLAN}")):
            alive = f"{SWEEP}{plan.parent.name}" in self.holders
            for row in self._plan(plan):
                queued = alive and row["launched"] == "True"
                found[row["run_id"]] = (row["overrides"], queued or found.get(row["run_id"], ("", False))[1])
        return found

    def _plan(self, path: Path) -> list[dict[str, str]]:
        try:
            rows = read_rows(path)
        except (OSError, DamagedRunError) as error:
            self.report(path.parent, error.why if isinstance(error, DamagedRunError) else reason(error))
            return []
        if rows and not {*rows[0]} >= {*PLAN_COLUMNS}:
            self.report(path.parent, f"{path.name}: expected the columns {', '.join(PLAN_COLUMNS)}")
            return []
        return rows

    def ranks(self, run_id: str) -> int:
        """The number of ranks that a run was started with last; 1 if it is not known."""
        ranks = _provenance(self.folders.get(run_id)).get("ranks", 1)
        return ranks if isinstance(ranks, int) else 1

    def trainings(self, run_id: str) -> list[Path]:
        """The folders of all trainings of a run (one for most methods), if all have been started."""
        folder = self.folders.get(run_id)
        parts = _trainings(folder) if folder else []
        return [self.folders[part] for part in parts] if all(part in self.folders for part in parts) else []

    def begun(self, run_id: str) -> list[Path]:
        """The folders of those trainings of a run that have been started."""
        folder = self.folders.get(run_id)
        parts = (_trainings(folder) if folder else []) or [run_id]
        return [self.folders[part] for part in parts if part in self.folders]

    def state(self, run_id: str, name: str = "", queued: bool = False) -> RunState:
        """The state of a run.

        Args:
            run_id: Id of its first training.
            name: Name to use if it has no folder.
            queued: Whether a live launcher has it.
        """
        folder, holder = self.folders.get(run_id), self.holders.get(run_id)
        parts = (_trainings(folder) if folder else []) or [run_id]
        begun = [self.folders[part] for part in parts if part in self.folders]
        wrong, summary = "", None
        try:
            summary = _summary(begun[-1]) if len(begun) == len(parts) else None
            for part in begun if summary is None else begun[:-1]:  # read with its summary
                read_provenance(part)
        except DamagedRunError as damage:
            wrong = damage.why
        known: dict[str, Any] = {"run_id": run_id, "name": begun[-1].name if begun else name}
        known["folder"] = begun[-1] if begun else None
        if holder is not None:
            heartbeat = {name: value for name, value in holder.content.items() if value is not None}
            row = {**(_last_evaluation(begun[-1]) if begun else {}), **heartbeat}
            return RunState(state="running", row=row, heartbeat=holder.heartbeat, **known)
        if wrong:
            return RunState(state="damaged", error=wrong, **known)
        if summary is not None:
            return RunState(state=summary.get("status") or "finished", row=summary, **known)
        last = _last_evaluation(begun[-1]) if begun else {}
        if (error := failure(self.path, run_id)) is not None:
            return RunState(state="failed", error=str(error.get("error", "")), row=last, **known)
        if queued:
            return RunState(state="queued", row=last, **known)
        return RunState(state="interrupted" if begun else "planned", row=last, **known)


def states(path: Path, report: Report = ignore) -> list[RunState]:
    """All runs in ``path`` and in nested results folders, and all runs planned by its sweeps.

    Args:
        path: The folder.
        report: Called with folders that are left out, because they cannot be read or are links to elsewhere.
    """
    found: list[RunState] = []
    results_dirs = dict.fromkeys([path] if (path / SWEEPS).is_dir() or (path / lease.FOLDER).is_dir() else [])
    results_dirs |= dict.fromkeys(run.parent for run in runs(path, report))
    for results_dir in results_dirs:
        results = ResultsFolder(results_dir, report)
        later = {i for folder in results.folders.values() for i in _trainings(folder)[1:]}
        ids = dict.fromkeys([*results.folders, *results.holders, *results.planned])
        for run_id in ids:
            folder = results.folders.get(run_id)
            if run_id in later or run_id.startswith(SWEEP) or (folder and not is_run(folder)):
                continue
            if folder and folder.is_symlink() and leads_out(folder, path):  # reported by runs()
                continue
            found.append(results.state(run_id, *results.planned.get(run_id, ("", False))))
    return found


def fail(results: Path, run_id: str, error: BaseException) -> None:
    """Record that a run failed with ``error``."""
    text = " ".join(str(error).split()) or type(error).__name__
    record = {
        "error": text,
        "kind": type(error).__name__,
        "when": provenance.now(),
        **provenance.machine(),
        "traceback": "".join(traceback.format_exception(error)),
    }
    make_shared(results / lease.FOLDER)
    write_json(results / lease.FOLDER / f"{run_id}.failed", record)


def failure(results: Path, run_id: str) -> dict[str, Any] | None:
    """The record written by :func:`fail`, if the run has not been restarted since."""
    try:
        found = json.loads(read_text(results / lease.FOLDER / f"{run_id}.failed"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        return {"error": f"its record of the failure cannot be read: {reason(error)}"}
    return found if isinstance(found, dict) else {"error": "its record of the failure cannot be read"}


def clear_failure(results: Path, run_id: str) -> None:
    """Delete the failure record, when the run is restarted."""
    (results / lease.FOLDER / f"{run_id}.failed").unlink(missing_ok=True)


SWEEP = "sweep-"
"""Prefix of the leases held by live sweeps."""


def write_plan(folder: Path, runs: Iterable[tuple[str, str, bool]]) -> None:
    """Write the plan of a sweep: (run_id, overrides, whether launched); ``folder`` is in RESULTS/.sweeps."""
    rows = ({"run_id": i, "launched": launched, "overrides": overrides} for i, overrides, launched in runs)
    make_shared(folder.parent)
    make_shared(folder)
    write_csv(folder / PLAN, PLAN_COLUMNS, rows)


def _trainings(folder: Path) -> list[str]:
    """The run_ids of all trainings of the run whose first training is in ``folder``; for a later one, its own."""
    return trainings(_provenance(folder)) if training_of(folder) == 0 else [run_id_of(folder)]


def trainings(origin: Mapping[str, Any]) -> list[str]:
    """The run_ids of all trainings that a run.json lists."""
    found = origin.get("trainings", [])
    return found if isinstance(found, list) and all(isinstance(part, str) for part in found) else []


def _provenance(folder: Path | None) -> dict[str, Any]:
    """The run.json of a run folder; empty if there is none, or none that can be read."""
    try:
        return read_provenance(folder) if folder else {}
    except DamagedRunError:
        return {}


def _summary(folder: Path) -> dict[str, str] | None:
    try:
        return read_row(folder).cells if is_finished(folder) else None
    except (FileNotFoundError, NotADirectoryError):  # removed just now
        return None


def _last_evaluation(folder: Path) -> dict[str, Any]:
    """The last row of a run's metrics.csv; empty if there is none that can be read."""
    try:
        rows = read_rows(folder / schema.METRICS)
    except (OSError, DamagedRunError):
        return {}
    row = rows[-1] if rows else {}
    return {name: text for name, text in row.items() if is_number(text)}


def age(heartbeat: float) -> float:
    """Seconds since a heartbeat, by this machine's clock."""
    return max(time.time() - heartbeat, 0.0)
