"""``channels_last=auto``: measure once per machine and network whether NHWC memory is faster."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.nn.functional import cross_entropy

from sparsebench.distributed.device import Device
from sparsebench.errors import SettingError
from sparsebench.files import write_json
from sparsebench.paths import expanded
from sparsebench.records.provenance import machine
from sparsebench.runs.build import network

ROUNDS, WARM_UP = 5, 2
"""Measured pairs of steps, of which the fastest of each kind counts, and those before them."""


def channels_last_is_faster(cfg: DictConfig) -> bool:
    """Whether a training step of the network of ``cfg`` is faster with channels_last; on the main rank.

    Measured with forward and backward passes of one batch, alternating, and remembered by hardware, version of
    PyTorch, network and shape in :func:`remembered`. The global random state is as before.

    Args:
        cfg: The config, whose ``channels_last`` is to be chosen.
    """
    plain = OmegaConf.merge(cfg, {"channels_last": False})
    assert isinstance(plain, DictConfig)
    random = torch.get_rng_state()
    try:
        net = network(plain)
        device, shape = net.device, (min(int(cfg.batch_size), 128), *net.dataset.train_shape)
        key = " ".join(map(str, (device.label, machine()["host"], torch.get_num_threads(), torch.__version__,
                                 cfg.precision, net.model.name, *shape)))  # fmt: skip
        place = remembered()
        known = _read(place)
        if key not in known:
            inputs = torch.randn(shape, device=device.torch_device)
            targets = torch.zeros(shape[0], dtype=torch.int64, device=device.torch_device)
            known[key] = _faster(device, net.model, inputs, targets)
            with suppress(OSError):  # measured again next time
                if place is not None:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    write_json(place, known)
        return bool(known[key])
    finally:
        torch.set_rng_state(random)


def remembered() -> Path | None:
    """The file of earlier measurements, in the user's cache folder; ``None`` if this user has no home folder."""
    try:
        cache = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except SettingError:
        return None
    return cache / "sparsebench" / "channels_last.json"


def _faster(device: Device, model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> bool:
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(WARM_UP + ROUNDS):
        for last in seconds:
            layout = torch.channels_last if last else torch.contiguous_format
            model.to(memory_format=layout)
            batch = inputs.to(memory_format=layout)
            _wait(device)
            start = time.perf_counter()
            with device.autocast():
                loss = cross_entropy(model(batch), targets)
            loss.backward()
            _wait(device)
            if number >= WARM_UP:
                seconds[last].append(time.perf_counter() - start)
            model.zero_grad(set_to_none=True)
    return min(seconds[True]) < min(seconds[False])


def _wait(device: Device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _read(path: Path | None) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
