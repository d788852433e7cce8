"""Configs from overrides and from run folders, validated before anything is built from them."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from sparsebench.config.declared import check, comments, evaluations
from sparsebench.config.identity import hash_of, id_of, identity, match
from sparsebench.config.options import REVISION
from sparsebench.config.resolve import as_settings, resolve
from sparsebench.config.revisions import past_defaults, refuse_revisions
from sparsebench.errors import SettingError, one_of
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
    """Refuse values that are not allowed, before anything is built or written.

    What a setting allows is written beside it in its YAML file (:mod:`sparsebench.config.declarations`).

    Raises:
        SettingError: The first invalid value.
    """
    for group in (*IDENTITY_GROUPS, "device", "tracker"):
        if not choices.get(group):
            raise SettingError(group, "null", one_of(options(group), ""))
    for group, option in choices.items():
        if option and re.search(r"\.ya?ml$|^\.|^/|\.\.", str(option)):
            raise SettingError(group, option, "the name of an option, not that of a file")
    with explained():
        for key in sorted(OmegaConf.missing_keys(cfg)):  # before anything is resolved
            raise SettingError(key, None, "a value, because it has no default")
        for group in ("prune", "model", "dataset", "optimizer"):  # asked for before they are built
            node = OmegaConf.select(cfg, group)
            if not (isinstance(node, DictConfig) and isinstance(node.get("_target_"), str)):
                raise SettingError(f"{group}._target_", None, "the dotted name of a class or function")
        refuse_revisions(cfg, defaults(choices))
        _validate(cfg, choices, defaults(choices))


def validate_study(cfg: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Like :func:`validate`, for the config of a theory study.

    Raises:
        SettingError: The first value of a wrong type.
    """
    chosen = compose("theory", overrides=[f"{STUDY}={choices[STUDY]}"])
    with explained():
        check(cfg, comments(choices, "theory"), leaves(chosen), leaves(cfg), "theory")


def _validate(
    cfg: DictConfig, choices: Mapping[str, str | None], defaults: Mapping[str, Any], complete: bool = True
) -> None:
    declared = comments(choices, "train", evaluations(cfg))
    check(cfg, declared, defaults, leaves(cfg), complete=complete)


def validate_sweep(cfg: DictConfig) -> None:
    """Refuse settings of the launcher and the sweeper that are not allowed, before anything is started.

    Args:
        cfg: The config of a sweep, with Hydra's part.

    Raises:
        SettingError: The first invalid value, named as on the command line of ``sparsebench sweep``.
    """
    hydra, parts = cfg.hydra, ("launcher", "sweeper")
    for part in parts:
        if OmegaConf.select(cfg, f"hydra.{part}") is None:
            raise SettingError(part, "null", one_of(options(f"hydra/{part}"), ""))
    choices = {f"hydra/{part}": hydra.runtime.choices[f"hydra/{part}"] for part in parts}
    values = {
        f"hydra.{part}.{key}": value
        for part in parts
        for key, value in leaves(OmegaConf.select(cfg, f"hydra.{part}")).items()
    }
    try:
        check(cfg, comments(choices, ""), values, values, "sweep", complete=False)
    except SettingError as error:
        name = re.sub(r"^hydra\.(sweeper\.(?=retries$))?(?=launcher|retries)", "", error.setting)
        raise SettingError(name, error.given, error.allowed) from error
    if not str(hydra.sweep.dir).strip():
        raise SettingError("hydra.sweep.dir", "", "a path")


@contextmanager
def explained() -> Iterator[None]:
    """Turn an error in resolving a user's config into a :class:`SettingError`."""
    try:
        yield
    except OmegaConfBaseException as error:
        reason = explain(error, [])
        assert reason is not None
        raise reason from error


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
            _validate(cfg, choices, known, complete=False)
            resolve(cfg)
            found = match(identity(cfg, choices, known, ranks), cfg, exists, training)
    except YAMLError as error:
        raise SettingError("config", None, f"YAML: {' '.join(str(error).split())}") from error
    except Exception as error:
        explained = explain(error, [])
        if explained is None:
            raise
        raise explained from error
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
    if isinstance(error, SettingError):
        return None
    text = " ".join(str(error).split()) or " ".join(str(error.__cause__ or type(error).__name__).split())
    given = dict(override.lstrip("+~").split("=", 1) for override in overrides if "=" in override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return SettingError(group or "config", option, one_of(error.options or [], option))
    if isinstance(error, OverrideParseException):
        return SettingError(error.override, None, "key=value, with quotes around special characters")
    if isinstance(error, YAMLError):
        mark = getattr(error, "problem_mark", None)
        place = "config" if mark is None else f"{mark.name}, line {mark.line + 1}"
        return SettingError(place, None, f"YAML: {getattr(error, 'problem', None) or text}")
    if text.startswith(
        ("Config group override must be", "Ambiguous value for argument", "Sweep parameters", "range()")
    ):
        return _not_one_value(given)
    if isinstance(error, (ConfigCompositionException, HydraException)):
        match = re.search(r"Could not (?:override|append to config\. An item is already at) '([^']+)'", text)
        if match:
            key = match[1].split("@")[0]
            return SettingError(key, given.get(key), f"an existing setting{_hint(key, overrides, command)}")
        if match := re.search(r"Error merging override ([^=\s]+)=", text):
            reason = " ".join(str(error.__cause__ or "").split()).partition(" full_key:")[0]
            return SettingError(match[1], given.get(match[1]), f"a value that fits its place: {reason}")
        if match := re.search(r"Could not delete (?:from config\. )?'([^']+)'", text):
            return SettingError(f"~{match[1]}", None, "an existing setting")
        return SettingError("config", None, f"a config that composes: {text}")
    if isinstance(error, OmegaConfBaseException):
        return SettingError(error.full_key or "config", None, f"a value that resolves: {text}")
    if match := re.fullmatch(r"Hydra (launcher|sweeper) is not configured", text):
        return SettingError(match[1], "null", one_of(options(f"hydra/{match[1]}"), ""))
    if isinstance(error, (ValueError, TypeError, RecursionError)) and _is_of_composing(error):
        return SettingError("config", None, f"a config that composes: {text}")
    return None


def _is_of_composing(error: BaseException) -> bool:
    """Whether Hydra has raised ``error`` before it called anything of this package."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__")) for frame in frames]
    reached = any(frame.f_code.co_name == "_task" for frame in frames)
    ours = any(module.startswith(("sparsebench.sweeps", "sparsebench.runs")) for module in modules)
    return not reached and not ours and any(module.startswith("hydra.") for module in modules)


def _not_one_value(given: Mapping[str, str]) -> SettingError:
    """For Hydra's errors about a value that is none, or several, which do not always name it."""
    for key, value in given.items():
        group = key.split("@")[0]
        if group in groups() or "/" in group or not group:
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", value) or re.fullmatch(
                r"null|true|false|[\d.e+-]+", value
            ):
                return SettingError(group or f"={value}", value if group else None, _option_of(group))
        elif re.search(r"[,(]", value):
            several = "a range with a step" if re.search(r"range\(.*,\s*0\)", value) else "one value"
            return SettingError(key, value, f"{several}; sparsebench sweep takes several")
    return SettingError("overrides", None, "one value for each setting")


def _option_of(group: str) -> str:
    if not group:
        return "key=value"
    return one_of(options(group), "") if group in groups() else "one of its options"


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
