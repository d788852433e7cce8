from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from sparsebench.paths import config_dir
from sparsebench.pruning.pruner import Probe
from sparsebench.theory.study import Study, Tables

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture
def hydra_config():
    """(overrides) -> (config, choices), composed as the command line composes them."""

    def make(*overrides: str):
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        del cfg.hydra
        return cfg, choices

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield make
    torch.use_deterministic_algorithms(False)


def probe(seed: int = 0) -> Probe:
    """For methods that at the start only draw."""
    generator = torch.Generator().manual_seed(seed)
    return Probe(nn.Identity(), iter, nn.CrossEntropyLoss(), generator, lambda: None)


def options(group: str) -> list[str]:
    """The options of a config group, found in its folder."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def ran(study: Study) -> Tables:
    """All tables of a theory study, through JSON as the command keeps them, with exactly the columns promised."""
    tables: Tables = {name: [] for name in study.tables}
    for point in study.points():
        found = study.rows(json.loads(json.dumps(point)), torch.device("cpu"))
        for name, rows in json.loads(json.dumps(found)).items():
            assert all(set(row) == set(study.tables[name]) for row in rows)
            tables[name] += rows
    return tables


def framed(study: Study, tables: Tables) -> dict[str, pd.DataFrame]:
    """The tables as a study's figures are given them."""
    return {name: pd.DataFrame(rows, columns=list(study.tables[name])) for name, rows in tables.items()}


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
