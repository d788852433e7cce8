"""Tables by collecting: run folders and CSVs into one frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sparsebench.errors import SettingError
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
        frames = [_read_csv(file) for file in summaries(path)]
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


def summaries(folder: Path) -> Iterator[Path]:
    """The summary files under ``folder``, in the order of their names; hidden folders are not entered."""
    own = folder / schema.SUMMARY
    if own.is_file():
        yield own
        return
    with os.scandir(folder) as entries:
        below = sorted(e.path for e in entries if e.is_dir() and not e.name.startswith("."))
    for path in below:
        yield from summaries(Path(path))


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype={"run_id": str, "config_hash": str, "git_commit": str})
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise SettingError("path", path, f"a CSV of results: {' '.join(str(error).split())}") from error
    found = sorted(set(frame["schema"])) if "schema" in frame else []
    if found != [schema.SCHEMA]:
        holds = f"schema {', '.join(map(str, found))}" if found else "no schema column"
        raise SettingError("path", path, f"results of schema {schema.SCHEMA}; it holds {holds}")
    missing = [column for column in schema.SUMMARY_COLUMNS if column not in frame]
    if missing:
        raise SettingError(
            "path", path, f"the columns of schema {schema.SCHEMA}; it lacks {', '.join(missing)}"
        )
    return frame
