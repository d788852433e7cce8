"""``sparsebench train`` as a process, which may be killed, and what a run leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsebench.files import read_csv
from sparsebench.records.schema import MEASURED_COLUMNS

DIGITS = (
    "dataset=digits",
    "model=resnet",
    "model.depth=8",
    "epochs=8",
    "schedule.interval=4it",
    "save_every=7it",
)


PATIENCE = 600
"""Seconds. What a test waits for comes some time: a machine that is busy is no failure."""


@contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen]:
    """The process of ``sparsebench WORDS``, which does not outlive the block, whatever fails in it."""
    command = [sys.executable, "-m", "sparsebench", *argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(what, reason: str) -> None:
    """Wait for ``what()``."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain for {reason}"
        time.sleep(0.01)


def start(results: Path, *argv: str) -> subprocess.Popen:
    device = () if any(word.startswith("device=") for word in argv) else ("device=cpu",)
    command = [sys.executable, "-m", "sparsebench", "train", *device, *argv, f"results_dir={results}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(results: Path, *argv: str) -> None:
    process = start(results, *argv)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output


def result(results: Path, name: str = "*-*") -> dict[str, object]:
    (folder,) = [path for path in results.glob(name) if path.is_dir()]
    (summary,) = read_csv(folder / "summary.csv")
    return {
        "summary": {k: v for k, v in summary.items() if k not in MEASURED_COLUMNS},
        "metrics": [
            {k: v for k, v in r.items() if k not in MEASURED_COLUMNS}
            for r in read_csv(folder / "metrics.csv")
        ],
        "layers": (folder / "layers.csv").read_bytes(),
        "model": (folder / "model.safetensors").read_bytes(),
        "files": sorted(path.name for path in folder.iterdir()),
    }


def kill_when(results: Path, argv: tuple[str, ...], ready, delay: float) -> None:
    """Start the run, and kill -9 it ``delay`` seconds after ``ready(folder)``."""
    process = start(results, *argv)
    try:
        until(
            lambda: process.poll() is not None or any(ready(folder) for folder in results.glob("*-*")),
            "the moment to kill the run",
        )
        time.sleep(delay)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
