"""The file of a chosen option: whose it is, which class it builds, and its revision."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra

from sparsebench.paths import config_dir, config_dirs

REVISION = "revision"
"""Key of an option's YAML file: raised whenever a default, or its code, changes what a run computes."""


@dataclass(frozen=True)
class Option:
    """An option of a config group.

    Args:
        group: The group, such as ``prune``.
        name: Its name in the group.
        path: Its file, of all folders that are searched the first that has one; ``None`` if none has.
        own: What the file says of the option itself, and not of others.
    """

    group: str
    name: str
    path: Path | None
    own: dict[str, Any]

    @property
    def shipped(self) -> bool:
        """Whether it comes with this package."""
        return self.path is not None and self.path.parent.parent == config_dir()

    @property
    def target(self) -> str | None:
        """The class or function that it builds, if it builds any."""
        return self.own.get("_target_")

    @property
    def revision(self) -> int:
        """Its revision; 1 if it says none."""
        return int(self.own.get(REVISION, 1))


def option(group: str, name: str | None) -> Option:
    """The option ``name`` of ``group``, in the folders that Hydra searches now."""
    for folder in search_path():
        path = folder / group / f"{name}.yaml"
        if (stamp := stamp_of(path)) is not None:
            return Option(group, str(name), path, _own(path, stamp, group))
    return Option(group, str(name), None, {})


def search_path() -> list[Path]:
    """The folders that Hydra searches for options, in their order; those of all commands where it is not at work."""
    hydra = GlobalHydra.instance().hydra
    if hydra is None:
        return config_dirs()
    entries = hydra.config_loader.get_search_path().get_path()
    places = (str(entry.path).removeprefix("file://") for entry in entries)
    return [Path(place) for place in places if place and "://" not in place]


def stamp_of(path: Path) -> tuple[int, int] | None:
    """What changes when a file does: its time and size; ``None`` if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@cache
def _own(path: Path, stamp: tuple[int, int], group: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # composing it says what is wrong
        return {}
    if not isinstance(content, dict):
        return {}
    nested = content.get(group)  # an option that also sets other groups nests its own settings
    return nested if "_target_" not in content and isinstance(nested, dict) else content
