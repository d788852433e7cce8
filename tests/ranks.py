"""Several ranks of ``sparsebench train``, one command after another: importing torch takes long, once is enough."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent


def start(command: Sequence[str], ranks: int) -> list[subprocess.Popen[str]]:
    """``python COMMAND`` as so many ranks, as torchrun starts them."""
    port = str(random.randint(12000, 29999))
    meet = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    path = {"PYTHONPATH": f"{HERE}:{HERE.parent}"}
    return [
        subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **meet, **path, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]  # fmt: skip


def run(folder: Path, jobs: Sequence[Sequence[str]], ranks: int = 2) -> list[tuple[list[int], str, str]]:
    """Of every rank: the exit statuses of ``sparsebench train JOB`` for every job, its output and its errors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps([list(job) for job in jobs]))
    processes = start([str(Path(__file__)), str(folder)], ranks)
    ended = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, ended
    statuses = [json.loads((folder / f"statuses{rank}.json").read_text()) for rank in range(ranks)]
    return [(found, *said) for found, said in zip(statuses, ended, strict=True)]


if __name__ == "__main__":
    from sparsebench.cli import main

    place = Path(sys.argv[1])
    statuses = [main(["train", *job]) for job in json.loads((place / "jobs.json").read_text())]
    (place / f"statuses{os.environ['RANK']}.json").write_text(json.dumps(statuses))
