"""What has become of every run of a results folder: whether it is running, failed, finished, ..."""

from __future__ import annotations

import csv
import json
import os
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsebench.files import read_csv, write_csv, write_json
from sparsebench.records import lease, provenance, schema
from sparsebench.records.run_folder import is_run, run_id_of, runs, training_of

STATES = ("running", "queued", "planned", "interrupted", "failed", "diverged", "finished")
"""
running: a living process holds it; queued: a living sweep has handed it to its launcher; planned: a sweep named it;
interrupted: begun, and nobody works on it; failed: its last try ended in an error; diverged: its loss was not a number.
"""

SWEEPS, PLAN = ".sweeps", "plan.csv"


@dataclass(frozen=True)
class RunState:
    """One run.

    Args:
        run_id: Of the run; of several trainings, of the first.
        state: One of :data:`STATES`.
        name: Of its folder, or the overrides of a run that has none yet.
        folder: The run folder; of several trainings, the one that was begun last.
        row: Of a finished run its summary, else what is known of its last evaluation or heartbeat.
        heartbeat: Time of the last heartbeat of a running one.
        error: Last line of the error of a failed one.
    """

    run_id: str
    state: str
    name: str
    folder: Path | None = None
    row: Mapping[str, Any] = field(default_factory=dict)
    heartbeat: float | None = None
    error: str = ""


class ResultsFolder:
    """A results folder, looked at once.

    Args:
        path: The folder; folders of results below it are not entered.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders: dict[str, Path] = {}
        if path.is_dir():
            with os.scandir(path) as entries:
                names = sorted(e.name for e in entries if not e.name.startswith(".") and "-" in e.name)
            self.folders = {run_id_of(path / name): path / name for name in names}
        self.holders = lease.holders(path / lease.FOLDER)

    def trainings(self, run_id: str) -> list[Path]:
        """The folders of all trainings of a run, if all are begun: of most methods there is one."""
        folder = self.folders.get(run_id)
        parts = _trainings(folder) if folder else []
        return [self.folders[part] for part in parts] if all(part in self.folders for part in parts) else []

    def state(self, run_id: str, name: str = "", queued: bool = False) -> RunState:
        """What has become of a run.

        Args:
            run_id: Its first training's.
            name: Shown where it has no folder.
            queued: Whether a launcher that lives has it.
        """
        folder, holder = self.folders.get(run_id), self.holders.get(run_id)
        parts = (_trainings(folder) if folder else []) or [run_id]
        begun = [self.folders[part] for part in parts if part in self.folders]
        summary = _summary(begun[-1]) if len(begun) == len(parts) else None
        known: dict[str, Any] = {"run_id": run_id, "name": begun[-1].name if begun else name}
        known["folder"] = begun[-1] if begun else None
        if holder is not None:
            heartbeat = {name: value for name, value in holder.content.items() if value is not None}
            row = {**(_last_evaluation(begun[-1]) if begun else {}), **heartbeat}
            return RunState(state="running", row=row, heartbeat=holder.heartbeat, **known)
        if summary is not None:
            return RunState(state=summary.get("status") or "finished", row=summary, **known)
        last = _last_evaluation(begun[-1]) if begun else {}
        if (error := failure(self.path, run_id)) is not None:
            return RunState(state="failed", error=str(error.get("error", "")), row=last, **known)
        if queued:
            return RunState(state="queued", row=last, **known)
        return RunState(state="interrupted" if begun else "planned", row=last, **known)


def states(path: Path) -> list[RunState]:
    """Every run in ``path`` and in the results folders below it, and every run that its sweeps have planned."""
    found: list[RunState] = []
    results_dirs = dict.fromkeys([path] if (path / SWEEPS).is_dir() or (path / lease.FOLDER).is_dir() else [])
    results_dirs |= dict.fromkeys(run.parent for run in runs(path))
    for results_dir in results_dirs:
        results = ResultsFolder(results_dir)
        planned = _planned(results_dir, results.holders)
        later = {i for folder in results.folders.values() for i in _trainings(folder)[1:]}
        ids = dict.fromkeys([*results.folders, *results.holders, *planned])
        for run_id in ids:
            folder = results.folders.get(run_id)
            if run_id in later or run_id.startswith(SWEEP) or (folder and not is_run(folder)):
                continue
            found.append(results.state(run_id, *planned.get(run_id, ("", False))))
    return found


def fail(results: Path, run_id: str, error: BaseException) -> None:
    """Note that a run ended in ``error``."""
    text = " ".join(str(error).split()) or type(error).__name__
    record = {
        "error": text, "kind": type(error).__name__, "when": provenance.now(), **provenance.machine(),
        "traceback": "".join(traceback.format_exception(error)),
    }  # fmt: skip
    (results / lease.FOLDER).mkdir(parents=True, exist_ok=True)
    write_json(results / lease.FOLDER / f"{run_id}.failed", record)


def failure(results: Path, run_id: str) -> dict[str, Any] | None:
    """What :func:`fail` noted, if the run has not been begun again since."""
    try:
        return dict(json.loads((results / lease.FOLDER / f"{run_id}.failed").read_text()))
    except FileNotFoundError:
        return None


def clear_failure(results: Path, run_id: str) -> None:
    """The run is begun again."""
    (results / lease.FOLDER / f"{run_id}.failed").unlink(missing_ok=True)


SWEEP = "sweep-"
"""Begins the names of the leases that living sweeps hold."""


def write_plan(folder: Path, runs: Iterable[tuple[str, str, bool]]) -> None:
    """What a sweep wants: (run_id, overrides, whether its launcher has it); ``folder`` lies in RESULTS/.sweeps."""
    rows = ({"run_id": i, "launched": launched, "overrides": overrides} for i, overrides, launched in runs)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / PLAN, ("run_id", "launched", "overrides"), rows)


def _planned(results_dir: Path, holders: Mapping[str, lease.Holder]) -> dict[str, tuple[str, bool]]:
    """run_id -> (overrides, whether a living sweep has launched it)."""
    found: dict[str, tuple[str, bool]] = {}
    for plan in sorted((results_dir / SWEEPS).glob(f"*/{PLAN}")):
        alive = f"{SWEEP}{plan.parent.name}" in holders
        for row in read_csv(plan):
            queued = alive and row["launched"] == "True"
            found[row["run_id"]] = (row["overrides"], queued or found.get(row["run_id"], ("", False))[1])
    return found


def _trainings(folder: Path) -> list[str]:
    """The run_ids of all trainings of the run whose first one is in ``folder``; of a later one, its own; if known."""
    if training_of(folder) != 0:
        return [run_id_of(folder)]
    try:
        return list(json.loads((folder / schema.PROVENANCE).read_text()).get("trainings", []))
    except (FileNotFoundError, ValueError):
        return []


def _summary(folder: Path) -> dict[str, str] | None:
    try:
        return next(iter(read_csv(folder / schema.SUMMARY)), None)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, csv.Error):
        return None


def _last_evaluation(folder: Path) -> dict[str, Any]:
    try:
        rows = read_csv(folder / schema.METRICS)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, csv.Error):
        return {}
    return dict(rows[-1]) if rows else {}


def age(heartbeat: float) -> float:
    """Seconds since a heartbeat, by this machine's clock."""
    return max(time.time() - heartbeat, 0.0)
