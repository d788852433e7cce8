"""The only door between config and objects."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sparsebench.composition import IDENTITY_GROUPS, baseline, defaults, leaves, own_hydra
from sparsebench.errors import SettingError, one_of
from sparsebench.location import groups
from sparsebench.records.settings import VOLATILE

STUDY = "theory@study"
"""Hydra's words for the command line's ``study=NAME``: an option of ``theory/``, whose settings are ``study.KEY``."""


def composed(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str | None]]:
    """The config that these words of the command line give, checked, and the chosen options of its groups.

    Works inside another Hydra application too, and leaves that one as it was.

    Raises:
        SettingError: A word is wrong.
    """
    with own_hydra():
        try:
            cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
            choices: dict[str, str | None] = dict(cfg.hydra.runtime.choices)
            del cfg.hydra
            validate(cfg, choices)
        except Exception as error:
            explained = explain(error, list(overrides))
            if explained is None:
                raise
            raise explained from error
    return cfg, choices


def as_word(setting: str, value: object) -> str:
    """``setting=value`` as it is written on the command line.

    Example:
        >>> as_word("schedule.interval", "32it"), as_word("allocation.path", None), as_word("prunable.fc", True)
        ("schedule.interval='32it'", 'allocation.path=null', 'prunable.fc=true')
        >>> as_word("schedule.dense_starts", ["0.2", 40])
        "schedule.dense_starts=['0.2',40]"
    """

    def text(value: object) -> str:
        if isinstance(value, str):
            return QuotedString(value, Quote.single).with_quotes()
        if isinstance(value, (list, tuple)):
            return f"[{','.join(text(item) for item in value)}]"
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    return f"{setting}={text(value)}"


def build(node: DictConfig, group: str = "", **runtime: Any) -> Any:
    """The object that ``node`` describes (``_target_`` and arguments), given the ``runtime`` arguments it takes.

    Args:
        node: A leaf of the config.
        group: Where it stands, put in front of the setting that an error names.
        runtime: Finished objects; those that the target has no argument for are left out.

    Raises:
        SettingError: An argument has a value that the target refuses.
    """
    taken = accepted(str(node._target_))
    settings = OmegaConf.to_container(node, resolve=True)
    assert isinstance(settings, dict)
    settings.pop("recipe", None)  # defaults for other settings that travel with a data set
    given = {name: value for name, value in runtime.items() if taken is None or name in taken}
    for name, value in ((str(name), value) for name, value in settings.items()):
        if taken is not None and not name.startswith("_") and name not in taken:
            raise SettingError(
                f"{group}.{name}", value, f"an existing setting: {one_of(sorted(taken), name)}"
            )
    try:
        # Runtime objects are given to the partial: instantiate would turn a dataclass among them into a config.
        return instantiate({**settings, "_partial_": True, "_convert_": "all"})(**given)
    except InstantiationException as error:
        raise SettingError(group, None, f"a _target_ that can be built: {error}") from error
    except SettingError as error:
        raise SettingError(_as_written(node, group, error.setting), error.given, error.allowed) from error
    except ValueError as error:
        raise SettingError(group, None, f"values that {node._target_} takes: {error}") from error


def _as_written(node: DictConfig, group: str, setting: str) -> str:
    """The name under which a user sets the argument ``setting`` of ``node``."""
    if not group or setting not in node:
        return setting
    reference = re.fullmatch(r"\$\{([\w.]+)\}", str(OmegaConf.to_container(node, resolve=False)[setting]))  # type: ignore[index, call-overload]
    return reference[1] if reference else f"{group}.{setting}"


def accepted(target: str) -> set[str] | None:
    """Names of the arguments that a class or function takes; ``None`` if it takes any."""
    parameters = inspect.signature(get_object(target)).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}


def validate(cfg: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Refuse values of the wrong type or range, before anything is built or written.

    A value's type is that of the default in its YAML: a number stays a number, a switch a switch; texts take any
    scalar, and what defaults to null takes anything.

    Raises:
        SettingError: The first value that is wrong.
    """
    for key in sorted(OmegaConf.missing_keys(cfg)):  # before anything is resolved
        raise SettingError(key, None, "a value: there is no default")
    _validate(cfg, defaults(choices))


def validate_study(cfg: DictConfig, choices: Mapping[str, str | None]) -> None:
    """As :func:`validate`, the config of a theory study.

    Raises:
        SettingError: The first value that is of a wrong type.
    """
    chosen = compose("theory", overrides=[f"{STUDY}={choices[STUDY]}"])
    _check_types(cfg, leaves(chosen), "theory")


def study_id(cfg: DictConfig, choices: Mapping[str, str | None]) -> str:
    """Ten hexadecimal digits that name a study: equal for equal settings of it, those that are defaults included."""
    own = {k: v for k, v in leaves(cfg).items() if k.startswith("study.") and k != "study.data_root"}
    return _digest([choices[STUDY], own])


def _check_types(cfg: DictConfig, defaults: Mapping[str, Any], command: str) -> None:
    for key, value in leaves(cfg).items():
        if key not in defaults and "." not in key:
            raise SettingError(key, value, f"an existing setting; see sparsebench {command} --cfg job")
        default = defaults.get(key)
        if default in (None, "???") or key.startswith("hydra.") or type(value) is type(default):
            continue
        wanted = None
        if isinstance(default, bool):
            wanted = "true or false"
        elif isinstance(default, int):
            wanted = f"a whole number, for example {default}"
        elif isinstance(default, float) and (isinstance(value, bool) or not isinstance(value, int)):
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
        if cfg[key] < least:
            raise SettingError(key, cfg[key], f"a whole number of at least {least}")
    if cfg.extend <= 0:
        raise SettingError("extend", cfg.extend, "a factor above 0, for example 2.0 or 5.0")
    if not 0 <= cfg.sparsity < 1:
        raise SettingError("sparsity", cfg.sparsity, "a fraction of zeros in [0, 1), for example 0.9")
    if not 0 <= cfg.label_smoothing < 1:
        raise SettingError("label_smoothing", cfg.label_smoothing, "a number in [0, 1)")


def identity(cfg: DictConfig, choices: Mapping[str, str | None]) -> dict[str, Any]:
    """What a run is: its choices, and every setting that differs from their defaults, less the volatile ones.

    Groups that the chosen method does not take (a dense run has no schedule) are left out, and with the
    schedule the sparsity.
    """
    return _identity(cfg, choices, defaults(choices))


def _identity(cfg: DictConfig, choices: Mapping[str, str | None], defaults: dict[str, Any]) -> dict[str, Any]:
    unused = {"schedule", "allocation", "score", "sanity"} - (accepted(str(cfg.prune._target_)) or set())
    if "schedule" in unused:
        unused |= {"sparsity", "ramp_end"}
    changed = {
        key: float(value) if isinstance(defaults.get(key), float) and isinstance(value, int) else value
        for key, value in leaves(cfg).items()
        if key.split(".")[0] not in {*VOLATILE, *unused}
        and key.split(".")[-1] not in {"data_root", "workers", "_target_"}
        and not (key in defaults and defaults[key] == value)
    }
    return {**{group: choices[group] for group in IDENTITY_GROUPS if group not in unused}, "changed": changed}


def run_id(cfg: DictConfig, choices: Mapping[str, str | None], training: int = 0) -> str:
    """Ten hexadecimal digits that name the run: equal for equal :func:`identity` and number of the training."""
    return _run_id(identity(cfg, choices), training)


def config_hash(cfg: DictConfig, choices: Mapping[str, str | None], training: int = 0) -> str:
    """As :func:`run_id`, the same for all seeds."""
    return _config_hash(identity(cfg, choices), training)


def _run_id(found: Mapping[str, Any], training: int) -> str:
    return _digest({**found, **({"training": training} if training else {})})


def _config_hash(found: Mapping[str, Any], training: int) -> str:
    changed = {key: value for key, value in found["changed"].items() if key != "seed"}
    return _run_id({**found, "changed": changed}, training)


@dataclass(frozen=True)
class Reopened:
    """A run's config read again, and its names as this version gives them.

    Args:
        cfg: The config; settings made up since the run have their defaults.
        changed: Settings that differ from the present defaults, as :func:`identity` has them.
        run_id: Of the run.
        config_hash: The same for all its seeds.
    """

    cfg: DictConfig
    changed: dict[str, Any]
    run_id: str
    config_hash: str


def reopened(text: str, choices: Mapping[str, str | None], training: int = 0) -> Reopened:
    """The config of a finished run, checked.

    Args:
        text: Content of its config.yaml.
        choices: Config group -> chosen option, from its run.json.
        training: Its number, of a method of several trainings.

    Raises:
        SettingError: It is not a config, or a value in it is wrong.
    """
    if missing := [group for group in IDENTITY_GROUPS if group not in choices]:
        raise SettingError("choices", None, f"an option of {', '.join(missing)}")
    try:
        cfg = OmegaConf.create(text)
        if not isinstance(cfg, DictConfig):
            raise SettingError("config", None, "settings with values")
        with own_hydra():
            present = baseline(choices)
        for key, default in present.items():
            if key not in cfg:
                cfg[key] = default
        known = leaves(present)
        _validate(cfg, known)
    except YAMLError as error:
        raise SettingError("config", None, f"YAML: {' '.join(str(error).split())}") from error
    except Exception as error:
        explained = explain(error, [])
        if explained is None:
            raise
        raise explained from error
    found = _identity(cfg, choices, known)
    return Reopened(cfg, dict(found["changed"]), _run_id(found, training), _config_hash(found, training))


def explain(error: Exception, overrides: list[str], command: str = "train") -> SettingError | None:
    """A config error of Hydra or OmegaConf as one line; ``None`` if it is not one.

    Args:
        error: The error.
        overrides: Words of the command line that set something.
        command: Whose they are: ``train`` or ``theory``.
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


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
