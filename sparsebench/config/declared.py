"""One check of the values of all settings, against what their YAML files declare beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from sparsebench.config.declarations import Comment, SettingsFile, read
from sparsebench.errors import SettingError, is_int

REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,[^}]*)?\}")
"""A value that is another setting's."""


def comments(choices: Mapping[str, str | None], config: str, evaluations: Any = ()) -> dict[str, Comment]:
    """Dotted setting of a composed config -> its comment, from the YAML files that it was composed of.

    An option's own file decides; recipes, experiments and methods that set others' settings come after it.

    Args:
        choices: Config group (with ``@package`` where it has another one) -> chosen option.
        config: Name of the primary config.
        evaluations: Names of the chosen evaluations, which Hydra does not count among the choices.
    """
    folders = [Path(entry.path.removeprefix("file://")) for entry in _search_path() if _is_folder(entry.path)]
    own: dict[str, Comment] = {}
    others: dict[str, Comment] = {}
    chosen = [("", config), *((group, str(option)) for group, option in choices.items() if option)]
    for place, option in [*chosen, *(("evaluate", str(name)) for name in evaluations)]:
        group, _, package = place.partition("@")
        for file in _files(folders, group, option):
            prefix = _prefix(file.package, group, package)
            target = others if group and not prefix else own
            for name, comment in file.comments.items():
                target.setdefault(f"{prefix}{name}", comment)
    return {**others, **own}


def evaluations(cfg: DictConfig) -> list[str]:
    """Names of the chosen evaluations."""
    node = cfg.get("evaluate")
    if node is None or isinstance(node, DictConfig):
        return [str(name) for name in node or ()]
    raise SettingError("evaluate", node, "a list of evaluations, for example [calibration,per_class]")


def _search_path() -> list[Any]:
    return list(GlobalHydra.instance().config_loader().get_search_path().get_path())


def _is_folder(place: str | None) -> bool:
    return place is not None and (place.startswith("file://") or "://" not in place)


def _files(folders: list[Path], group: str, option: str) -> Iterator[SettingsFile]:
    """The file of an option, and those that its Defaults List includes from the same group."""
    waiting, done = [option], set[str]()
    while waiting:
        name = waiting.pop()
        path = next((p for folder in folders if (p := folder / group / f"{name}.yaml").is_file()), None)
        if path is not None and name not in done:
            done.add(name)
            file = read(path)
            yield file
            waiting += file.includes


def _prefix(header: str, group: str, package: str) -> str:
    """What stands before a file's settings in the composed config, with a dot at the end."""
    name = package or header or "_group_"
    name = name.replace("_group_", group.replace("/", ".")).replace("_global_", "")
    return f"{name}." if name else ""


def check(
    cfg: DictConfig,
    declared: Mapping[str, Comment],
    defaults: Mapping[str, Any],
    values: Mapping[str, Any],
    command: str = "train",
    *,
    complete: bool = True,
) -> None:
    """Refuse values that a setting does not allow, settings that do not exist, and settings that were removed.

    A setting without a declaration, of somebody else's option, must have the type of its default. A value that refers
    to another setting is named by that one.

    Args:
        cfg: The config.
        declared: Its settings' comments, from :func:`comments`.
        defaults: Dotted setting -> default.
        values: Dotted setting -> resolved value; lists are values.
        command: The command that a hint names.
        complete: Whether every declared setting must be there; not so in a config that an earlier version wrote.

    Raises:
        SettingError: The first such setting.
    """
    written = OmegaConf.to_container(cfg, resolve=False)
    references = {key: _reference(written, key, {*values, *declared}) for key in {*values, *declared}}
    for key in sorted(declared, key=lambda key: (references.get(key) is not None, key)):  # sources first
        declaration = declared[key].declaration
        if declaration is None:
            continue
        found, value = _find(values, key)
        if not found:
            if complete and key in defaults:
                raise SettingError(key, None, f"{declaration.in_words()}; it cannot be removed")
        elif not declaration.allows(value):
            given = "null" if value is None else value
            raise SettingError(references.get(key) or key, given, declaration.in_words())
    for key, value in values.items():
        if key not in defaults and not _inside(key, declared) and not _of_option(cfg, key):
            raise SettingError(key, value, f"an existing setting; see sparsebench {command} --cfg job")
        if key not in declared or declared[key].declaration is None:
            _require_type(key, value, defaults.get(key))


def _find(values: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """Whether there is a value of ``key``, and the value; a mapping where it has settings of its own."""
    if key in values:
        return True, values[key]
    below = {name[len(key) + 1 :]: value for name, value in values.items() if name.startswith(f"{key}.")}
    return bool(below), below


def _inside(key: str, declared: Mapping[str, Comment]) -> bool:
    """Whether a declared setting holds ``key``, as ``hydra.sweeper.params`` does."""
    parts = key.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return any(name in declared and declared[name].declaration is not None for name in names)


def _of_option(cfg: DictConfig, key: str) -> bool:
    """Whether the setting is an argument of something that is built from the config, and refused there if unknown."""
    parts = key.split(".")
    if (
        parts[0] == "evaluate"
    ):  # by names that may have dots; each of them is built before anything is written
        return True
    nodes = (OmegaConf.select(cfg, ".".join(parts[:n]), throw_on_missing=False) for n in range(1, len(parts)))
    return any(isinstance(node, DictConfig) and "_target_" in node for node in nodes)


def _reference(written: Any, key: str, known: Set[str]) -> str | None:
    """The setting whose value ``key`` has, if it is another one's."""
    for part in key.split("."):
        written = written.get(part) if isinstance(written, dict) else None
    match = REFERENCE.fullmatch(written) if isinstance(written, str) else None
    return match[1] if match and match[1] in known else None


def _require_type(key: str, value: Any, default: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(key, value, "a finite number")
    if default in (None, "???") or key.startswith("hydra.") or type(value) is type(default):
        return
    wanted = None
    if isinstance(default, bool):
        wanted = "true or false"
    elif isinstance(default, int):
        wanted = f"an integer, for example {default}"
    elif isinstance(default, float) and not is_int(value):
        wanted = f"a number, for example {default}"
    elif isinstance(default, list) or (
        isinstance(default, str) and (value is None or isinstance(value, list))
    ):
        wanted = f"{'a list' if isinstance(default, list) else 'one value'}, for example {default}"
    if wanted:
        raise SettingError(key, "null" if value is None else value, wanted)
