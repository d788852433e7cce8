"""Which settings the chosen options do not use, and who would use them.

An option says it where its class is: by the arguments of its constructor, and by three class attributes, all of them
literals, so that they are read from the source and nothing is imported:

- ``asks_schedule`` of a method: ``"target"`` if it asks the schedule for the final sparsity alone, ``"sparsity"`` if
  for that of every step, ``"updates"`` (the default) if also for when masks change.
- ``only_updates`` of a schedule: those of its settings that change only when masks change, and no sparsity.
- ``ignores`` of a method: setting -> the other settings and their values with which it has no effect; ``{}`` for never.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from sparsebench.config.compose import own_hydra
from sparsebench.config.renamed import target as present_target
from sparsebench.config.signatures import accepted_arguments
from sparsebench.errors import SettingError
from sparsebench.paths import find_source, options

PARTS = ("schedule", "allocation", "score", "sanity")
"""Parts that a method is given if its constructor accepts them."""

REFERRED = ("sparsity", "ramp_end", "update_interval", "dataset.recipe")
"""Settings that have an effect only through others, whose values refer to them."""

IGNORED_WITH: dict[str, dict[str, Any]] = {"norm_weight_decay": {"optimizer.weight_decay": 0}}
"""Settings of train.yaml, and values of others with which they have no effect."""


class UnusedSettingError(SettingError):
    """A setting was given that the chosen options do not use.

    Args:
        setting: Its name.
        given: The given value.
        reason: Who ignores it, and who uses it.
    """

    def __init__(self, setting: str, given: object, reason: str) -> None:
        super().__init__(setting, given, reason)
        self.args = (f"{setting}{'' if given is None else f'={given}'}: {reason}",)


def unused(cfg: DictConfig, choices: Mapping[str, str | None]) -> dict[str, str]:
    """Settings and config groups that the chosen options do not use -> who ignores each.

    Settings of the process (paths, the device, trackers) and numerics are never among them.

    Args:
        cfg: The composed config.
        choices: Config group -> chosen option.
    """
    written = dict(_leaves(OmegaConf.to_container(cfg, resolve=False)))
    found: dict[str, str] = {}
    method = f"prune={choices.get('prune')}"
    for group, keeps, why in _unused_parts(cfg, choices, method):
        found[group] = why
        found |= {
            key: why for key in written if key.startswith(f"{group}.") and key.split(".")[1] not in keeps
        }
    for key, why in _unused_updates(cfg, choices, method):
        found.setdefault(key, why)
    for key, conditions in _ignored(cfg):
        if (values := _with(conditions, cfg, choices)) is not None:
            names = [name for name in (key, *written) if name == key or name.startswith(f"{key}.")]
            found |= {name: f"{method} ignores it{values}" for name in names if name not in found}
    for key, conditions in IGNORED_WITH.items():
        if (values := _with(conditions, cfg, choices)) is not None:
            found[key] = f"it has no effect{values}"
    if choices.get("device") != "ddp":
        found["sync_bn"] = f"device={choices.get('device')} ignores it; it is used by device=ddp"
    found |= _not_referred_to(written, found, cfg, choices, method)
    found.pop("schedule._target_", None)
    return found


def unused_overrides(
    overrides: Iterable[str], cfg: DictConfig, choices: Mapping[str, str | None]
) -> dict[str, str]:
    """Those of the overrides that the chosen options do not use -> who ignores the setting."""
    ignored, found = unused(cfg, choices), {}
    keys = [key for key, _ in _leaves(OmegaConf.to_container(cfg, resolve=False))]
    for override in overrides:
        key = setting_of(override)
        below = [name for name in keys if name.startswith(f"{key}.") and not name.endswith("._target_")]
        if key in ignored:
            found[override] = ignored[key]
        elif below and key not in choices and all(name in ignored for name in below):
            found[override] = ignored[below[0]]
    return found


def refuse(override: str, why: str) -> UnusedSettingError:
    """The error for an override that :func:`unused_overrides` found, with the methods that use its setting."""
    key, given = setting_of(override), override.partition("=")[2]
    users = users_of(key) if why.startswith("prune=") and not key.startswith("prune.") else []
    by = f"; it is used by {', '.join(users)}" if users else ""
    if key == "sparsity" and _tunable(why):
        by += "; and here with tune_to_target=true"
    return UnusedSettingError(key, given or None, f"{why}{by}")


def users_of(setting: str) -> list[str]:
    """The methods that use a setting or a config group, each with its own defaults."""
    with own_hydra():
        base = compose("train", return_hydra_config=True)
        choices = dict(base.hydra.runtime.choices)
        del base.hydra
    found = []
    for method in options("prune"):
        cfg, chosen = _with_method(base, choices, method)
        if (setting in choices or has(cfg, setting)) and not unused_overrides([setting], cfg, chosen):
            found.append(method)
    return found


def _with_method(
    base: DictConfig, choices: Mapping[str, str | None], method: str
) -> tuple[DictConfig, dict[str, str | None]]:
    """``base`` with a method and the parts that it overrides, from their files; composing each takes too long."""
    content = _yaml("prune", method)
    named = [entry for entry in content.pop("defaults", []) if isinstance(entry, dict)]
    chosen = {match[1]: str(value) for entry in named for key, value in entry.items()
              if (match := re.match(r"override /(\w+)", str(key)))}  # fmt: skip
    nodes = {group: _yaml(group, option) for group, option in chosen.items()}
    node = content if "_target_" in content else content.get("prune", {})
    cfg = OmegaConf.create({**OmegaConf.to_container(base, resolve=False), "prune": node, **nodes})  # type: ignore[dict-item]
    return cfg, {**choices, "prune": method, **chosen}


def _yaml(group: str, option: str) -> dict[str, Any]:
    path = options(group).get(option)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    return content if isinstance(content, dict) else {}


def setting_of(override: str) -> str:
    """The setting or config group of an override.

    Example:
        >>> [setting_of(o) for o in ("sparsity=0.9", "++schedule.stop=null", "schedule@_global_.schedule=constant")]
        ['sparsity', 'schedule.stop', 'schedule']
    """
    return re.sub(r"^[+~]*", "", override).partition("=")[0].partition("@")[0]


def has(cfg: DictConfig, setting: str) -> bool:
    """Whether ``cfg`` has a setting or a node of that dotted name, with any value."""
    node: Any = cfg
    for part in setting.split("."):
        if not isinstance(node, DictConfig) or part not in list(node.keys()):
            return False
        node = node._get_node(part)
        if isinstance(node, DictConfig) and (node._is_none() or node._is_interpolation()):
            node = None
    return True


def _unused_parts(
    cfg: DictConfig, choices: Mapping[str, str | None], method: str
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(part, its settings that are used all the same, who ignores it)."""
    accepted = _accepted(cfg)
    for part in PARTS:
        if accepted is not None and part not in accepted:
            yield part, (), f"{method} ignores it"
        elif part == "schedule" and _asks_for_target(cfg):
            yield part, ("sparsity",), f"{method} ignores it"


def _asks_for_target(cfg: DictConfig) -> bool:
    """Whether the method asks for the final sparsity alone, of a schedule of this package's kind."""
    known = _declared(_target(cfg, "schedule"), "only_updates") is not None
    return known and _declared(_target(cfg, "prune"), "asks_schedule") == "target"


def _unused_updates(
    cfg: DictConfig, choices: Mapping[str, str | None], method: str
) -> Iterator[tuple[str, str]]:
    """Settings of the schedule that change only when masks change, which the method does not ask."""
    if _declared(_target(cfg, "prune"), "asks_schedule") == "sparsity":
        for name in _declared(_target(cfg, "schedule"), "only_updates") or ():
            yield f"schedule.{name}", f"{method} with schedule={choices.get('schedule')} ignores it"


def _ignored(cfg: DictConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    declared = _declared(_target(cfg, "prune"), "ignores") or {}
    for name, conditions in declared.items():
        yield (name if name in PARTS else f"prune.{name}"), conditions


def _with(conditions: Mapping[str, Any], cfg: DictConfig, choices: Mapping[str, str | None]) -> str | None:
    """`` with SETTING=VALUE`` if all conditions hold, else ``None``."""
    said = []
    for key, value in conditions.items():
        now = choices[key] if key in choices else OmegaConf.select(cfg, key)
        if now not in (value if isinstance(value, (tuple, list)) else (value,)):
            return None
        said.append(f"{key}={'null' if now is None else now}")
    return f" with {' and '.join(said)}" if said else ""


def _not_referred_to(
    written: Mapping[str, Any],
    found: Mapping[str, str],
    cfg: DictConfig,
    choices: Mapping[str, str | None],
    method: str,
) -> dict[str, str]:
    """Settings that have an effect only through others, and that none of the used ones refers to."""
    used = " ".join(str(value) for key, value in written.items() if key not in found and "${" in str(value))
    more = {}
    for key in written:
        if not key.startswith(REFERRED) or f"${{{key}}}" in used:
            continue
        if key == "sparsity" and OmegaConf.select(cfg, "tune_to_target") is True:
            continue
        users = [name for name, value in written.items() if f"${{{key}}}" in str(value)]
        if users and all(name in found for name in users):
            more[key] = found[users[0]]
        elif users or key.startswith("dataset.recipe"):
            more[key] = "no setting refers to it here"
        else:
            more[key] = f"{method} with schedule={choices.get('schedule')} ignores it"
    return more


def _tunable(why: str) -> bool:
    content = _yaml("prune", why.partition("prune=")[2].split()[0]) if "prune=" in why else {}
    return "_target_" in content and isinstance(_assigned(content["_target_"], "tuned"), ast.Call)


def _accepted(cfg: DictConfig) -> set[str] | None:
    try:
        return accepted_arguments(_target(cfg, "prune"))
    except Exception:  # a target that does not exist is reported when it is built
        return None


def _target(cfg: DictConfig, group: str) -> str:
    return present_target(str(OmegaConf.select(cfg, f"{group}._target_")))


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _declared(target: str, attribute: str) -> Any:
    """The literal value of a class attribute, its own or inherited; ``None`` if there is none."""
    node = _assigned(target, attribute)
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


@cache
def _assigned(target: str, attribute: str) -> ast.expr | None:
    """The expression assigned to a class attribute, found in the source of the class or of its first base with one."""
    module, _, name = target.rpartition(".")
    tree = _source(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            origin = next(a.name for a in node.names if (a.asname or a.name) == name)
            return _assigned(f"{node.module}.{origin}", attribute) if node.module and not node.level else None
        if not isinstance(node, ast.ClassDef) or node.name != name:
            continue
        for line in node.body:
            targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
            named = any(isinstance(one, ast.Name) and one.id == attribute for one in targets)
            if named and isinstance(line, (ast.Assign, ast.AnnAssign)) and line.value is not None:
                return line.value
        bases = (_assigned(f"{module}.{b.id}", attribute) for b in node.bases if isinstance(b, ast.Name))
        return next((base for base in bases if base is not None), None)
    return None


@cache
def _source(module: str) -> ast.Module | None:
    file: Path | None = find_source(module) if module else None
    if file is not None and file.is_dir():
        file /= "__init__.py"
    if file is None or file.suffix != ".py" or not file.is_file():
        return None
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return None
