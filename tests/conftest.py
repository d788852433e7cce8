from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, settings

from sparsebench.paths import config_dir
from sparsebench.training.signals import STATUS
from tests.support import ROOT, composition
from tests.support.configs import train_config

torch.set_num_threads(1)
composition.remember()
# For the processes that tests start: one thread too, and the same sparsebench and tests.support.
os.environ["OMP_NUM_THREADS"] = "1"
if str(ROOT) not in (path := os.environ.get("PYTHONPATH", "").split(os.pathsep)):
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, path)])
# How long an example takes says how busy the machine is.
settings.register_profile("sparsebench", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sparsebench")


@pytest.fixture
def hydra_config():
    """(overrides) -> (config, choices), composed as the command line composes them, and Hydra ready to compose more."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield train_config


def state() -> dict[str, object]:
    """What all tests of a process share."""
    return {
        "folder": os.getcwd(), "path": list(sys.path), "threads": torch.get_num_threads(),
        "type": torch.get_default_dtype(), "device": torch.get_default_device(), "grad": torch.is_grad_enabled(),
        "signals": [signal.getsignal(getattr(signal, name)) for name in STATUS],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def alone():
    """Tests pass in any order: each starts with the same random numbers, and leaves nothing behind."""
    torch.manual_seed(0)
    before, environment = state(), dict(os.environ)
    yield
    # What a run sets for its process, which is ours here: deterministic kernels, and variables.
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)
    environment["PYTEST_CURRENT_TEST"] = os.environ["PYTEST_CURRENT_TEST"]
    if os.environ != environment:
        os.environ.clear()
        os.environ.update(environment)
    assert state() == before


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """Also in a background job of a shell, which ignores SIGINT, and so would all processes that tests start."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(scope="session")
def cifar10_root() -> Path | None:
    """A data_root that holds the real CIFAR-10, if there is one on this machine."""
    places = [os.environ.get("SPARSEBENCH_DATA"), "~/.cache/sparsebench", "~/.cache/cifar10"]
    for place in filter(None, places):
        root = Path(place).expanduser()
        if any(
            (folder / "cifar-10-batches-bin" / "test_batch.bin").is_file()
            for folder in (root, root / "cifar10")
        ):
            return root
    return None
