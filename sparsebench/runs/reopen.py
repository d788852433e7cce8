"""Reopen finished runs: config, model and data from the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sparsebench.config.open import ReopenedConfig, compose_config, reopen_config
from sparsebench.config.signatures import accepted_arguments
from sparsebench.data.dataset import Dataset
from sparsebench.errors import RunError, SettingError
from sparsebench.files import read_csv, read_text
from sparsebench.paths import expanded
from sparsebench.records import schema
from sparsebench.records.run_folder import run_id_of, training_of
from sparsebench.runs.build import network
from sparsebench.runs.result import Network, load_weights

_ALONE = accepted_arguments("sparsebench.distributed.device.Device") or set()


class Datasets:
    """Cache of data sets by config, so that each is read once for all runs that use it.

    Args:
        data_root: Folder of the data sets; by default the one recorded in the run, or if that does not exist, the
            default of ``sparsebench train``.
    """

    def __init__(self, data_root: Path | None = None) -> None:
        self.data_root = data_root
        self._read: dict[str, Dataset] = {}

    def resolve_data_root(self, cfg: DictConfig) -> str:
        """Set ``data_root`` in the config; returns the cache key of its data set."""
        recorded = cfg.data_root if _is_folder(cfg.data_root) else compose_config([])[0].data_root
        root = self.data_root or recorded  # expanded only by a data set that opens it
        cfg.data_root = str(root)
        if "data_root" in cfg.dataset:
            cfg.dataset.data_root = str(root)
        return f"{cfg.device.name} {OmegaConf.to_yaml(cfg.dataset, resolve=True)}"

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

    Raises:
        RunError: One of its files is missing or unreadable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row = _only(path / schema.SUMMARY)
        self.provenance: dict[str, Any] = _read(path / schema.PROVENANCE, json.loads)
        choices = self.provenance.get("choices")
        if not isinstance(choices, dict):
            raise RunError(f"{schema.PROVENANCE}: the chosen options are missing")
        self.choices: Mapping[str, str | None] = choices
        self.training = training_of(path) or 0
        self.ranks, known = int(self.provenance.get("ranks", 1)), run_id_of(path)
        self.opened: ReopenedConfig = _read(
            path / schema.CONFIG,
            lambda text: reopen_config(
                text, self.choices, self.training, self.ranks, lambda run: run == known
            ),
        )
        self.cfg = self.opened.cfg
        # The device is not part of the run's identity: use the kind it was trained on if available; one process.
        alone = {key: value for key, value in self.cfg.device.items() if key in _ALONE}
        name = "cpu" if str(self.row.get("device")).endswith("cpu") else "auto"
        here = {"_target_": "sparsebench.distributed.device.Device", "name": name, "threads": None}
        self.cfg.device = {**alone, **here}

    def network(self, datasets: Datasets) -> Network:
        """The model with the run's final weights, and its data.

        Raises:
            RunError: The weights are unreadable, or belong to another model.
            SettingError: The config cannot be built.
        """
        net = datasets.network(self.cfg)
        load_weights(net.model, self.path / schema.MODEL)
        return net


def _is_folder(path: object) -> bool:
    try:
        return expanded(path).is_dir()
    except SettingError:  # ~ of a user without a home folder
        return False


def _only(path: Path) -> dict[str, str]:
    """The one row of a CSV."""
    try:
        rows = read_csv(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise RunError(f"{path.name}: cannot be read: {error}") from error
    if len(rows) != 1 or None in rows[0] or None in rows[0].values():
        raise RunError(f"{path.name}: expected one complete row")
    return rows[0]


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(read_text(path))
    except FileNotFoundError as error:
        raise RunError(f"{path.name}: missing") from error
    except (OSError, ValueError) as error:  # JSON, UTF-8 and setting errors are ValueErrors
        raise RunError(f"{path.name}: {' '.join(str(error).split())}") from error
