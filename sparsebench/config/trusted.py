"""Which classes that a stranger's config names may be built, and which files it names may be opened.

A class is built only if it is named at that very place in the YAML of the chosen options, as they are in this
installation or in a folder that the user typed. A file is opened only below a folder that the user typed, or below the
run folder. Nothing of a config is resolved, because an interpolation can read the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from omegaconf import OmegaConf

from sparsebench.config import renamed
from sparsebench.config.compose import own_hydra, search_also
from sparsebench.errors import SettingError
from sparsebench.paths import config_dirs

LARGEST = 1 << 18
"""Most characters of a config; one of an ordinary run has 3,000."""

DEEPEST = 32
"""Most levels of a config; that of an ordinary run has 3."""

SPECIAL = re.compile(r"_[a-z]+_")
"""Keys that Hydra follows when it builds an object: ``_target_``, ``_args_``, ``_partial_``, and so on."""

PLAIN = re.compile(r"\w[\w.+-]*")
"""What a chosen option may be called: a file of its group, and no way out of it."""

PATH_KEY = re.compile(
    r"(?:^|.*_)(?:path|file|dir|directory|root|folder|uri|url|weights|ticket|checkpoint|mask)s?"
)
"""Names of settings whose values are opened or downloaded."""

NEVER_USED = ("results_dir", "data_root", "hydra", "tracker")
"""Settings of what is not built, and of places that are not opened, for a finished run; ``data_root`` is the user's."""


@dataclass(frozen=True)
class Trust:
    """What the user has typed, and so trusts.

    Args:
        config_dirs: Folders of ``--config-dir``: their options are searched too.
        folders: Folders whose files may be opened.
        everything: Of ``--trust``: build any class, open any file.
    """

    config_dirs: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    everything: bool = False

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Search the options of :attr:`config_dirs` too, inside the block."""
        with search_also(self.config_dirs):
            yield

    def classes(self, config: Mapping[str, Any], choices: Mapping[str, str | None]) -> dict[str, str]:
        """Place -> why it is not built, of everything in ``config`` that the chosen options do not name there.

        Args:
            config: From :func:`read_config`.
            choices: Config group -> chosen option.

        Raises:
            SettingError: The options are not known here.
        """
        if self.everything:
            return {}
        own = dict(_special(self.own(config, choices)))
        refused = {}
        for place, value in _special(_used(config)):
            expected = own.get(place)
            if _present(place, value) == _present(place, expected) and value is not None:
                continue
            option = place.split(".")[0]
            named = f"{option}={choices[option]}" if choices.get(option) else option
            instead = "names nothing there" if expected is None else f"names {expected}"
            refused[place] = f"{named} {instead}"
        return refused

    def own(self, config: Mapping[str, Any], choices: Mapping[str, str | None]) -> Any:
        """The config of the same options with nothing set, as this installation and the typed folders have it.

        Raises:
            SettingError: The options are not known here.
        """
        known = {
            path.name
            for folder in (*config_dirs(), *self.config_dirs)
            for path in folder.iterdir()
            if path.is_dir()
        }
        known -= {*NEVER_USED}
        chosen = {group: option for group, option in choices.items() if group in known and option is not None}
        for name, option in chosen.items():
            if not PLAIN.fullmatch(str(option)):
                raise SettingError(name, option, "the name of an option")
        evaluations = sorted(str(name) for name in (config.get("evaluate") or ()))
        if odd := [name for name in evaluations if not PLAIN.fullmatch(name)]:
            raise SettingError("evaluate", odd[0], "the name of an option")
        overrides = [f"{group}={option}" for group, option in chosen.items()]
        with self.searching():
            return _composed((*overrides, f"evaluate=[{','.join(evaluations)}]"), self.config_dirs)

    def files(
        self, config: Mapping[str, Any], choices: Mapping[str, str | None], run: Path
    ) -> dict[str, str]:
        """Setting -> path or address, of all that ``config`` names outside the folders that may be read.

        Args:
            config: From :func:`read_config`.
            choices: Config group -> chosen option.
            run: The run folder.

        Raises:
            SettingError: The options are not known here.
        """
        if self.everything:
            return {}
        own = dict(_texts(self.own(config, choices)))
        return {
            place: text
            for place, text in _texts(_used(config))
            if own.get(place) != text
            and not place.endswith(".data_root")
            and _is_address(place, text)
            and not self.readable(text, run)
        }

    def readable(self, text: str, run: Path) -> bool:
        """Whether a path leads to a file or folder below the run folder, or below one that was typed."""
        if self.everything:
            return True
        below = [Path(folder).resolve() for folder in (run, *self.folders, *self.config_dirs)]
        try:
            path = Path(text).expanduser().resolve()
        except (RuntimeError, OSError, ValueError):  # no home folder, a loop of links, a null character
            return False
        within = "://" not in text and any(path == folder or folder in path.parents for folder in below)
        return within and not (path.exists() and not path.is_file() and not path.is_dir())


def read_config(text: str) -> dict[str, Any]:
    """The plain content of a run's config.yaml.

    Raises:
        SettingError: It is not YAML; or has what no resolved config has: anchors, interpolations, or a size or depth
            that takes long to read.
    """
    if len(text) > LARGEST:
        raise SettingError("config", None, f"at most {LARGEST:,} characters; it has {len(text):,}")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise SettingError("config", None, f"at most {DEEPEST} levels")
            if isinstance(event, yaml.AliasEvent):
                raise SettingError("config", f"*{event.anchor}", "values, and no anchors")
            if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
                raise SettingError("config", event.value, "values, and no interpolations")
        found = OmegaConf.to_container(OmegaConf.create(text))
    except yaml.YAMLError as error:
        raise SettingError("config", None, f"YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise SettingError("config", None, "settings with values")
    return {str(key): value for key, value in found.items()}


@cache
def _composed(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> Any:
    """The config of ``overrides`` with its interpolations as they are written; cached, do not modify."""
    from sparsebench.config.open import explain

    with own_hydra():
        try:
            return OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=False)
        except Exception as error:
            explained = explain(error, list(overrides))
            if explained is None:
                raise
            raise explained from error


def _used(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NEVER_USED}


def _items(node: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(place, key, value) of every entry of nested mappings and lists, those with further entries included."""
    entries = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield f"{prefix}{key}", str(key), value
        yield from _items(value, f"{prefix}{key}.")


def _special(node: Any) -> Iterator[tuple[str, Any]]:
    return ((place, value) for place, key, value in _items(node) if SPECIAL.fullmatch(key))


def _texts(node: Any) -> Iterator[tuple[str, str]]:
    return ((place, value) for place, _, value in _items(node) if isinstance(value, str))


def _present(place: str, value: Any) -> Any:
    return renamed.target(value) if place.endswith("_target_") and isinstance(value, str) else value


def _is_address(place: str, text: str) -> bool:
    """Whether a setting names a file or an address, by its own name or by its value."""
    keys = [key for key in place.split(".") if not key.isdigit()]  # of an entry of a list, that of the list
    if SPECIAL.fullmatch(keys[-1]):
        return False
    if keys[-1] == "name":  # "organisation/name" of a hub
        return text.startswith(("/", "~", ".")) or "://" in text or ".." in text
    return bool(text) and (
        bool(PATH_KEY.fullmatch(keys[-1])) or "/" in text or "\\" in text or text.startswith("~")
    )
