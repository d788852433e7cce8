"""Read a run's own files, and say of a damaged or foreign run what is wrong with it, so that it can be left out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sparsebench.errors import SettingError, reason
from sparsebench.files import read_text
from sparsebench.records import schema

Report = Callable[[Path, str], object]
"""Called with what a command leaves out, and why; see :func:`refuse`."""


class DamagedRunError(SettingError):
    """A run folder whose files are not those of a run; ``why`` is one line."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__("path", folder, f"a run that can be read: {why}")
        self.folder, self.why = folder, why

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.why)


class Row(NamedTuple):
    """The row of a summary.csv as text."""

    header: tuple[str, ...]
    values: list[str]

    @property
    def cells(self) -> dict[str, str]:
        """Column -> text."""
        return dict(zip(self.header, self.values, strict=True))


def refuse(folder: Path, why: str) -> None:
    """The default of functions that report what they leave out: leave nothing out.

    Raises:
        DamagedRunError: Always.
    """
    raise DamagedRunError(folder, why)


def ignore(folder: Path, why: str) -> None:
    """Leave it out without a word, where only sound runs matter."""


def read_row(folder: Path) -> Row:
    """The row of a finished run; its run.json, if there is one, is read too.

    Raises:
        DamagedRunError: One of the two is not what a run writes.
    """
    row = _row(folder)
    if "schema" not in row.header:
        raise DamagedRunError(folder, f"{schema.SUMMARY} has no column schema")
    cells = row.cells
    if cells["schema"] != str(schema.SCHEMA):
        _require_migration(folder, cells["schema"])
    else:
        if missing := _missing(row.header):
            raise DamagedRunError(folder, f"{schema.SUMMARY} has no column {', '.join(missing)}")
        if wrong := _wrong(cells):
            raise DamagedRunError(folder, f"{schema.SUMMARY}: {wrong}")
    read_provenance(folder)
    return row


def read_provenance(folder: Path) -> dict[str, Any]:
    """The run.json of a run folder; empty if there is none.

    Raises:
        DamagedRunError: It is not what a run writes.
    """
    try:
        found = json.loads(read_text(folder / schema.PROVENANCE))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedRunError(folder, f"{schema.PROVENANCE}: {reason(error)}") from error
    if not isinstance(found, dict):
        raise DamagedRunError(folder, f"{schema.PROVENANCE} is a {type(found).__name__}, not an object")
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of another CSV of a run, such as its metrics; each has all columns.

    Raises:
        DamagedRunError: It is no such CSV.
        FileNotFoundError: There is none.
    """
    first, *others = _lines(path)
    if any(len(line) != len(first) for line in others):
        raise DamagedRunError(
            path.parent, f"{path.name}: a line has another number of fields than the header"
        )
    return [dict(zip(first, line, strict=True)) for line in others]


def is_number(text: str) -> bool:
    """Whether ``text`` is a number as CSVs have it."""
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text


def _require_migration(folder: Path, found: str) -> None:
    from sparsebench.records.migrations import STEPS  # imports pandas, which status does not need otherwise

    older = found.isdecimal() and int(found) < schema.SCHEMA
    if not older or any(number not in STEPS for number in range(int(found), schema.SCHEMA)):
        raise DamagedRunError(folder, f"results of schema {found[:20]}; this version reads {schema.SCHEMA}")


def _row(folder: Path) -> Row:
    header, *found = _lines(folder / schema.SUMMARY)
    if len(found) != 1:
        raise DamagedRunError(folder, f"{schema.SUMMARY} has {len(found)} rows, not 1")
    if len(found[0]) != len(header):
        raise DamagedRunError(folder, f"{schema.SUMMARY}: {len(found[0])} fields for {len(header)} columns")
    return Row(tuple(header), found[0])


def _lines(path: Path) -> list[list[str]]:
    """All lines of a CSV, the header first."""
    try:
        text = read_text(path)
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise DamagedRunError(path.parent, f"{path.name}: {reason(error)}") from error
    why = ""
    if "\0" in text:
        why = "a NUL byte"
    elif not lines:
        why = "empty"
    elif len({*lines[0]}) != len(lines[0]):
        twice = next(name for name in lines[0] if lines[0].count(name) > 1)
        why = f"two columns {twice}"
    if why:
        raise DamagedRunError(path.parent, f"{path.name}: {why}")
    return lines


@cache
def _missing(header: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(column for column in schema.SUMMARY_COLUMNS if column not in header)


def _wrong(cells: dict[str, str]) -> str:
    """The first cell that is not of its column's type; empty if all are."""
    for column in (*schema.SUMMARY_TABLE, *schema.APPENDED_TABLE):
        text = cells.get(column.name)
        if text and column.type in (int, float) and not is_number(text):
            return f"{column.name}={text[:80]} is not a number"
        if text and column.name == "sparsity_ok" and text not in ("True", "False", "true", "false"):
            return f"{column.name}={text[:80]} is not True or False"
    return ""
