"""Configs from overrides and from run folders, validated before anything is built from them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sparsebench.config import renamed
from sparsebench.config.compose import IDENTITY_GROUPS, STUDY, baseline, defaults, leaves, own_hydra
from sparsebench.config.declared import check, comments, evaluations
from sparsebench.config.identity import hash_of, id_of, identity, match
from sparsebench.config.resolve import as_settings, resolve
from sparsebench.errors import SettingError, one_of
from sparsebench.paths import groups, options
from sparsebench.records.settings import overrides as overrides_of


def compose_config(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str | None]]:
    """Compose and validate a config; returns it with the chosen options of its groups.

    Also works inside another Hydra application, whose state is restored.

    Raises:
        SettingError: An override is wrong.
    """
    overrides = as_settings(renamed.update_overrides(overrides))
    with own_hydra():
        try:
            cfg = compose("train", overrides=overrides, return_hydra_config=True)
            choices: dict[str, str | None] = dict(cfg.hydra.runtime.choices)
            del cfg.hydra
            validate(cfg, choices)
            resolve(cfg)
        except Exception as error:
            explained = explain(error, overrides)
            if explained is None:
                raise
            raise explained from error
    return cfg, choices


def validate(cfg: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Refuse values that are not allowed, before anything is built or written.

    What a setting allows is written beside it in its YAML file (:mod:`sparsebench.config.declarations`).

    Raises:
        SettingError: The first invalid value.
    """
    for group in (*IDENTITY_GROUPS, "device", "tracker"):
        if not choices.get(group):
            raise SettingError(group, "null", one_of(options(group), ""))
    for key in sorted(OmegaConf.missing_keys(cfg)):  # before anything is resolved
        raise SettingError(key, None, "a value, because it has no default")
    _validate(cfg, choices, defaults(choices))


def validate_study(cfg: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Like :func:`validate`, for the config of a theory study.

    Raises:
        SettingError: The first value of a wrong type.
    """
    chosen = compose("theory", overrides=[f"{STUDY}={choices[STUDY]}"])
    check(cfg, comments(choices, "theory"), leaves(chosen), leaves(cfg), "theory")


def _validate(
    cfg: DictConfig, choices: Mapping[str, str | None], defaults: Mapping[str, Any], complete: bool = True
) -> None:
    declared = comments(choices, "train", evaluations(cfg))
    check(cfg, declared, defaults, leaves(cfg), complete=complete)


@dataclass(frozen=True)
class ReopenedConfig:
    """The config of an existing run, and its ids as this version computes them.

    Args:
        cfg: The config; settings that are newer than the run have their defaults.
        changed: Settings that differ from the present defaults, as in :func:`identity`.
        run_id: The run's id.
        config_hash: The same for all its seeds.
    """

    cfg: DictConfig
    changed: dict[str, Any]
    run_id: str
    config_hash: str


def reopen_config(
    text: str,
    choices: Mapping[str, str | None],
    training: int = 0,
    ranks: int = 1,
    exists: Callable[[str], bool] = lambda run: False,
) -> ReopenedConfig:
    """Read and validate the config of a finished run.

    Args:
        text: Content of its config.yaml.
        choices: Config group -> chosen option, from its run.json.
        training: Number of the training, for methods with several.
        ranks: Number of ranks, from its run.json.
        exists: Whether there is a run with an id, which may be one that an earlier version gave.

    Raises:
        SettingError: It is not a config, or contains an invalid value.
    """
    choices = renamed.choices(choices)
    if missing := [group for group in IDENTITY_GROUPS if group not in choices]:
        raise SettingError("choices", None, f"an option of {', '.join(missing)}")
    try:
        cfg = OmegaConf.create(text)
        if not isinstance(cfg, DictConfig):
            raise SettingError("config", None, "settings with values")
        for old, new in renamed.SETTINGS.items():
            if (value := OmegaConf.select(cfg, old)) is not None:
                OmegaConf.update(cfg, new, value, force_add=True)
                _drop(cfg, old)
        with own_hydra():
            present = baseline(choices)
        for key, default in present.items():
            if key not in cfg:
                cfg[key] = default
        known = leaves(present)
        _validate(cfg, choices, known, complete=False)
        resolve(cfg)
    except YAMLError as error:
        raise SettingError("config", None, f"YAML: {' '.join(str(error).split())}") from error
    except Exception as error:
        explained = explain(error, [])
        if explained is None:
            raise
        raise explained from error
    found = match(identity(cfg, choices, known, ranks), cfg, exists, training)
    return ReopenedConfig(cfg, dict(found["changed"]), id_of(found, training), hash_of(found, training))


def present_hash(command: str, config_hash: str) -> str:
    """The present ``config_hash`` of the runs of a command, if theirs is one that earlier versions gave to the same.

    Takes as long as composing a config.

    Args:
        command: As recorded, without seed.
        config_hash: Of the runs; returned if it is not shown to be of the same configuration.
    """
    try:
        cfg, choices = compose_config(overrides_of(command))
    except SettingError:
        return config_hash
    with own_hydra():
        found = identity(cfg, choices, ranks=1)
    known = match(found, cfg, lambda run: run == config_hash)  # without a seed an id is a config_hash
    return hash_of(found) if hash_of(known) == config_hash else config_hash


def _drop(cfg: DictConfig, key: str) -> None:
    group, _, name = key.rpartition(".")
    del (OmegaConf.select(cfg, group) if group else cfg)[name]


def explain(error: Exception, overrides: list[str], command: str = "train") -> SettingError | None:
    """Turn a config error of Hydra or OmegaConf into one line; ``None`` for other errors.

    Args:
        error: The error.
        overrides: Overrides on the command line.
        command: ``train`` or ``theory``.
    """
    text = " ".join(str(error).split()) or " ".join(str(error.__cause__ or type(error).__name__).split())
    given = dict(override.lstrip("+~").split("=", 1) for override in overrides if "=" in override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return SettingError(group or "config", option, one_of(error.options or [], option))
    if isinstance(error, OverrideParseException):
        return SettingError(error.override, None, "key=value, with quotes around special characters")
    if isinstance(error, (ConfigCompositionException, HydraException)):
        match = re.search(r"Could not (?:override|append to config\. An item is already at) '([^']+)'", text)
        if match:
            key = match[1].split("@")[0]
            known = _known_settings(command, [word for word in overrides if word.startswith(f"{STUDY}=")])
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else f"; see sparsebench {command} --cfg job"
            return SettingError(key, given.get(key), f"an existing setting{hint}")
        return SettingError("config", None, f"a config that composes: {text}")
    if isinstance(error, OmegaConfBaseException):
        return SettingError(error.full_key or "config", None, f"a value that resolves: {text}")
    return None


def _known_settings(command: str, chosen: list[str]) -> list[str]:
    with own_hydra():
        return [
            *(set(groups()) - {"theory"} if command == "train" else ()),
            *leaves(compose(command, overrides=chosen)),
        ]
