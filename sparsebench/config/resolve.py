"""Settings as the id of a run sees them: one name for each, and no ``auto`` among those of the identity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError, safe_load

from sparsebench.distributed.precision import AUTO, automatic_precision
from sparsebench.errors import SettingError

REPEATED = ("precision", "channels_last", "compile", "deterministic", "sync_bn")
"""Settings that the device takes too: ``device.KEY`` is another way to write ``KEY``."""


def resolve(cfg: DictConfig, overrides: Sequence[str] = ()) -> list[str]:
    """Make ``cfg`` say what its id is computed from: no ``device.KEY`` for a ``KEY``, and no ``precision=auto``.

    Call it before an id is computed. Once is enough, twice does no harm.

    Args:
        cfg: The composed config; modified.
        overrides: Those that it was composed of.

    Returns:
        Overrides that say the same without ``auto`` and without settings of the device that have another name.

    Raises:
        SettingError: ``device.KEY`` and ``KEY`` are both set, and differ.
    """
    typed = as_settings(overrides)
    _lift(cfg)
    if cfg.precision != AUTO:
        return typed
    cfg.precision = automatic_precision(str(cfg.device.name), cfg.device.get("graphs", AUTO))
    others = [override for override in typed if _split(override)[0] != "precision"]
    return [*others, f"precision={cfg.precision}"]


def as_settings(overrides: Sequence[str]) -> list[str]:
    """The overrides with ``device.KEY=VALUE`` of :data:`REPEATED` as ``KEY=VALUE``.

    Raises:
        SettingError: Both are given, and differ.

    Example:
        >>> as_settings(["prune=dpf", "device.precision=bf16", "device.threads=2"])
        ['prune=dpf', 'precision=bf16', 'device.threads=2']
    """
    top = {key: value for key, value in map(_split, overrides) if key in REPEATED}
    found = []
    for override in overrides:
        key, value = _split(override)
        name = key.removeprefix("device.")
        if key == name or name not in REPEATED or override.startswith("~"):
            found.append(override)
        elif name not in top:
            found.append(f"{name}={value}")
        elif _value(top[name]) != _value(value):
            raise _both(name, value, top[name])
    return found


def _lift(cfg: DictConfig) -> None:
    """Move values of ``device.KEY`` that a file or a program has set to ``KEY``, to which the former then refers.

    A config of the command line has been through :func:`as_settings`; here it is not known who set ``KEY``, so one
    that is not on (fp32, false) counts as not set.
    """
    written: Any = OmegaConf.to_container(cfg.device, resolve=False)
    for name in REPEATED:
        if name not in written or name not in cfg or written[name] == f"${{{name}}}":
            continue
        if (value := written[name]) != cfg[name]:
            if cfg[name] not in (False, "fp32"):
                raise _both(name, value, cfg[name])
            cfg[name] = value
        cfg.device[name] = f"${{{name}}}"


def _both(name: str, value: object, other: object) -> SettingError:
    return SettingError(
        f"device.{name}", value, f"the value of {name}, {other}, which it repeats; set one of them"
    )


def _split(override: str) -> tuple[str, str]:
    key, _, value = re.sub(r"^[+~]*", "", override).partition("=")
    return key, value


def _value(text: str) -> object:
    try:
        return safe_load(text)
    except YAMLError:
        return text
