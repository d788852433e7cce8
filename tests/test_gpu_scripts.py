"""The scripts that prepare and drive a machine with a GPU, as far as they run without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def script(*argv: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in argv]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


def pack(action: str, folder: Path, root: Path) -> subprocess.CompletedProcess[str]:
    more = ["--no-wheels"] if action == "pack" else []
    return script(
        sys.executable, ROOT / "scripts/gpu_pack.py", action, folder, *more, SPARSEBENCH_DATA=str(root)
    )


@pytest.fixture
def images(tmp_path):
    """Six files of four random records each, below a data_root."""
    folder = tmp_path / "data" / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = random.integers(0, 256, (4, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        (folder / name).write_bytes(records.tobytes())
    return folder


def test_packed_images_come_back_to_the_byte_once_both_parts_have_arrived(tmp_path, images):
    assert pack("pack", tmp_path / "parts", tmp_path / "data").returncode == 0
    there = tmp_path / "there"
    for number, said in ((1, "gpu_pack: waiting for images.2\n"), (2, "")):  # one call a part
        folder = tmp_path / f"call{number}"
        folder.mkdir()
        (tmp_path / "parts" / f"images.{number}").rename(folder / f"images.{number}")
        done = pack("unpack", folder, there)
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    for path in images.iterdir():
        assert (there / "cifar-10-batches-bin" / path.name).read_bytes() == path.read_bytes()


def test_a_damaged_part_is_refused(tmp_path, images):
    assert pack("pack", tmp_path / "parts", tmp_path / "data").returncode == 0
    part = tmp_path / "parts" / "images.2"
    data = bytearray(part.read_bytes())
    other = data.index(b"RIFF") - 1  # the label of its first image
    data[other] = (data[other] + 1) % 10
    part.write_bytes(data)
    done = pack("unpack", tmp_path / "parts", tmp_path / "there")
    assert done.returncode == 1 and "differs from the packed version" in done.stderr
    assert not (tmp_path / "there" / "cifar-10-batches-bin").exists()


def test_the_suite_continues_after_a_stage_that_fails_and_says_so_at_the_end(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$*" in *bench_select*) echo broken >&2; exit 3 ;; -c*) echo a_gpu ;; *) echo "did $*" ;; esac\n'
    )
    python.chmod(0o755)
    surroundings = {
        "PYTHON": str(python),
        "STATE": str(tmp_path / "state"),
        "SPARSEBENCH_DATA": str(tmp_path / "none"),
    }
    for _ in range(2):  # the second call does nothing again, and says the same
        done = script(ROOT / "scripts/gpu_suite.sh", "run", tmp_path / "out", **surroundings)
        assert done.returncode == 1
        assert "bench_select_a_gpu.csv failed with status 3" in done.stderr
        assert "trainings wait for it" in done.stdout
    assert (tmp_path / "out" / "tests.txt").read_text().startswith("did -m pytest -m gpu")
    assert (tmp_path / "out" / "bench_select_a_gpu.csv.err").read_text() == "broken\n"
    assert "gpu_suite: tests.txt" not in done.stdout
