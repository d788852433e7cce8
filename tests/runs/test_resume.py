"""Real processes, really killed: the same command resumes, and the result is bytewise the uninterrupted one."""

from __future__ import annotations

import pytest

from tests.support.processes import DIGITS, PATIENCE, finish, kill_when, result, start

CIFAR = ("dataset=cifar10", "model=resnet", "model.depth=8", "model.width=4", "epochs=4", "dataset.train_samples=640",
         "schedule.interval=2it", "save_every=3it", "batch_size=64")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    ["dpf", pytest.param("dense", marks=pytest.mark.nightly), pytest.param("gmp", marks=pytest.mark.nightly)],
)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(DIGITS, id="digits"),
        pytest.param(CIFAR, id="cifar10", marks=[pytest.mark.cifar10, pytest.mark.nightly]),
    ],
)
def test_kill_minus_9_twice_and_the_result_is_the_uninterrupted_one(tmp_path, method, data, cifar10_root):
    pruning = () if method == "dense" else ("sparsity=0.9",)
    argv = (*data, f"prune={method}", *pruning)
    if method == "dense":
        argv = tuple(word for word in argv if not word.startswith("schedule."))
    if data is CIFAR:
        if cifar10_root is None:
            pytest.skip("the real CIFAR-10 is not on this machine (SPARSEBENCH_DATA)")
        argv = (*argv, f"data_root={cifar10_root}")
    finish(tmp_path / "uninterrupted", *argv)
    broken = tmp_path / "broken"
    kill_when(broken, argv, lambda folder: (folder / "checkpoint.pt").exists(), delay=0.02)
    kill_when(broken, argv, lambda folder: (folder / "checkpoint.previous.pt").exists(), delay=0.11)
    finish(broken, *argv)
    expected, found = result(tmp_path / "uninterrupted"), result(broken)
    assert found == expected
    assert "checkpoint.pt" not in expected["files"]


@pytest.mark.slow
@pytest.mark.nightly
def test_kill_minus_9_within_and_between_rounds(tmp_path):
    argv = (*DIGITS, "prune=lottery", "sparsity=0.5", "prune.rounds=2", "epochs=6")
    argv = tuple(word for word in argv if not word.startswith("schedule.") and word != "epochs=8")
    finish(tmp_path / "uninterrupted", *argv)
    broken = tmp_path / "broken"
    kill_when(broken, argv, lambda folder: (folder / "checkpoint.pt").exists(), delay=0.05)
    kill_when(broken, argv, lambda folder: (folder / "summary.csv").exists(), delay=0.0)
    kill_when(
        broken,
        argv,
        lambda folder: "training1" in folder.name and (folder / "checkpoint.pt").exists(),
        delay=0.1,
    )
    finish(broken, *argv)
    for number in range(3):
        expected, found = (
            result(folder, f"*training{number}-*") for folder in (tmp_path / "uninterrupted", broken)
        )
        assert found == expected
        assert not [name for name in found["files"] if name.endswith(".pt")]


@pytest.mark.slow
@pytest.mark.nightly
def test_a_corrupt_checkpoint_is_reported_and_the_run_still_ends_the_same(tmp_path):
    argv = (*DIGITS, "prune=dpf")
    finish(tmp_path / "uninterrupted", *argv)
    broken = tmp_path / "broken"
    kill_when(broken, argv, lambda folder: (folder / "checkpoint.previous.pt").exists(), delay=0.05)
    (folder,) = broken.glob("*-*")
    newest = folder / "checkpoint.pt"
    if (
        newest.exists()
    ):  # killed between two renames it is not there, and the one before is used without a word
        newest.write_bytes(newest.read_bytes()[:-100])
    process = start(broken, *argv)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "corrupt checkpoint; renamed to checkpoint.corrupt.pt" in output
    (folder / "checkpoint.corrupt.pt").unlink()
    assert result(broken) == result(tmp_path / "uninterrupted")
