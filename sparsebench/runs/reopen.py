"""Finished runs read again: config, model and data from the run's own folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sparsebench.config.build import accepted_arguments
from sparsebench.config.open import ReopenedConfig, compose_config, reopen_config
from sparsebench.data.dataset import Dataset
from sparsebench.errors import RunError
from sparsebench.files import read_csv
from sparsebench.paths import expanded
from sparsebench.records import schema
from sparsebench.records.run_folder import training_of
from sparsebench.runs.build import network
from sparsebench.runs.result import Network, load_weights

_ALONE = accepted_arguments("sparsebench.distributed.device.Device") or set()


class Datasets:
    """Data sets by their config, each read once for all the runs that share it.

    Args:
        data_root: Where images lie; where the runs found them if not given, and if that is not here, where
            trainings look by default.
    """

    def __init__(self, data_root: Path | None = None) -> None:
        self.data_root = data_root
        self._read: dict[str, Dataset] = {}

    def resolve_data_root(self, cfg: DictConfig) -> str:
        """Put ``data_root`` into the config; returns the key of its data set."""
        recorded = expanded(cfg.data_root)
        root = self.data_root or (recorded if recorded.is_dir() else compose_config([])[0].data_root)
        cfg.data_root = str(root)
        if "data_root" in cfg.dataset:
            cfg.dataset.data_root = str(root)
        return f"{cfg.device.name} {OmegaConf.to_yaml(cfg.dataset, resolve=True)}"

    def network(self, cfg: DictConfig) -> Network:
        """The untrained model of ``cfg`` with its data."""
        key = self.resolve_data_root(cfg)
        net = network(cfg, self._read.get(key))
        self._read[key] = net.dataset
        return net


class FinishedRun:
    """The folder of a finished run.

    Args:
        path: The run folder.

    Raises:
        RunError: A file of it is missing or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row = _only(path / schema.SUMMARY)
        self.provenance: dict[str, Any] = _read(path / schema.PROVENANCE, json.loads)
        choices = self.provenance.get("choices")
        if not isinstance(choices, dict):
            raise RunError(f"{schema.PROVENANCE}: it does not say which options were chosen")
        self.choices: Mapping[str, str | None] = choices
        self.training = training_of(path) or 0
        self.opened: ReopenedConfig = _read(
            path / schema.CONFIG, lambda text: reopen_config(text, self.choices, self.training)
        )
        self.cfg = self.opened.cfg
        # Where it runs is not part of what it is: as trained if that is here, else whatever is; in one process.
        alone = {key: value for key, value in self.cfg.device.items() if key in _ALONE}
        name = "cpu" if str(self.row.get("device")).endswith("cpu") else "auto"
        self.cfg.device = {**alone, "_target_": "sparsebench.distributed.device.Device", "name": name}

    def network(self, datasets: Datasets) -> Network:
        """The model with the run's final weights, and its data.

        Raises:
            RunError: The weights cannot be read, or are not this model's.
            SettingError: The config cannot be built here.
        """
        net = datasets.network(self.cfg)
        load_weights(net.model, self.path / schema.MODEL)
        return net


def _only(path: Path) -> dict[str, str]:
    """The one row of a CSV."""
    try:
        rows = read_csv(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise RunError(f"{path.name}: cannot be read: {error}") from error
    if len(rows) != 1 or None in rows[0] or None in rows[0].values():
        raise RunError(f"{path.name}: expected one whole row")
    return rows[0]


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path.name}: missing") from error
    except (OSError, ValueError) as error:  # of JSON and UTF-8; a SettingError is one too
        raise RunError(f"{path.name}: {' '.join(str(error).split())}") from error
