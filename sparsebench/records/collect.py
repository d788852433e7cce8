"""Collect run folders and CSVs into one data frame."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype, union_categoricals

from sparsebench.errors import SettingError, one_of, reason
from sparsebench.records import schema
from sparsebench.records.damage import DamagedRunError, Report, Row, ignore, read_row, refuse
from sparsebench.records.migrations import migrate
from sparsebench.records.repeats import repeated
from sparsebench.records.run_folder import finished_runs
from sparsebench.records.settings import SEED, without_places

STRING_COLUMNS = dict.fromkeys(schema.TEXT_COLUMNS, str)
"""Dtypes for pandas, which would parse some of these strings as numbers."""

CHUNK = 100_000
"""Rows of a long table to read at a time."""


def read(
    path: Path,
    columns: Collection[str] | None = None,
    names: Mapping[str, str] | None = None,
    report: Report = refuse,
    note: Callable[[str], object] = str,
) -> pd.DataFrame:
    """The summary rows under ``path``, one per run, sorted by configuration.

    Args:
        path: A run folder, a folder with run folders at any depth, or a CSV of summary rows.
        columns: Columns to read from a large CSV: strings become categories, the seed is removed from ``command``, and
            rows keep the file's order. All columns by default.
        names: Column of another program's CSV -> our name; missing columns are unknown, and its runs count as finished.
        report: Called with every run that is damaged, or of another schema, and left out; by default it is an error.
        note: Called with a line about every run that is there more than once with other results.

    Returns:
        The columns of the summaries in the present schema; for rows with the same ``run_id``, the one started last.

    Raises:
        SettingError: There are no results, a file is unreadable, or its rows cannot be migrated to this schema.
    """
    if path.is_file():
        frame = _table(path, columns, names)
    elif path.is_dir():
        frames = _read_run_folders(path, report)
        if not frames:
            raise SettingError(
                "path", path, f"a folder with finished runs (folders with {schema.SUMMARY}); it contains none"
            )
        frame = pd.concat(frames, ignore_index=True)
    else:
        raise SettingError("path", path, "a run folder, a folder of runs, or a CSV of results")
    if frame["run_id"].duplicated().any():
        for line in repeated(frame):
            note(f"{line}; the one started last counts")
        by_time = frame.sort_values("started", kind="stable") if "started" in frame else frame
        frame = by_time.drop_duplicates("run_id", keep="last")
    if columns is None:
        order = ("dataset", "model", "method", "target_sparsity", "config_hash", "seed")
        frame = frame.sort_values([c for c in order if c in frame], kind="stable")
    return frame.reset_index(drop=True)


def rows(folder: Path, report: Report = refuse) -> list[dict[str, str]]:
    """The summary rows of the finished runs under ``folder``, unchanged, in the order of the run folders.

    Args:
        folder: The folder.
        report: Called with every run that is damaged, or of another schema, and left out; by default it is an error.
    """
    return [
        {**row.cells, "command": without_places(row.cells["command"])}
        for run, row in sound_rows(folder, report)
        if _is_current(run, row, report)
    ]


def _is_current(run: Path, row: Row, report: Report) -> bool:
    found = row.cells["schema"]
    if found != str(schema.SCHEMA):
        report(run, f"results of schema {found}, not {schema.SCHEMA}")
    return found == str(schema.SCHEMA)


def sound_rows(path: Path, report: Report = ignore) -> Iterator[tuple[Path, Row]]:
    """The folders of the finished runs under ``path`` that can be read, and their rows, of any schema."""
    for run in finished_runs(path, report):
        try:
            yield run, read_row(run)
        except DamagedRunError as error:
            report(run, error.why)
        except FileNotFoundError:  # removed just now
            continue


def _read_run_folders(path: Path, report: Report) -> list[pd.DataFrame]:
    """The finished runs under ``path``; rows of the present schema are parsed at once, which is faster."""
    plain_rows: list[Row] = []
    other_frames = []
    for run, row in sound_rows(path, report):
        if row.values[row.header.index("schema")] == str(schema.SCHEMA):
            plain_rows.append(row)
            continue
        try:
            other_frames.append(_read_any_schema(run / schema.SUMMARY))  # migrates it
        except SettingError as error:
            report(run, error.allowed)
    return [_parsed(plain_rows), *other_frames] if plain_rows else other_frames


def _parsed(plain_rows: Sequence[Row]) -> pd.DataFrame:
    """Rows of the present schema as one table."""
    headers = dict.fromkeys(row.header for row in plain_rows)
    columns = tuple(dict.fromkeys(column for header in headers for column in header))
    place = {header: [header.index(c) if c in header else -1 for c in columns] for header in headers}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(
        row.values if row.header == columns else ["" if i < 0 else row.values[i] for i in place[row.header]]
        for row in plain_rows
    )
    text.seek(0)
    return pd.read_csv(text, dtype=STRING_COLUMNS)


def _read_any_schema(path: Path) -> pd.DataFrame:
    """All columns of one of our CSVs, in the present schema."""
    with _csv_errors(path):
        frame = pd.read_csv(path, dtype=STRING_COLUMNS)
    frame = migrate(frame, path)
    missing = [column for column in schema.SUMMARY_COLUMNS if column not in frame]
    if missing:
        raise SettingError(
            "path", path, f"the columns of schema {schema.SCHEMA}; it lacks {', '.join(missing)}"
        )
    return frame


def _table(path: Path, columns: Collection[str] | None, names: Mapping[str, str] | None) -> pd.DataFrame:
    with _csv_errors(path):
        header = list(pd.read_csv(path, nrows=0, index_col=False).columns)
    if names and "schema" not in header:
        return _rename_foreign(path, header, names)
    if "schema" not in header:
        here = f"results of schema {schema.SCHEMA}; it holds no schema column"
        raise SettingError("path", path, f"{here} (--map theirs=ours names the columns of other tables)")
    if columns is None or not set(schema.SUMMARY_COLUMNS) <= set(header):
        return _read_any_schema(path)
    wanted, parts = [c for c in header if c in {*columns, "schema", "run_id"}], []
    with (
        _csv_errors(path),
        pd.read_csv(path, dtype=STRING_COLUMNS, usecols=wanted, chunksize=CHUNK) as reader,
    ):
        for chunk in reader:
            if not (chunk["schema"] == schema.SCHEMA).all():
                return _read_any_schema(path)  # a migration may need any column
            parts.append(_compact(chunk))
    if not parts or not any(len(part) for part in parts):
        return _read_any_schema(path)
    return _concatenate(parts)


def _compact(chunk: pd.DataFrame) -> pd.DataFrame:
    """Reduce the memory of a chunk of a long table."""
    if "command" in chunk:
        chunk["command"] = chunk["command"].str.replace(SEED, "", regex=True)
    for column in chunk:
        if not is_numeric_dtype(chunk[column]) and column not in ("run_id", "started"):
            chunk[column] = chunk[column].astype("category")
    return chunk


def _concatenate(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate chunks; a column that is categorical in some becomes categorical in all."""
    for column in parts[0].columns:
        if any(isinstance(part[column].dtype, pd.CategoricalDtype) for part in parts):
            united = union_categoricals([pd.Categorical(part[column]) for part in parts])
            for part in parts:
                part[column] = pd.Categorical(part[column], categories=united.categories)
    return pd.concat(parts, ignore_index=True)


def _rename_foreign(path: Path, header: list[str], names: Mapping[str, str]) -> pd.DataFrame:
    """Another program's table with our column names."""
    for theirs, ours in names.items():
        if theirs not in header:
            raise SettingError("map", f"{theirs}={ours}", f"a column of {path}: {one_of(header, theirs)}")
    with _csv_errors(path):
        frame = pd.read_csv(path)
    if frame.empty:
        raise SettingError("path", path, "a table with rows")
    frame = frame.rename(columns=dict(names))
    if repeated := sorted(set(frame.columns[frame.columns.duplicated()])):
        raise SettingError(
            "map", None, f"one column per name; {', '.join(repeated)} would occur more than once"
        )
    frame["run_id"] = frame["run_id"] if "run_id" in frame else [f"row {i + 1}" for i in range(len(frame))]
    frame["status"] = frame.get("status", "finished")
    frame["sparsity_ok"] = frame.get("sparsity_ok", True)
    return frame


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pd.errors.EmptyDataError, pd.errors.ParserError, ValueError, OSError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError("path", path, f"a CSV of results: {reason(error)}") from error
