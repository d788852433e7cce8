"""The folder of one run: what is in it, and whether the run is finished."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsebench.errors import SettingError
from sparsebench.files import atomic, read_csv, remove_temporary_files, write_csv, write_json, write_text
from sparsebench.records import provenance, schema

if TYPE_CHECKING:
    from torch import Tensor

MARKER = ".sparsebench"


class RunFolder:
    """One folder a run, under ``results_dir``; every file in it but the log is written whole or not at all.

    Args:
        results_dir: Folder of run folders; made if missing.
        name: Of the run's folder.

    Raises:
        SettingError: ``results_dir`` holds results of another schema version, or is not a folder.
    """

    def __init__(self, results_dir: Path, name: str) -> None:
        self.results_dir, self.path = results_dir, results_dir / name
        if results_dir.exists() and not results_dir.is_dir():
            raise SettingError("results_dir", results_dir, "a folder, but a file has this name")
        found = {_marked(results_dir), _marked(self.path)} - {None, schema.SCHEMA}
        if found:
            raise SettingError(
                "results_dir",
                results_dir,
                f"results of schema {schema.SCHEMA}, but it holds schema {found.pop()} of another version; choose "
                "another folder",
            )

    def open(self) -> None:
        """Make the folders; nothing is written before this."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.mark()
        remove_temporary_files(self.path)

    def mark(self) -> None:
        """Say in both folders of which schema they are."""
        for folder in (self.results_dir, self.path):
            if _marked(folder) is None:
                write_text(folder / MARKER, f"{schema.SCHEMA}\n")

    def summary(self) -> dict[str, str] | None:
        """The run's row, if it is finished."""
        return next(iter(read_csv(self.path / schema.SUMMARY)), None) if is_finished(self.path) else None

    def clear(self) -> None:
        """Delete the run."""
        shutil.rmtree(self.path, ignore_errors=True)

    def log(self, text: str) -> None:
        """Add lines to the run's log, the one file that grows; each begins with the time."""
        lines = "".join(f"{provenance.now()}  {line}\n" for line in text.splitlines())
        with open(self.path / schema.LOG, "ab", buffering=0) as file:
            file.write(lines.encode())

    def write_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """One row an evaluation."""
        write_csv(self.path / schema.METRICS, schema.METRICS_COLUMNS, rows)

    def write_layers(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """One row a layer."""
        write_csv(self.path / schema.LAYERS, schema.LAYERS_COLUMNS, rows)

    def write_summary(self, row: Mapping[str, Any], extra: Iterable[str] = ()) -> None:
        """The one row of the run; written last, its presence means finished."""
        write_csv(self.path / schema.SUMMARY, (*schema.SUMMARY_COLUMNS, *extra), [row])

    def write_model(self, state: Mapping[str, Tensor]) -> None:
        """The final weights under the model's own keys."""
        from safetensors.torch import save

        with atomic(self.path / schema.MODEL) as file:
            file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))

    def write_config(self, text: str) -> None:
        """The resolved config."""
        write_text(self.path / schema.CONFIG, text)

    def provenance(self) -> dict[str, Any]:
        """run.json, empty if there is none yet."""
        path = self.path / schema.PROVENANCE
        return json.loads(path.read_text()) if path.exists() else {}

    def write_provenance(self, value: Mapping[str, Any]) -> None:
        """What produced the run."""
        write_json(self.path / schema.PROVENANCE, value)


def runs(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The run folders under ``folder``, finished or not, in the order of their names.

    Run folders, theory studies and hidden folders are not entered; links are followed, but not back to a folder
    ``above``.
    """
    if (folder / schema.STUDY).is_file():
        return
    if is_run(folder):
        yield folder
        return
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        below = sorted(e.path for e in entries if e.is_dir() and not e.name.startswith("."))
    for path in below:
        yield from runs(Path(path), above | {real})


def finished_runs(path: Path) -> list[Path]:
    """The run folders under ``path`` that have their result, in the order of :func:`runs`; none if it is no folder."""
    return [run for run in runs(path) if is_finished(run)] if path.is_dir() else []


def unfinished(path: Path) -> list[Path]:
    """The run folders under ``path`` that have no result: running now, or interrupted."""
    return [run for run in runs(path) if not is_finished(run)] if path.is_dir() else []


def is_finished(folder: Path) -> bool:
    """Whether the folder of a run, or of a theory study, has its result: the summary is written last."""
    return (folder / schema.SUMMARY).is_file()


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    return is_finished(folder) or (folder / schema.PROVENANCE).is_file()


def training_of(folder: Path) -> int | None:
    """The number of the training that a folder is of, by its name; ``None`` of a method with one training."""
    found = re.search(r"-training(\d+)-", folder.name)
    return int(found[1]) if found else None


def run_id_of(folder: Path) -> str:
    """The run_id, or the id of a theory study, that a folder's name ends with."""
    return folder.name.rpartition("-")[2]


def _marked(folder: Path) -> int | None:
    try:
        text = (folder / MARKER).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return int(text) if text.isdigit() else -1
