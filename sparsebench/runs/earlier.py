"""Whether the run in a folder is the one that is asked for: same id, but other defaults, code or versions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

import sparsebench
from sparsebench.config import renamed
from sparsebench.config.compose import leaves
from sparsebench.config.identity import counted, unused_groups
from sparsebench.config.options import REVISION
from sparsebench.config.resolve import resolve
from sparsebench.errors import SettingError
from sparsebench.records import provenance, schema
from sparsebench.records.run_folder import is_finished

SHOWN = 4
"""Differences that a message lists."""


@dataclass(frozen=True)
class Differences:
    """What differs between a run that exists and the one of the same id that would be made now.

    Args:
        settings: Values, classes and revisions, which change what is computed.
        files: Of this package, edited since.
        makers: Versions, which may.
    """

    settings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    makers: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.settings or self.files or self.makers)

    @property
    def refused(self) -> bool:
        """Whether they change what is computed."""
        return bool(self.settings or self.files)

    def refuse(self, folder: Path) -> None:
        """Refuse to take the run in ``folder`` for the one that is asked for.

        Raises:
            SettingError: Settings or files differ.
        """
        edited = [f"{name} edited since" for name in self.files]
        if found := [*self.settings, *edited]:
            more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise SettingError(
                str(folder),
                None,
                f"a run with the settings and code of now, but it was made with others: "
                f"{'; '.join(found[:SHOWN])}{more}; --redo-older makes it again",
            )


@dataclass(frozen=True)
class Present:
    """What a run would be made with now.

    Args:
        torch: The version of PyTorch.
        code: File of this package -> hash.
        commit: Of the checkout; empty if there is none.
        dirty: Whether its files differ from it.
    """

    torch: str
    code: Mapping[str, str]
    commit: str
    dirty: bool


def present(code: Iterable[str] = provenance.TRAINING_CODE) -> Present:
    """What a run would be made with now; takes as long as git.

    Args:
        code: Patterns of the files of this package that count.
    """
    import torch

    commit, dirty = provenance.git_state()
    return Present(torch.__version__, provenance.code(code), commit, dirty is True)


def differences(folder: Path, cfg: DictConfig, now: Present) -> Differences:
    """What differs between the run in ``folder`` and the one that ``cfg`` describes, which has the same id.

    Settings that are newer than the run, and files of runs that did not record them, are not compared.

    Args:
        folder: A run folder, finished or not.
        cfg: The config, as :func:`sparsebench.config.resolve.resolve` leaves it.
        now: From :func:`present`.
    """
    origin, stored = _origin(folder), _stored(folder)
    if not origin or stored is None:  # killed before they were written, or damaged: nothing to compare
        return Differences()
    settings = tuple(_settings(stored, cfg, set(_mapping(_mapping(origin.get("identity")).get("files")))))
    return _with_makers(settings, origin, now)


def _with_makers(settings: tuple[str, ...], origin: Mapping[str, Any], now: Present) -> Differences:
    edited, commits = _code(origin, now)
    versions = {"version": sparsebench.__version__, "torch": now.torch}
    makers = [f"{name} {origin[name]}, now {v}" for name, v in versions.items() if origin.get(name, v) != v]
    return Differences(settings, tuple(edited), (*makers, *commits))


def made_anew(folders: Sequence[Path], cfg: DictConfig, device: str) -> bool:
    """Whether a run that exists is made again: it was made with something else, and ``redo_older`` is on.

    Otherwise it is said with what it was made, if that need not change the result.

    Args:
        folders: Of its trainings.
        cfg: The config.
        device: Label of the present device, which alone is no reason.

    Raises:
        SettingError: ``redo_older`` is off, and the run was made with other settings or edited code.
    """
    if not folders:
        return False
    return _made_anew(folders, cfg, device, differences(folders[0], cfg, present()), _origin(folders[0]))


def study_made_anew(folder: Path, cfg: DictConfig, device: str) -> bool:
    """:func:`made_anew` of a theory study, whose id counts all settings."""
    origin = dict(_origin(folder, schema.STUDY))
    if not origin:
        return False
    commit, dirty = origin["commit"] if _is_pair(origin.get("commit")) else ("", "")
    origin |= {"git_commit": commit, "git_dirty": dirty}
    found = _with_makers((), origin, present(provenance.STUDY_CODE))
    return _made_anew([folder], cfg, device, found, origin)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def _made_anew(
    folders: Sequence[Path], cfg: DictConfig, device: str, found: Differences, origin: Mapping[str, Any]
) -> bool:
    if cfg.redo_older and found:
        return True
    found.refuse(folders[0])
    before = origin.get("device", device)
    others = [*found.makers, *([f"device {before}, now {device}"] if before != device else [])]
    if others:
        how = "finished" if is_finished(folders[-1]) else "begun"
        said = f"{how} with {'; '.join(others)}; --redo-older makes it again"
        print(f"sparsebench: {folders[0]}: {said}", file=sys.stderr)
    return False


def _origin(folder: Path, file: str = schema.PROVENANCE) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads((folder / file).read_text("utf-8")))
    except (OSError, ValueError):
        return {}


def _stored(folder: Path) -> dict[str, Any] | None:
    """The values of a run's config.yaml by their present names, with ``_target_`` and revisions."""
    try:
        text = (folder / schema.CONFIG).read_text("utf-8")
        content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(content, dict):
        return None
    cfg = OmegaConf.create(content)
    with suppress(SettingError, AttributeError):  # of another version, with other settings
        resolve(cfg)
    found = {renamed.setting(key): value for key, value in leaves(cfg).items()}
    return {key: renamed.target(str(v)) if key.endswith("_target_") else v for key, v in found.items()}


def _settings(stored: Mapping[str, Any], cfg: DictConfig, files: set[str]) -> list[str]:
    """``setting was, now is`` of each that differs; ``files`` are compared by their content, in the id."""
    unused, values = unused_groups(cfg), leaves(cfg)
    wanted = counted(cfg, unused)
    groups = {key.split(".")[0] for key in wanted if "." in key}
    wanted |= {
        key: renamed.target(str(value)) if key.endswith("_target_") else value
        for key, value in values.items()
        if key.split(".")[-1] in ("_target_", REVISION) and (key.split(".")[0] in groups or key == REVISION)
    }
    return [
        f"{key}={stored[key]}, now {value}"
        for key, value in wanted.items()
        if key in stored and key not in files and not _equal(stored[key], value)
    ]


def _equal(a: object, b: object) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _code(origin: Mapping[str, Any], now: Present) -> tuple[list[str], list[str]]:
    """(files that somebody has edited since, another commit)."""
    commit, before = origin.get("git_commit"), _mapping(origin.get("code"))
    changed = [name for name in sorted({*before, *now.code}) if before.get(name) != now.code.get(name)]
    other = commit != now.commit or origin.get("version") != sparsebench.__version__
    as_committed = not now.dirty and str(origin.get("git_dirty")) != "True"
    if not before or (other and as_committed):
        changed = []
    commits = [f"commit {str(commit)[:10]}, now {now.commit[:10]}"]
    known = bool(commit and now.commit)
    return [f"sparsebench/{name}" for name in changed], commits if known and commit != now.commit else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
