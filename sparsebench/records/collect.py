"""Tables by collecting: run folders and CSVs into one frame."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sparsebench.errors import SettingError
from sparsebench.files import read_csv
from sparsebench.records import schema


def read(path: Path) -> pd.DataFrame:
    """The summary rows under ``path``, one a run, sorted by what was run.

    Args:
        path: A run folder, a folder with run folders at any depth, or a CSV of summary rows.

    Returns:
        The columns of the summaries; of rows with the same ``run_id`` the one started last.

    Raises:
        SettingError: Nothing is there, a file cannot be read, or its rows are of another schema.
    """
    if path.is_file():
        frames = [_read_csv(path)]
    elif path.is_dir():
        frames = [_read_csv(run / schema.SUMMARY) for run in runs(path) if _finished(run)]
    else:
        raise SettingError("path", path, "a run folder, a folder of runs, or a CSV of results")
    if not frames:
        raise SettingError(
            "path", path, f"finished runs (folders with {schema.SUMMARY}) in it; there is none"
        )
    frame = pd.concat(frames, ignore_index=True)
    order = [
        c for c in ("dataset", "model", "method", "target_sparsity", "config_hash", "seed") if c in frame
    ]
    frame = frame.sort_values("started", kind="stable").drop_duplicates("run_id", keep="last")
    return frame.sort_values(order, kind="stable").reset_index(drop=True)


def rows(folder: Path) -> list[dict[str, str]]:
    """The summary rows of the finished runs under ``folder`` as they were written, in the order of the run folders.

    Raises:
        SettingError: There are none, or they are of another schema.
    """
    found = []
    for run in runs(folder) if folder.is_dir() else ():
        for row in read_csv(run / schema.SUMMARY) if _finished(run) else ():
            if row.get("schema") != str(schema.SCHEMA):
                raise SettingError(
                    "path", run, f"results of schema {schema.SCHEMA}; it holds {row.get('schema')}"
                )
            words = shlex.split(row["command"])
            places = ("results_dir=", "data_root=")
            found.append({**row, "command": shlex.join(w for w in words if not w.startswith(places))})
    if not found:
        raise SettingError("path", folder, "a folder with finished runs")
    return found


def runs(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The run folders under ``folder``, finished or not, in the order of their names.

    Run folders and hidden folders are not entered; links are followed, but not back to a folder ``above``.
    """
    if _finished(folder) or (folder / schema.PROVENANCE).is_file():
        yield folder
        return
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        below = sorted(e.path for e in entries if e.is_dir() and not e.name.startswith("."))
    for path in below:
        yield from runs(Path(path), above | {real})


def unfinished(path: Path) -> list[Path]:
    """The run folders under ``path`` that have no result: running now, or interrupted."""
    return [run for run in runs(path) if not _finished(run)] if path.is_dir() else []


def _finished(folder: Path) -> bool:
    return (folder / schema.SUMMARY).is_file()


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype={"run_id": str, "config_hash": str, "git_commit": str})
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise SettingError("path", path, f"a CSV of results: {' '.join(str(error).split())}") from error
    found = list(frame["schema"].unique()) if "schema" in frame else None
    if found != [schema.SCHEMA]:
        holds = f"schema {', '.join(map(str, found))}" if found else "no schema column"
        if found == []:
            holds = "no rows"
        raise SettingError("path", path, f"results of schema {schema.SCHEMA}; it holds {holds}")
    missing = [column for column in schema.SUMMARY_COLUMNS if column not in frame]
    if missing:
        raise SettingError(
            "path", path, f"the columns of schema {schema.SCHEMA}; it lacks {', '.join(missing)}"
        )
    return frame
