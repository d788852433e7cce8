"""Compose configs from this package's YAML files, even inside another Hydra application."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, version
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from sparsebench.config.options import option, search_path, stamp_of
from sparsebench.paths import config_dir, installed_configs

STUDY = "theory@study"
"""Hydra's override behind ``study=NAME``: an option of ``theory/``, whose settings are ``study.KEY``."""

IDENTITY_GROUPS = ("model", "dataset", "optimizer", "lr_schedule", "schedule", "allocation", "score", "prune")
"""Groups whose chosen option is part of a run's identity; recipe and experiment count through what they set."""


_typed: list[tuple[Path, ...]] = [()]
"""Folders of configs that commands without Hydra's command line have been given; the last entry counts."""


@contextmanager
def search_also(folders: tuple[Path, ...]) -> Iterator[None]:
    """Search ``folders`` too inside the block, as with Hydra's ``--config-dir``: before those of installed packages."""
    _typed.append(folders)
    try:
        yield
    finally:
        _typed.pop()


class InstalledConfigs(SearchPathPlugin):
    """Makes Hydra search the configs of other packages after this package's."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add their folders wherever this package's own are searched, but not in another Hydra application."""
        if any(entry.path == str(config_dir()) for entry in search_path.get_path()):
            for folder in _typed[-1]:
                search_path.append("command-line", f"file://{folder.resolve()}")
            for package, folder in installed_configs():
                search_path.append(package, f"file://{folder}")


Plugins.instance().register(InstalledConfigs)


def baseline(choices: Mapping[str, str | None]) -> DictConfig:
    """The config with the same choices and no other override; do not modify."""
    return _composed_once(*_key(choices))[0]


def defaults(choices: Mapping[str, str | None]) -> dict[str, Any]:
    """The :func:`leaves` of :func:`baseline`; do not modify."""
    return _composed_once(*_key(choices))[1]


def _key(choices: Mapping[str, str | None]) -> tuple[tuple[str, ...], tuple[object, ...]]:
    """(overrides, folders that are searched, with what changes when an option's file does)."""
    chosen = (f"{group}={choices[group]}" for group in IDENTITY_GROUPS)
    files = [config_dir() / "train.yaml", *(option(group, choices[group]).path for group in IDENTITY_GROUPS)]
    return tuple(chosen), (*search_path(), *(path and stamp_of(path) for path in files))


@cache
def _composed_once(
    overrides: tuple[str, ...], searched: tuple[object, ...]
) -> tuple[DictConfig, dict[str, Any]]:
    """The config of ``overrides`` with its leaves; cached for sweeps, as long as what is ``searched`` is the same."""
    cfg = compose("train", overrides=list(overrides))
    return cfg, leaves(cfg)


def leaves(cfg: DictConfig) -> dict[str, Any]:
    """Dotted key -> resolved value; lists are leaves."""
    found: dict[str, Any] = {}

    def walk(prefix: str, node: dict[Any, Any]) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(f"{prefix}{key}.", value)
            else:
                found[f"{prefix}{key}"] = value

    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    walk("", container)
    return found


@contextmanager
def own_hydra() -> Iterator[None]:
    """Compose from this package's configs inside the block; afterwards Hydra's state is restored."""
    outer, base = GlobalHydra.instance().hydra, version.VersionBase.instance().version_base
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer
        version.VersionBase.instance().version_base = base
