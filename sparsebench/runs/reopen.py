"""Reopen finished runs: config, model and data from the run folder. Nothing that only the folder names is executed."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sparsebench import files
from sparsebench.config import renamed
from sparsebench.config.compose import IDENTITY_GROUPS
from sparsebench.config.open import ReopenedConfig, compose_config, reopen_config
from sparsebench.config.signatures import accepted_arguments
from sparsebench.config.trusted import PLAIN, Trust, read_config
from sparsebench.data.dataset import Dataset
from sparsebench.distributed.threads import available_cores
from sparsebench.errors import RunError, SettingError
from sparsebench.paths import expanded
from sparsebench.records import schema
from sparsebench.records.run_folder import run_id_of, training_of
from sparsebench.records.settings import NUMERICS
from sparsebench.runs.build import network
from sparsebench.runs.result import Network, load_weights

LARGEST = 1 << 26
"""Most bytes of a text file of a run folder; metrics.csv with 200,000 evaluations has as many."""

_ALONE = accepted_arguments("sparsebench.distributed.device.Device") or set()


class Datasets:
    """Cache of data sets by config, so that each is read once for all runs that use it.

    Args:
        data_root: Folder of the data sets; by default that of ``sparsebench train`` on this machine.
        trust: What the user typed; with ``--trust``, the folder that a run names is read where it exists.
    """

    def __init__(self, data_root: Path | None = None, trust: Trust | None = None) -> None:
        self.data_root, self.trust = data_root, trust or Trust()
        self._read: dict[str, Dataset] = {}

    def resolve_data_root(self, cfg: DictConfig) -> str:
        """Set ``data_root`` in the config; returns the cache key of its data set."""
        root = str(self.data_root or self._recorded(cfg) or self._default)
        cfg.data_root, cfg.workers = root, None
        for key, value in (("data_root", root), ("workers", None)):
            if key in cfg.dataset:
                cfg.dataset[key] = value
        return f"{cfg.device.name} {OmegaConf.to_yaml(cfg.dataset, resolve=True)}"

    @cached_property
    def _default(self) -> str:
        return str(compose_config([])[0].data_root)

    def _recorded(self, cfg: DictConfig) -> str | None:
        """The folder that the run names, if it may be opened: it was typed, or everything is trusted."""
        text = str(cfg.data_root)
        try:
            return text if self.trust.readable(text, Path(os.devnull)) and expanded(text).is_dir() else None
        except (OSError, ValueError):  # no home folder, a name too long
            return None

    def network(self, cfg: DictConfig) -> Network:
        """The initial model of ``cfg`` with its data."""
        key = self.resolve_data_root(cfg)
        net = network(cfg, self._read.get(key))
        self._read[key] = net.dataset
        return net


class FinishedRun:
    """The folder of a finished run.

    Args:
        path: The run folder.
        trust: What may be built and opened for it; by default, what this installation's options name.

    Raises:
        RunError: One of its files is missing or unreadable.
    """

    def __init__(self, path: Path, trust: Trust | None = None) -> None:
        self.path, self.trust = path, trust or Trust()
        self.row = _only(path / schema.SUMMARY)
        self.provenance: dict[str, Any] = _read(path / schema.PROVENANCE, _mapping)
        choices = self.provenance.get("choices")
        if not isinstance(choices, dict) or not all(
            isinstance(o, (str, type(None))) for o in choices.values()
        ):
            raise RunError(f"{schema.PROVENANCE}: the chosen options are missing")
        self.choices: Mapping[str, str | None] = renamed.choices(choices)
        named = ((group, option) for group, option in self.choices.items() if not group.startswith("hydra/"))
        for group, option in named:
            if option is not None and not (PLAIN.fullmatch(group) and PLAIN.fullmatch(option)):
                raise RunError(f"{schema.PROVENANCE}: {group}={option}: expected the name of an option")
        if missing := [group for group in IDENTITY_GROUPS if group not in self.choices]:
            raise RunError(f"{schema.PROVENANCE}: an option of {', '.join(missing)} is missing")
        self.training = training_of(path) or 0
        self.ranks = self.provenance.get("ranks", 1)
        if not isinstance(self.ranks, int) or self.ranks < 1:
            raise RunError(f"{schema.PROVENANCE}: ranks={self.ranks}: expected a number of ranks")
        text = read_text(path / schema.CONFIG)
        self.settings: dict[str, Any] = _read(path / schema.CONFIG, read_config)
        self.not_built, self.not_opened = self._refused()
        self.opened: ReopenedConfig | None = None
        if not self.not_built:
            self._open(text)

    def _refused(self) -> tuple[dict[str, str], dict[str, str]]:
        """Place -> why, of the classes and files of the config that are not trusted."""
        try:
            classes = self.trust.classes(self.settings, self.choices)
            return classes, self.trust.files(self.settings, self.choices, self.path)
        except SettingError as error:
            return {error.setting: f"{error.given} is no option here ({error})"}, {}

    def _open(self, text: str) -> None:
        known = run_id_of(self.path)
        with self.trust.searching():
            self.opened = _read(
                self.path / schema.CONFIG,
                lambda _: reopen_config(
                    text, self.choices, self.training, self.ranks, lambda run: run == known
                ),
            )
        self.cfg = self.opened.cfg
        # The device is not part of the run's identity: use the kind it was trained on if available; one process.
        kept = self.provenance.get("numerics") or {}
        for name in NUMERICS:
            self.cfg[name] = kept.get(name) is True if name in kept else self.cfg[name]
        alone = {key: value for key, value in self.cfg.device.items() if key in _ALONE}
        alone |= {name: self.cfg[name] for name in NUMERICS if name in alone}
        name = "cpu" if str(self.row.get("device")).endswith("cpu") else "auto"
        here = {"_target_": "sparsebench.distributed.device.Device", "name": name, "threads": self._threads()}
        self.cfg.device = {**alone, **here}

    def _threads(self) -> int | None:
        """Its number of CPU threads, if this machine has so many cores."""
        threads = self.provenance.get("threads")
        return threads if isinstance(threads, int) and 0 < threads <= available_cores() else None

    def refused(self, *groups: str) -> list[str]:
        """What keeps objects of config groups from being built: ``place (why)``; of any group by default."""
        where = {
            **self.not_built,
            **{place: f"{text} is not opened" for place, text in self.not_opened.items()},
        }
        return [
            f"{place} ({why})"
            for place, why in where.items()
            if self.not_built or not groups or place.split(".")[0] in groups
        ]

    def network(self, datasets: Datasets) -> Network:
        """The model with the run's final weights, and its data.

        Raises:
            RunError: The weights are unreadable, or belong to another model; or building the model needs trust.
            SettingError: The config cannot be built.
        """
        if refused := self.refused("model", "dataset", "device", "prunable"):
            raise RunError(f"not built without --trust: {'; '.join(refused)}")
        file = self.path / schema.MODEL
        check_regular(file)
        with self.trust.searching():
            net = datasets.network(self.cfg)
        load_weights(net.model, file)
        return net


def check_regular(path: Path, largest: int | None = None) -> None:
    """Refuse what is not a plain file of the run folder: a link out of it, a device, a FIFO, or too much.

    Raises:
        RunError: It is one of these, or missing.
    """
    try:
        if not path.resolve().is_relative_to(path.parent.resolve()):
            raise RunError(f"{path.name}: a link out of the run folder, which is not followed")
        found = path.stat()
    except FileNotFoundError as error:
        raise RunError(f"{path.name}: missing") from error
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        raise RunError(f"{path.name}: cannot be read: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise RunError(f"{path.name}: not a plain file")
    if largest is not None and found.st_size > largest:
        raise RunError(f"{path.name}: {found.st_size:,} bytes; at most {largest:,} are read")


def read_text(path: Path) -> str:
    """The content of a text file of a run folder.

    Raises:
        RunError: It is missing, too large, no plain file or not UTF-8.
    """
    check_regular(path, LARGEST)
    try:
        return files.read_text(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path.name}: cannot be read: {error}") from error


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV of a run folder, each with all columns.

    Raises:
        RunError: It is missing or unreadable.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise RunError(f"{path.name}: cannot be read: {error}") from error
    if any(None in row or None in row.values() for row in rows):
        raise RunError(f"{path.name}: a row has more or fewer values than the header")
    return rows


def _only(path: Path) -> dict[str, str]:
    """The one row of a CSV."""
    rows = read_table(path)
    if len(rows) != 1:
        raise RunError(f"{path.name}: expected one complete row")
    return rows[0]


def _mapping(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("expected names with values")
    return found


def _read(path: Path, parse: Any) -> Any:
    text = read_text(path)
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:  # JSON and setting errors are ValueErrors
        raise RunError(f"{path.name}: {' '.join(str(error).split())}") from error
