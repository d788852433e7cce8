"""Several ranks of ``sparsebench train``, one command after another: importing torch takes long, once is enough."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from sparsebench.cli import main
from sparsebench.paths import config_dir
from sparsebench.runs.run import complete
from tests.support.processes import PATIENCE

TOLERANCE, NORM_TOLERANCE = 2e-6, 3e-4
"""Of a weight after these few steps in fp32, where two ranks differ from one process: sums in another order.

The second is of networks with batch norm, which divides by the deviation of channels that hardly have a weight left.
"""

SHORT = ("dataset=digits", "dataset.train_samples=300", "epochs=2", "ramp_end=0.5")
MLP = (*SHORT, "model=mlp", "model.hidden=[32,16]", "batch_size=31")  # no batch norm; 31 images for two ranks
RESNET = (*SHORT, "model=resnet", "model.depth=8", "model.width=4", "prune=dpf", "schedule.interval=4it")
DPF = ("prune=dpf", "schedule.interval=4it")


def start(
    command: Sequence[str], ranks: int, environment: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """``python COMMAND`` as so many ranks, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **meet, **(environment or {}), "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]  # fmt: skip


def run(folder: Path, jobs: Sequence[Any], ranks: int = 2) -> list[tuple[list[int], str, str]]:
    """Of every rank: the exit statuses of all jobs (see :func:`train`), its output and its errors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    processes = start(["-m", "tests.support.ranks", str(folder)], ranks)
    ended = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, ended
    statuses = [json.loads((folder / f"statuses{rank}.json").read_text()) for rank in range(ranks)]
    return [(found, *said) for found, said in zip(statuses, ended, strict=True)]


def job(cfg: DictConfig, choices: dict[str, str | None], results: Path) -> dict[str, Any]:
    """A composed config as a job: composing takes longer than these runs."""
    return {"config": OmegaConf.to_yaml(cfg, resolve=True), "choices": choices, "results": str(results)}


def train(job: Any) -> int:
    """The exit status of a job: words of the command line, or what :func:`job` made."""
    if isinstance(job, list):
        return main(["train", *job])
    cfg = OmegaConf.create(job["config"])
    cfg.results_dir = job["results"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        complete(cfg, job["choices"], [])
    return 0


def runs(folder: Path, name: str, who: str) -> list[Path]:
    return sorted(path for path in (folder / name / who).glob("*-*") if path.is_dir())


def weights(path: Path) -> dict[str, Tensor]:
    """Parameters; batch statistics are of the first rank alone where they are not joint."""
    return {
        k: v
        for k, v in load_file(path / "model.safetensors").items()
        if "running" not in k and "num_b" not in k
    }


if __name__ == "__main__":
    place = Path(sys.argv[1])
    statuses = [train(todo) for todo in json.loads((place / "jobs.json").read_text())]
    (place / f"statuses{os.environ['RANK']}.json").write_text(json.dumps(statuses))
