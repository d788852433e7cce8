"""What changes only the rounding of a run: chosen once, when it is begun, and kept when it is resumed.

Two runs of one identity are equal to the bit only where their numerics are. They are the type and name of the device,
the number of ranks, ``compile``, ``channels_last``, ``deterministic``, the CPU threads, and the versions of PyTorch
and cuDNN.
"""

from __future__ import annotations

import copy
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from sparsebench.config.build import format_override
from sparsebench.distributed.device import Device
from sparsebench.distributed.precision import AUTO
from sparsebench.distributed.threads import available_cores
from sparsebench.errors import RunError, printable
from sparsebench.records import schema
from sparsebench.records.settings import NUMERICS
from sparsebench.training.checkpoint import Checkpoint

Numerics = dict[str, Any]
"""Name -> value, as stored in run.json."""

CHANGED_AT = "numerics_changed_at"
"""Steps at which a run went on with other numerics, in its run.json and summary."""


def numerics_of(device: Device, cfg: DictConfig) -> Numerics:
    """The numerics of a run on ``device``.

    Args:
        device: Built from the config.
        cfg: Its config, in which nothing is left to choose.
    """
    on_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name() if on_gpu else cpu_name(Path("/proc/cpuinfo")),
        "ranks": device.world_size,
        **{name: bool(cfg[name]) for name in NUMERICS},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **({"cudnn": torch.backends.cudnn.version()} if on_gpu else {}),
    }


def as_text(numerics: Mapping[str, Any]) -> str:
    """The numerics in one line, equal where they are: switches by name if they are on, else ``name=value``.

    Threads of the CPU round nothing on a GPU and are left out there.

    Example:
        >>> as_text({"device": "cpu", "name": "AMD EPYC", "ranks": 1, "compile": False, "threads": 2, "torch": "2.9"})
        'cpu AMD_EPYC ranks=1 threads=2 torch=2.9'
    """
    words = []
    for name, value in _relevant(numerics).items():
        text = "_".join(str(value).split())
        if isinstance(value, bool):
            words += [name] * value
        else:
            words.append(text if name in ("device", "name") else f"{name}={text}")
    return " ".join(words)


def cpu_name(cpuinfo: Path) -> str:
    """The name of the CPU, from Linux's ``/proc/cpuinfo`` where there is one."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def stored_numerics(folders: Sequence[Path]) -> Numerics:
    """The numerics of a run that has been begun: those of the last of its trainings; empty if it has not.

    Of a run that an earlier version has begun, as far as its files tell them.

    Args:
        folders: The folders of its trainings, in their order; missing ones are skipped.
    """
    for folder in reversed(folders):
        try:
            origin = dict(json.loads((folder / schema.PROVENANCE).read_text()))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
        return dict(origin.get("numerics") or _of_earlier_version(folder, origin))
    return {}


def settle(cfg: DictConfig, kept: Mapping[str, Any], threads: int) -> DictConfig:
    """A copy of a config with the numerics of its run: those it was begun with, as far as this machine has them.

    Args:
        cfg: The config.
        kept: From :func:`stored_numerics`; empty for a new run, which gets the configured ones.
        threads: Number of CPU threads where neither says one.
    """
    cfg = copy.deepcopy(cfg)
    for name in NUMERICS:
        cfg[name] = kept.get(name, cfg[name])
    if kept.get("device") == "cpu" or (kept.get("device") == "cuda" and torch.cuda.is_available()):
        cfg.device.name = kept["device"]
    chosen = (
        kept["threads"] if kept.get("threads", math.inf) <= available_cores() else cfg.device.get("threads")
    )
    OmegaConf.update(cfg, "device.threads", threads if chosen is None else chosen, force_add=True)
    return cfg


def unused_settings(cfg: DictConfig, settled: DictConfig, overrides: Sequence[str]) -> list[str]:
    """A line for each setting on the command line that a resumed run does not follow.

    Args:
        cfg: The config of the command line.
        settled: From :func:`settle`.
        overrides: Overrides of the command line.
    """
    typed = {_key(override): override for override in overrides}
    typed["device.name"] = typed.get("device.name", typed.get("device", ""))
    if cfg.device.name == AUTO:  # any will do
        del typed["device.name"]
    lines = []
    for name in (*NUMERICS, "device.name", "device.threads"):
        asked, used = OmegaConf.select(cfg, name), OmegaConf.select(settled, name)
        if typed.get(name) and asked not in (None, AUTO, used):
            begun = format_override(name, used).replace("'", "")
            lines.append(f"{typed[name]} is not used: the run was begun with {begun}")
    return lines


def with_numerics(overrides: Sequence[str], settled: DictConfig) -> list[str]:
    """Overrides whose numerics are those that the run has."""
    return [
        format_override(_key(override), settled[_key(override)]) if _key(override) in NUMERICS else override
        for override in overrides
    ]


def check_numerics(
    kept: Mapping[str, Any], now: Mapping[str, Any], folders: Sequence[Path], cfg: DictConfig
) -> None:
    """Say that a run goes on with other numerics than it was begun with, or refuse to.

    Args:
        kept: From :func:`stored_numerics`.
        now: From :func:`numerics_of`.
        folders: The folders of all its trainings.
        cfg: Its config.

    Raises:
        RunError: It is deterministic, and ``allow_other_numerics`` is off.
    """
    differing = differences(kept, now)
    if not differing or not _has_steps(folders):
        return
    what = f"{folders[0]}: begun with other numerics than can be had here ({', '.join(differing)})"
    if kept.get("deterministic") and not cfg.allow_other_numerics:
        raise RunError(f"{what}, and deterministic=true; --allow-other-numerics resumes it anyway")
    print(printable(f"sparsebench: {what}: the result differs by rounding"), file=sys.stderr)


def differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the numerics of a run and those it goes on with, as ``name before -> now``."""
    before, after = _relevant(kept), _relevant(now)
    both = [name for name in before if name in after]
    return [f"{name} {before[name]} -> {after[name]}" for name in both if before[name] != after[name]]


def _relevant(numerics: Mapping[str, Any]) -> dict[str, Any]:
    left_out = {"threads"} if numerics.get("device") == "cuda" else set()
    return {name: value for name, value in numerics.items() if name not in left_out}


def _has_steps(folders: Sequence[Path]) -> bool:
    """Whether any step of the trainings in ``folders`` is kept, in a checkpoint or a result."""
    kept = (Checkpoint(folder, print, name) for folder in folders for name in ("checkpoint", "handover"))
    return any(one.newest.exists() or one.previous.exists() for one in kept)


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _of_earlier_version(folder: Path, origin: Mapping[str, Any]) -> Numerics:
    """The numerics that an earlier version's run.json and config.yaml tell."""
    found: Numerics = {}
    if "device" in origin:
        found["device"] = "cpu" if str(origin["device"]).endswith("cpu") else "cuda"
    found |= {name: origin[name] for name in ("ranks", "threads", "torch") if name in origin}
    try:
        cfg = OmegaConf.load(folder / schema.CONFIG)
    except FileNotFoundError:
        return found
    assert isinstance(cfg, DictConfig)
    return found | {name: bool(cfg[name]) for name in NUMERICS if name in cfg}
