"""The folder of one run."""

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
        """The run's row, if it is finished."""
        return next(iter(read_csv(self.path / schema.SUMMARY)), None) if is_finished(self.path) else None

    def clear(self) -> None:
        """Delete the run."""
        shutil.rmtree(self.path, ignore_errors=True)

    def log(self, text: str) -> None:
        """Append lines with a time stamp to the run's log."""
        lines = "".join(f"{provenance.now()}  {line}\n" for line in text.splitlines())
        with open(self.path / schema.LOG, "ab", buffering=0) as file:
            file.write(lines.encode())

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
        """Content of run.json, empty if it does not exist."""
        path = self.path / schema.PROVENANCE
        return json.loads(path.read_text()) if path.exists() else {}

    def write_provenance(self, value: Mapping[str, Any]) -> None:
        """Write run.json."""
        write_json(self.path / schema.PROVENANCE, value)


def runs(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The run folders under ``folder``, finished or not, sorted by name.

    Does not descend into run folders, theory studies and hidden folders; follows links, except to a folder ``above``.
    """
    if os.path.isfile(f"{folder}/{schema.STUDY}"):  # not with a Path, which takes three times as long
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
    """The run folders under ``path`` without a result: running or interrupted."""
    return [run for run in runs(path) if not is_finished(run)] if path.is_dir() else []


def is_finished(folder: Path) -> bool:
    """Whether the run or theory study in this folder is finished: its summary is written last."""
    return os.path.isfile(f"{folder}/{schema.SUMMARY}")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    return is_finished(folder) or os.path.isfile(f"{folder}/{schema.PROVENANCE}")


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
