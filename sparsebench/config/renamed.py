"""Old names in run folders, command lines and other packages' configs, mapped to the present ones.

An old ``_target_`` works wherever an object is built; an old option or setting works on the command line with a note,
and in a run folder without one. A run's id is computed from the original names, so that renaming a setting does not
change any id.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

TARGETS = {
    "sparsebench.device": "sparsebench.distributed.device",
    "sparsebench.distributed.DDP": "sparsebench.distributed.ddp.DDP",
    "sparsebench.lr_schedules": "sparsebench.optim.lr_schedules",
    "sparsebench.pruning.schedules.OneShot": "sparsebench.pruning.schedules.OneShotSchedule",
}
"""Old module or class -> present one, for ``_target_`` strings."""

OPTIONS: dict[str, dict[str, str]] = {}
"""Config group -> old option -> present one."""

SETTINGS: dict[str, str] = {}
"""Old setting, dotted -> present one."""

FIRST_REVISIONS: dict[str, dict[str, str]] = {"schedule": {"evenly": "per_epoch"}}
"""Config group -> option -> the option, still there, that its first revision is."""


def target(name: str) -> str:
    """The present name of the class or function ``name``.

    Example:
        >>> target("sparsebench.lr_schedules.Cosine"), target("torch.optim.SGD")
        ('sparsebench.optim.lr_schedules.Cosine', 'torch.optim.SGD')
    """
    for old, new in TARGETS.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def targets(node: Any) -> Any:
    """``node`` (nested dicts and lists) with every ``_target_`` replaced by its present name."""
    if isinstance(node, dict):
        return {key: target(value) if key == "_target_" else targets(value) for key, value in node.items()}
    return [targets(item) for item in node] if isinstance(node, list) else node


def setting(key: str) -> str:
    """The present name of a setting, or of a part of one, given without prefixes such as ``+``."""
    for old, new in SETTINGS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return key


def choices(chosen: Mapping[str, str | None]) -> dict[str, str | None]:
    """Config group -> chosen option, by their present names."""
    return {group: OPTIONS.get(group, {}).get(str(option), option) for group, option in chosen.items()}


def update_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides with present names; prints a note for each one that used an old name."""
    updated = [_update_override(override) for override in overrides]
    for old, new in zip(overrides, updated, strict=True):
        if old != new:
            print(f"sparsebench: note: {old} is now written {new}", file=sys.stderr)
    return updated


def _update_override(override: str) -> str:
    parts = re.match(r"([+~]*)([\w./]+)([^=]*)(=?)(.*)", override, re.DOTALL)
    if parts is None or override.startswith("-"):
        return override
    sign, key, package, equals, value = parts.groups()
    if key.endswith("_target_"):
        value = re.sub(r"[\w.]+", lambda name: target(name[0]), value)
    elif key in OPTIONS:
        value = re.sub(r"\w+", lambda name: OPTIONS[key].get(name[0], name[0]), value)
    return f"{sign}{setting(key)}{package}{equals}{value}"


def original_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """An identity in terms of the original names of options and settings."""
    options = {group: {new: old for old, new in names.items()} for group, names in OPTIONS.items()}
    settings = {new: old for old, new in SETTINGS.items()}
    counted = found.get("revisions", {})
    for group, names in FIRST_REVISIONS.items():
        options[group] = {**options.get(group, {}), **({} if group in counted else names)}
    named = {group: options.get(group, {}).get(str(option), option) for group, option in found.items()}
    return {**named, "changed": {settings.get(key, key): value for key, value in found["changed"].items()}}
