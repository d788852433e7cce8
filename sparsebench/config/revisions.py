"""Revisions of options: the defaults that a run of an earlier one was made with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from sparsebench.config.compose import IDENTITY_GROUPS
from sparsebench.config.options import REVISION
from sparsebench.errors import SettingError

MAIN = "train"
"""What settings outside groups are called among the options."""

PAST_DEFAULTS = Path(__file__).with_name("past_defaults.yaml")


def revision(cfg: DictConfig, group: str) -> int:
    """The revision of an option by a config, or with :data:`MAIN` of the settings outside groups; 1 if it says none."""
    node = cfg if group == MAIN else cfg[group]
    value = node.get(REVISION, 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        name = REVISION if group == MAIN else f"{group}.{REVISION}"
        raise SettingError(name, value, "an integer, at least 1: an option's YAML file says it")
    return value


def past_defaults(cfg: DictConfig, choices: Mapping[str, str | None]) -> dict[str, Any]:
    """Setting -> default, of those that had another one in the revisions by which ``cfg`` was made."""
    found: dict[str, Any] = {}
    for group in (MAIN, *IDENTITY_GROUPS):
        known = _past().get(MAIN if group == MAIN else f"{group}/{choices[group]}", {})
        for number in sorted((n for n in known if n >= revision(cfg, group)), reverse=True):
            prefix = "" if group == MAIN else f"{group}."
            found |= {f"{prefix}{name}": value for name, value in known[number].items()}
    return found


def first_defaults(
    cfg: DictConfig, choices: Mapping[str, str | None], defaults: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Group -> defaults of its first revision, where every default that changed since is set to another value.

    Such a run is what it was before: a recipe that sets the interval of its paper gives the ids that it always gave.
    Only where each of the revisions has changed defaults, as past_defaults.yaml says, and not also the code.

    Args:
        cfg: The config.
        choices: Config group -> chosen option.
        defaults: Setting -> present default.
    """
    found: dict[str, dict[str, Any]] = {}
    for group in (MAIN, *IDENTITY_GROUPS):
        known = _past().get(MAIN if group == MAIN else f"{group}/{choices[group]}", {})
        if not known or {*known} != {*range(1, revision(cfg, group))}:
            continue
        prefix = "" if group == MAIN else f"{group}."
        first = {
            f"{prefix}{n}": value
            for number in sorted(known, reverse=True)
            for n, value in known[number].items()
        }
        if all(OmegaConf.select(cfg, name) != defaults.get(name) for name in first):
            found[group] = first
    return found


def refuse_revisions(cfg: DictConfig, defaults: Mapping[str, Any]) -> None:
    """Refuse a revision that is set: it is a fact about an option, and no setting.

    Raises:
        SettingError: One differs from that of its YAML file.
    """
    for group in (MAIN, *IDENTITY_GROUPS):
        name = REVISION if group == MAIN else f"{group}.{REVISION}"
        value = OmegaConf.select(cfg, name)
        if value != defaults.get(name):
            raise SettingError(name, value, "no value: it says which defaults and code an option has")


@cache
def _past() -> dict[str, dict[int, dict[str, Any]]]:
    return dict(yaml.safe_load(PAST_DEFAULTS.read_text("utf-8")) or {})
