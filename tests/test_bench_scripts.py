"""The arithmetic of the scripts that measure, and that they run; never what they measure."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys

import pytest

from tests.support import ROOT


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_ratio_counts_updates_with_their_frequency():
    bench = script("bench_step")
    blocks = [(bench.Block(1.1, [3.1]), 1.0), (bench.Block(2.0, []), 2.0), (bench.Block(1.2, [2.2]), 1.0)]
    assert bench.ratio(blocks, 0.0) == pytest.approx(1.1)
    assert bench.ratio(blocks, 1 / 16) == pytest.approx(1.1 + (2.0 + 1.0) / 2 / 16)
    low, high = bench.interval(blocks, 0.0)
    assert (low, high) == (pytest.approx(1.0), pytest.approx(1.2)), (
        "three blocks say no more than their range"
    )
    assert bench.interval([(bench.Block(1.5, []), 1.0)] * 4, 0.5) == (1.5, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpf", "ste"])  # the latter updates its masks at every step
def test_step_times_are_a_row_per_method(method):
    argv = ("model=mlp", "--methods", method, "--images", "64", "--batch-size", "8", "--steps", "8")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/bench_step.py", *argv], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["method"] for row in rows] == ["dense", method]
    assert list(rows[0]) == [
        *("method", "step_ms", "update_ms", "ratio_to_dense", "low", "high", "blocks", "block_steps")
    ]
    assert (rows[1]["blocks"], rows[1]["block_steps"]) == ("2", "4")
    assert float(rows[1]["low"]) <= float(rows[1]["high"])


@pytest.mark.slow
def test_a_mask_update_is_its_parts():
    argv = ("--model", "squeezenet1_1", "--repeats", "3")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/bench_mask_update.py", *argv], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = {row["part"]: row for row in csv.DictReader(done.stdout.splitlines())}
    assert list(rows) == ["abs_max", "score", "allocation", "set_masks", "project", "update"]
    assert float(rows["abs_max"]["ratio"]) == 1.0
    assert all(
        float(row["ratio_low"]) <= float(row["ratio"]) <= float(row["ratio_high"]) for row in rows.values()
    )
