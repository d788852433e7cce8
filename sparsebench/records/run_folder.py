"""The folder of one run."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsebench.errors import SettingError, reason
from sparsebench.files import (
    atomic,
    leads_out,
    named,
    open_for_append,
    read_text,
    remove_temporary_files,
    write_csv,
    write_json,
    write_text,
)
from sparsebench.records import provenance, schema
from sparsebench.records.damage import Report, ignore, read_provenance, read_row

if TYPE_CHECKING:
    from torch import Tensor

MARKER = ".sparsebench"


class RunFolder:
    """A run folder under ``results_dir``; every file but the log is written atomically.

    Args:
        results_dir: Folder of run folders; created if missing.
        name: Name of the run folder.

    Raises:
        SettingError: ``results_dir`` holds results of another schema version, or is not a folder.
    """

    def __init__(self, results_dir: Path, name: str) -> None:
        self.results_dir, self.path = results_dir, results_dir / name
        if results_dir.exists() and not results_dir.is_dir():
            raise SettingError("results_dir", results_dir, "a writable folder: this is a file")
        found = {_marked(results_dir), _marked(self.path)} - {None, schema.SCHEMA}
        if found:
            raise SettingError(
                "results_dir",
                results_dir,
                f"results of schema {schema.SCHEMA}, but it contains schema {found.pop()} of another version; choose "
                "another folder",
            )

    def open(self) -> None:
        """Create the folders; nothing is written before."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.mark()
        remove_temporary_files(self.path)

    def mark(self) -> None:
        """Write the schema version into both folders."""
        for folder in (self.results_dir, self.path):
            if _marked(folder) is None:
                write_text(folder / MARKER, f"{schema.SCHEMA}\n")

    def summary(self) -> dict[str, str] | None:
        """The run's row, if it is finished.

        Raises:
            DamagedRunError: It cannot be read.
        """
        return read_row(self.path).cells if is_finished(self.path) else None

    def clear(self) -> None:
        """Delete the run."""
        shutil.rmtree(self.path, ignore_errors=True)

    def log(self, text: str) -> None:
        """Append lines with a time stamp to the run's log."""
        lines = "".join(f"{provenance.now()}  {line}\n" for line in text.splitlines())
        with named(self.path / schema.LOG), open_for_append(self.path / schema.LOG) as file:
            file.write(lines.encode(errors="backslashreplace"))

    def write_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write metrics.csv, one row per evaluation."""
        write_csv(self.path / schema.METRICS, schema.METRICS_COLUMNS, rows)

    def write_layers(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write layers.csv, one row per layer."""
        write_csv(self.path / schema.LAYERS, schema.LAYERS_COLUMNS, rows)

    def write_summary(self, row: Mapping[str, Any], extra: Iterable[str] = ()) -> None:
        """Write summary.csv, last: its presence marks the run as finished."""
        write_csv(self.path / schema.SUMMARY, (*schema.SUMMARY_COLUMNS, *extra), [row])

    def write_model(self, state: Mapping[str, Tensor]) -> None:
        """Write the final weights with the keys of the model's state_dict."""
        from safetensors.torch import save

        with atomic(self.path / schema.MODEL) as file:
            file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))

    def write_config(self, text: str) -> None:
        """Write the resolved config."""
        write_text(self.path / schema.CONFIG, text)

    def provenance(self) -> dict[str, Any]:
        """Content of run.json, empty if it does not exist.

        Raises:
            DamagedRunError: It cannot be read.
        """
        return read_provenance(self.path)

    def write_provenance(self, value: Mapping[str, Any]) -> None:
        """Write run.json."""
        write_json(self.path / schema.PROVENANCE, value)


def runs(folder: Path, report: Report = ignore) -> Iterator[Path]:
    """The run folders under ``folder``, finished or not, sorted by name.

    Does not descend into run folders, theory studies, hidden folders, and folders that cannot be read; follows links
    only to folders under ``folder``, except to one above them.

    Args:
        folder: The folder.
        report: Called with folders that are left out because they cannot be read or are links to elsewhere.
    """
    yield from _runs(folder, folder, frozenset(), report)


def _runs(folder: Path, root: Path, above: frozenset[str], report: Report) -> Iterator[Path]:
    if os.path.isfile(f"{folder}/{schema.STUDY}"):  # not with a Path, which takes three times as long
        return
    if is_run(folder):
        yield folder
        return
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            below = sorted(
                (e.path, e.is_symlink()) for e in entries if e.is_dir() and not e.name.startswith(".")
            )
    except OSError as error:
        report(folder, reason(error))
        return
    for path, link in below:
        if link and leads_out(path, root):
            report(Path(path), "a link to another folder, which is not followed")
        else:
            yield from _runs(Path(path), root, above | {real}, report)


def finished_runs(path: Path, report: Report = ignore) -> list[Path]:
    """The run folders under ``path`` that have their result, in the order of :func:`runs`; none if it is no folder."""
    return [run for run in runs(path, report) if is_finished(run)] if path.is_dir() else []


def unfinished(path: Path) -> list[Path]:
    """The run folders under ``path`` without a result: running or interrupted."""
    return [run for run in runs(path) if not is_finished(run)] if path.is_dir() else []


def is_finished(folder: Path) -> bool:
    """Whether the run or theory study in this folder has its summary, which is written last, readable or not."""
    return os.path.lexists(f"{folder}/{schema.SUMMARY}")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    return is_finished(folder) or os.path.lexists(f"{folder}/{schema.PROVENANCE}")


def training_of(folder: Path) -> int | None:
    """The number of the training that a folder is of, by its name; ``None`` of a method with one training."""
    found = re.search(r"-training(\d+)-[^-]*$", folder.name)
    return int(found[1]) if found else None


def run_id_of(folder: Path) -> str:
    """The run_id, or the id of a theory study, that a folder's name ends with."""
    return folder.name.rpartition("-")[2]


def _marked(folder: Path) -> int | None:
    try:
        text = read_text(folder / MARKER).strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return -1
    return int(text) if text.isdigit() else -1
