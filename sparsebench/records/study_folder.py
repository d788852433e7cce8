"""The folder of one theory study: its tables, and the rows of grid points until it is finished."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.errors import reason
from sparsebench.files import (
    leads_out,
    read_csv,
    read_text,
    remove_temporary_files,
    write_csv,
    write_json,
    write_text,
)
from sparsebench.paths import file_name
from sparsebench.records import schema
from sparsebench.records.damage import Report, ignore
from sparsebench.records.run_folder import is_finished

CHECKS = (
    "study",
    "check",
    "case",
    "predicted",
    "measured",
    "standard_error",
    "deviation",
    "tolerance",
    "passed",
)
"""Columns of a study's summary.csv."""

POINTS = ".points"
"""Subfolder with the rows of single grid points."""


class StudyFolder:
    """The folder of a study with given settings; every file is written atomically.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        """Create the folder; nothing is written before."""
        (self.path / POINTS).mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.path / POINTS):
            remove_temporary_files(folder)

    def clear(self) -> None:
        """Delete the study."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def finished(self) -> bool:
        """Whether all its tables exist."""
        return is_finished(self.path)

    def known(self, point: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]] | None:
        """The stored rows of a grid point, by table."""
        try:
            found: dict[str, list[dict[str, Any]]] = json.loads(read_text(self._file(point)))["tables"]
        except FileNotFoundError:
            return None
        return found

    def keep(self, point: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Store the rows of a grid point."""
        write_json(self._file(point), {"point": point, "tables": tables})

    def _file(self, point: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()
        return self.path / POINTS / f"{digest[:16]}.json"

    def write_table(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Write ``name``.csv."""
        write_csv(self.table(name), columns, rows)

    def table(self, name: str) -> Path:
        """The file of a table."""
        return self.path / file_name(f"{name}.csv")

    def write_config(self, text: str) -> None:
        """Write the resolved config."""
        write_text(self.path / schema.CONFIG, text)

    def write_provenance(self, value: Mapping[str, Any]) -> None:
        """Write study.json, which distinguishes the folder from a run folder."""
        write_json(self.path / schema.STUDY, value)

    def provenance(self) -> dict[str, Any]:
        """Content of study.json."""
        return dict(json.loads(read_text(self.path / schema.STUDY)))

    def write_checks(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write summary.csv last, which marks the study as finished, then delete the rows of grid points."""
        write_csv(self.path / schema.SUMMARY, CHECKS, rows)
        shutil.rmtree(self.path / POINTS, ignore_errors=True)

    def checks(self) -> list[dict[str, str]]:
        """The rows of summary.csv."""
        return read_csv(self.path / schema.SUMMARY)


def studies(folder: Path, report: Report = ignore) -> Iterator[StudyFolder]:
    """The finished studies under ``folder``, sorted by name; hidden folders are skipped.

    Args:
        folder: The folder.
        report: Called with folders that are left out because they cannot be read or are links to elsewhere.
    """
    yield from _studies(folder, folder, frozenset(), report)


def _studies(folder: Path, root: Path, above: frozenset[str], report: Report) -> Iterator[StudyFolder]:
    if (folder / schema.STUDY).is_file():
        found = StudyFolder(folder)
        if found.finished:
            yield found
        return
    real = os.path.realpath(folder)
    if real in above or not folder.is_dir():
        return
    if above and leads_out(folder, root):
        report(folder, "a link to another folder, which is not followed")
        return
    try:
        with os.scandir(folder) as entries:
            below = sorted(e.path for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        report(folder, reason(error))
        return
    for path in below:
        yield from _studies(Path(path), root, above | {real}, report)
