"""Objects from configs, by their ``_target_``."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from sparsebench.config.options import REVISION
from sparsebench.config.renamed import target as present_target
from sparsebench.config.renamed import targets
from sparsebench.config.signatures import accepted_arguments
from sparsebench.errors import SettingError, one_of


def format_override(setting: str, value: object) -> str:
    """``setting=value`` as an override on the command line.

    Example:
        >>> format_override("schedule.interval", "32it"), format_override("prunable.fc", True)
        ("schedule.interval='32it'", 'prunable.fc=true')
        >>> format_override("allocation.path", None)
        'allocation.path=null'
        >>> format_override("schedule.dense_starts", ["0.2", 40])
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
    """Instantiate ``node`` (``_target_`` and arguments) with those of the ``runtime`` arguments that it accepts.

    Args:
        node: A leaf of the config.
        group: Config group, put in front of the setting that an error names.
        runtime: Objects; those that the target has no argument for are left out.

    Raises:
        SettingError: The target refuses the value of an argument.
    """
    _object(node._target_, f"{group}._target_")
    try:
        accepted = accepted_arguments(str(node._target_))
    except (ValueError, TypeError):  # of a class in C, such as ``int``
        accepted = None
    settings = targets(OmegaConf.to_container(node, resolve=True))
    assert isinstance(settings, dict)
    settings.pop("recipe", None)  # training defaults that come with a data set
    settings.pop(REVISION, None)  # of the option
    given = {name: value for name, value in runtime.items() if accepted is None or name in accepted}
    for name, value in ((str(name), value) for name, value in settings.items()):
        if accepted is not None and not name.startswith("_") and name not in accepted:
            raise SettingError(
                f"{group}.{name}", value, f"an existing setting: {one_of(sorted(accepted), name)}"
            )
    try:
        # Runtime objects go to the partial: instantiate would convert dataclasses among them into configs.
        return instantiate({**settings, "_partial_": True, "_convert_": "all"})(**given)
    except InstantiationException as error:
        raise SettingError(group, None, f"a _target_ that can be built: {error}") from error
    except SettingError as error:
        raise SettingError(_as_written(node, group, error.setting), error.given, error.allowed) from error
    except ValueError as error:
        raise SettingError(group, None, f"values that {node._target_} takes: {error}") from error
    except TypeError as error:
        if not _of_the_call(error):
            raise
        raise SettingError(
            f"{group}._target_", node._target_, f"a class or function for {group}: {error}"
        ) from error


def _of_the_call(error: TypeError) -> bool:
    """Whether the arguments did not fit, so that no line of what was called has run."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(("hydra.", __name__))


def require_targets(cfg: DictConfig, defaults: Mapping[str, Any]) -> None:
    """Import every ``_target_`` that is not a default of this package's, and refuse those that do not exist.

    So that a sweep fails before its first run, and a run before it writes anything. Only for configs of the user's own:
    importing executes code.

    Args:
        cfg: The config.
        defaults: Dotted setting -> default.

    Raises:
        SettingError: A ``_target_`` names nothing that can be called.
    """

    def walk(prefix: str, node: Any) -> None:
        for name, value in node.items() if isinstance(node, dict) else ():
            if name != "_target_":
                walk(f"{prefix}{name}.", value)
            elif value != defaults.get(f"{prefix}{name}") or not str(value).startswith(
                ("sparsebench.", "torch.")
            ):
                _object(value, f"{prefix}{name}")

    walk("", OmegaConf.to_container(cfg, resolve=True))


def _object(target: object, setting: str) -> Any:
    name = present_target(str(target))
    try:
        found = get_object(name)
    except Exception as error:  # importing somebody else's module can raise anything
        reason = " ".join(str(error).split())
        raise SettingError(setting, name, f"the dotted name of a class or function: {reason}") from error
    if not callable(found):
        raise SettingError(setting, name, "the dotted name of a class or function")
    return found


def _as_written(node: DictConfig, group: str, setting: str) -> str:
    """The name by which a user sets the argument ``setting`` of ``node``."""
    if not group or setting not in node:
        return setting
    reference = re.fullmatch(r"\$\{([\w.]+)\}", str(OmegaConf.to_container(node, resolve=False)[setting]))  # type: ignore[index, call-overload]
    return reference[1] if reference else f"{group}.{setting}"
