"""Runs that have begun and have no result, as far as they have come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsebench.records import schema
from sparsebench.records.damage import DamagedRunError, Report, is_number, read_provenance, read_rows, refuse
from sparsebench.records.run_folder import run_id_of, unfinished
from sparsebench.records.settings import without_places
from sparsebench.records.states import ResultsFolder, RunState, trainings


def unfinished_rows(path: Path, report: Report = refuse) -> dict[Path, dict[str, str]]:
    """Folder -> row of the trainings under ``path`` that have begun and have no result, in the order of the folders.

    ``status`` is that of :data:`sparsebench.records.states.STATES`, so nothing that reads summaries takes the row for a
    result. What is known before a training is as it will be in its summary; ``epoch``, ``sparsity``, ``val_top1`` and
    the other columns of metrics.csv are those of the last evaluation, if there was one; all else is empty.

    Args:
        path: A run folder, or a folder of runs.
        report: Called with every run that is damaged and left out; by default it is an error.
    """
    found, results = dict[Path, dict[str, str]](), dict[Path, ResultsFolder]()
    for folder in unfinished(path):
        try:
            known = read_provenance(folder)
            first = ([part for part in trainings(known) if part] or [run_id_of(folder)])[0]
            if folder.parent not in results:
                results[folder.parent] = ResultsFolder(folder.parent)
            here = results[folder.parent]
            state = here.state(first, *here.planned.get(first, ("", False)))
            if state.state not in ("finished", "diverged"):  # just now
                found[folder] = _row(folder, state, known)
        except DamagedRunError as error:
            report(folder, error.why)
    return found


def evaluations(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv; none before its first evaluation.

    Raises:
        DamagedRunError: The file is not what a run writes.
    """
    path = folder / schema.METRICS
    try:
        found = read_rows(path)
    except FileNotFoundError:
        return []
    for row in found:
        if wrong := [name for name in schema.METRICS_COLUMNS if row.get(name) and not is_number(row[name])]:
            raise DamagedRunError(folder, f"{path.name}: {wrong[0]}={row[wrong[0]][:80]} is not a number")
    return found


def _row(folder: Path, state: RunState, known: Mapping[str, Any]) -> dict[str, str]:
    row = {column: _text(known.get(column)) for column in schema.SUMMARY_COLUMNS}
    row |= {"run_id": run_id_of(folder), "status": state.state, "command": without_places(row["command"])}
    last = next(reversed(evaluations(folder)), {})
    so_far = {column: last.get(column, "") for column in schema.METRICS_COLUMNS}
    return row | so_far | {"error": state.error}


def _text(value: object) -> str:
    return "" if value is None else str(value)
