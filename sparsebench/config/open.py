"""Configs from overrides and from run folders, validated before anything is built from them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
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
from yaml import YAMLError, safe_load

from sparsebench.config import renamed
from sparsebench.config.compose import IDENTITY_GROUPS, STUDY, baseline, defaults, leaves, own_hydra
from sparsebench.config.identity import hash_of, id_of, identity, match
from sparsebench.config.options import REVISION
from sparsebench.config.resolve import as_settings, resolve
from sparsebench.config.revisions import past_defaults, refuse_revisions
from sparsebench.errors import SettingError, is_int, one_of, require_int
from sparsebench.paths import groups, options
from sparsebench.records.settings import overrides as overrides_of

_NOTHING = object()


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
    """Refuse values of the wrong type or range, before anything is built or written.

    A value must have the type of its default in the YAML file: a number stays a number, a boolean a boolean;
    strings accept any scalar, and settings that default to null accept anything.

    Raises:
        SettingError: The first invalid value.
    """
    for key in sorted(OmegaConf.missing_keys(cfg)):  # before anything is resolved
        raise SettingError(key, None, "a value, because it has no default")
    refuse_revisions(cfg, defaults(choices))
    _validate(cfg, defaults(choices))


def validate_study(cfg: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Like :func:`validate`, for the config of a theory study.

    Raises:
        SettingError: The first value of a wrong type.
    """
    chosen = compose("theory", overrides=[f"{STUDY}={choices[STUDY]}"])
    _check_types(cfg, leaves(chosen), "theory")


def _check_types(cfg: DictConfig, defaults: Mapping[str, Any], command: str) -> None:
    for key, value in leaves(cfg).items():
        if key not in defaults and "." not in key:
            raise SettingError(key, value, f"an existing setting; see sparsebench {command} --cfg job")
        default = defaults.get(key)
        if default in (None, "???") or key.startswith("hydra.") or type(value) is type(default):
            continue
        if key.removeprefix("device.") == "channels_last" and value == "auto":
            continue
        wanted = None
        if isinstance(default, bool):
            wanted = "true or false"
        elif isinstance(default, int):
            wanted = f"an integer, for example {default}"
        elif isinstance(default, float) and not is_int(value):
            wanted = f"a number, for example {default}"
        elif isinstance(default, list) or (
            isinstance(default, str) and value is not None and isinstance(value, list)
        ):
            wanted = f"{'a list' if isinstance(default, list) else 'one value'}, for example {default}"
        if wanted:
            raise SettingError(key, value, wanted)


def _validate(cfg: DictConfig, defaults: Mapping[str, Any]) -> None:
    _check_types(cfg, defaults, "train")
    for key, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("seed", 0)):
        require_int(key, cfg[key], least)
    require_int("eval_batch_size", cfg.eval_batch_size, least=1, optional=True)
    if cfg.extend <= 0:
        raise SettingError("extend", cfg.extend, "a factor above 0, for example 2.0 or 5.0")
    if not 0 <= cfg.sparsity < 1:
        raise SettingError("sparsity", cfg.sparsity, "a fraction of zeros in [0, 1), for example 0.9")
    if not 0 <= cfg.label_smoothing < 1:
        raise SettingError("label_smoothing", cfg.label_smoothing, "a number in [0, 1)")


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
            if key not in cfg and key != REVISION:
                cfg[key] = default
        known = leaves(present) | past_defaults(cfg, choices)
        _validate(cfg, known)
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


def present_hash(command: str, config_hash: str, left_out: Collection[str] = ()) -> str:
    """The present ``config_hash`` of the runs of a command, if theirs is one that earlier versions gave to the same.

    Takes as long as composing a config.

    Args:
        command: As recorded, without seed.
        config_hash: Of the runs; returned if it is not shown to be of the same configuration.
        left_out: Settings that do not count in the hash that is returned.
    """
    try:
        cfg, choices = compose_config(overrides_of(command))
    except SettingError:
        return config_hash
    with own_hydra():
        found = identity(cfg, choices, ranks=1)
    known = match(found, cfg, lambda run: run == config_hash)  # without a seed an id is a config_hash
    changed = {key: value for key, value in found["changed"].items() if key not in left_out}
    return hash_of({**found, "changed": changed}) if hash_of(known) == config_hash else config_hash


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
            return SettingError(key, given.get(key), f"an existing setting{_hint(key, overrides, command)}")
        return SettingError("config", None, f"a config that composes: {text}")
    if isinstance(error, OmegaConfBaseException):
        return SettingError(error.full_key or "config", None, f"a value that resolves: {text}")
    return None


def _hint(key: str, overrides: Sequence[str], command: str) -> str:
    """What may have been meant by a setting that does not exist with the chosen options."""
    known, choices = _known_settings(command, overrides)
    group, _, name = key.partition(".")
    having = options_with(group, name) if name else []
    swept = next((o.partition("=")[2] for o in overrides if o.startswith(f"{group}=") and "," in o), "")
    if having and group in choices:
        return f": {key} exists for {group}={', '.join(having)}; chosen was {swept or choices[group]}"
    for_sweep = dict.fromkeys(("retries", "launcher"), "it is one of sparsebench sweep")
    close = difflib.get_close_matches(key, {*known, *(for_sweep if command == "train" else ())}, n=1)
    if close and close[0] in for_sweep:
        return f" (did you mean '{close[0]}'? {for_sweep[close[0]]})"
    return f" (did you mean '{close[0]}'?)" if close else f"; see sparsebench {command} --cfg job"


def options_with(group: str, name: str) -> list[str]:
    """The options of a config group that have a setting, dotted below the group, in their own file."""
    found = []
    for option, path in options(group).items():
        try:
            node: Any = safe_load(path.read_text(encoding="utf-8"))
        except (YAMLError, UnicodeDecodeError):
            continue
        if isinstance(node, dict) and isinstance(node.get(group), dict):
            node = node[group]  # an option that also sets other groups
        for part in name.split("."):
            node = node[part] if isinstance(node, dict) and part in node else _NOTHING
        if node is not _NOTHING:
            found.append(option)
    return found


def _known_settings(command: str, overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The groups and settings of the chosen options, and these options."""
    known = set(groups()) | {STUDY}
    chosen = [o for o in overrides if o.partition("=")[0].lstrip("+~") in known and "," not in o]
    with own_hydra():
        try:
            cfg = compose(command, overrides=chosen, return_hydra_config=True)
        except HydraException:  # another of them is wrong too
            cfg = compose(command, return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        del cfg.hydra
        return [*(set(groups()) - {"theory"} if command == "train" else ()), *_keys(cfg)], choices


def _keys(cfg: DictConfig) -> list[str]:
    try:
        return list(leaves(cfg))
    except OmegaConfBaseException:  # a value that is missing
        return [str(key) for key in cfg]
