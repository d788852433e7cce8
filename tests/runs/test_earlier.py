"""A run of the same id that was made with other defaults, code or versions is not taken for the one asked for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparsebench.cli import main
from sparsebench.files import read_csv
from sparsebench.records import provenance
from sparsebench.training.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]

TINY = ("train", "model=mlp", "model.hidden=[8]", "dataset.train_samples=100", "batch_size=50", "epochs=2",
        "device=cpu", "prune=gmp", "sparsity=0.5", "schedule.interval=1it")  # fmt: skip


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package, not under version control, whose files can be edited."""
    for name in ("sparsebench", "conf"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


def command(checkout, *more):
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-m", "sparsebench", *TINY, "results_dir=runs", *more]
    return subprocess.run(argv, cwd=checkout, env=environment, capture_output=True, text=True)


def folder(results):
    (found,) = (path for path in results.iterdir() if not path.name.startswith("."))
    return found


@pytest.mark.slow
def test_edited_defaults_and_files_are_named_until_the_run_is_made_again(checkout):
    assert command(checkout).returncode == 0
    before = (folder(checkout / "runs") / "summary.csv").read_bytes()
    edit(checkout / "conf" / "train.yaml", "label_smoothing: 0.0", "label_smoothing: 0.1")
    done = command(checkout)
    assert done.returncode == 2 and "label_smoothing=0.0, now 0.1; --redo-older" in done.stderr
    assert done.stderr.count("\n") == 1
    edit(checkout / "conf" / "train.yaml", "label_smoothing: 0.1", "label_smoothing: 0.0")
    edit(checkout / "conf" / "schedule" / "cubic.yaml", "schedules.Cubic", "schedules.Linear")
    done = command(checkout)
    assert (
        done.returncode == 2 and "schedule._target_=sparsebench.pruning.schedules.Cubic, now" in done.stderr
    )
    edit(checkout / "conf" / "schedule" / "cubic.yaml", "schedules.Linear", "schedules.Cubic")
    scores = checkout / "sparsebench" / "pruning" / "scores.py"
    edit(scores, "abs()", "neg()")
    done = command(checkout)
    assert done.returncode == 2 and "sparsebench/pruning/scores.py edited since" in done.stderr
    assert (folder(checkout / "runs") / "summary.csv").read_bytes() == before
    done = command(checkout, "--redo-older")
    assert done.returncode == 0, done.stderr
    after = read_csv(folder(checkout / "runs") / "summary.csv")[0]
    assert "redo_older" not in after["command"]
    done = command(checkout)
    assert done.returncode == 0 and "already finished" in done.stdout
    assert command(checkout, "--redo-older").stdout.count("already finished") == 1


@pytest.fixture
def finished(tmp_path):
    argv = [*TINY, f"results_dir={tmp_path}"]
    assert main(argv) == 0
    return argv, folder(tmp_path)


def change(path, **values):
    origin = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**origin, **values}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"torch": "1.0"}, "finished with torch 1.0, now "),
        ({"version": "0.0.1"}, "finished with version 0.0.1, now "),
        ({"git_commit": "0123456789abcdef", "git_dirty": False}, "finished with commit 0123456789, now "),
        ({"device": "a TPU"}, "finished with device a TPU, now "),
    ],
)
def test_another_version_or_device_alone_is_said(finished, capsys, monkeypatch, values, said):
    commit, _ = provenance.git_state()
    monkeypatch.setattr(provenance, "git_state", lambda: (commit, False))
    argv, path = finished
    change(path, **values)
    capsys.readouterr()
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and said in printed.err and "--redo-older" in printed.err
    assert "already finished" in printed.out
    assert main([*argv, "--redo-older"]) == 0
    assert ("already finished" in capsys.readouterr().out) == ("device" in values)  # no reason to do it again


def test_settings_that_are_newer_than_the_run_are_not_compared(finished, capsys):
    argv, path = finished
    text = (path / "config.yaml").read_text()
    assert "norm_weight_decay: true\n" in text
    (path / "config.yaml").write_text(text.replace("norm_weight_decay: true\n", ""))
    assert main(argv) == 0 and "already finished" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{", b"null"])
def test_a_damaged_file_is_named_or_no_difference_and_no_traceback(finished, name, content, capsys):
    argv, path = finished
    (path / name).write_bytes(content)
    capsys.readouterr()
    status, said = main(argv), capsys.readouterr()
    if name == "run.json":
        assert (
            status == 2 and "expected a run that can be read: run.json" in said.err and path.name in said.err
        )
    else:
        assert status == 0 and "already finished" in said.out


def stopped(results, *more):
    """The folder of a run that was stopped after its first checkpoint."""
    from sparsebench.training.signals import StopSignals

    class Stop(StopSignals):
        def __enter__(self):
            super().__enter__()
            self.pending = signal.SIGTERM
            return self

    argv = [*TINY, f"results_dir={results}", *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsebench.runs.run_lock.StopSignals", Stop)
        assert main(argv) == 143
    return argv, next(
        p for p in results.iterdir() if not p.name.startswith(".") and not (p / "summary.csv").exists()
    )


def test_a_checkpoint_of_another_run_is_set_aside(tmp_path, capsys):
    _, other = stopped(tmp_path / "a", "seed=1")
    argv, mine = stopped(tmp_path / "b", "seed=0")
    shutil.copy(other / "checkpoint.pt", mine / "checkpoint.pt")
    assert main(argv) == 0
    assert "checkpoint of another run" in capsys.readouterr().err
    assert main([*TINY, f"results_dir={tmp_path / 'c'}"]) == 0
    ours, fresh = (read_csv(p / "summary.csv")[0] for p in (mine, folder(tmp_path / "c")))
    assert ours["weights_hash"] == fresh["weights_hash"]
    owner = json.loads((mine / "run.json").read_text())
    assert owner["run_id"] == mine.name.rpartition("-")[2]


@pytest.mark.parametrize(
    ("state", "said"),
    [({"a": 1}, "without"), ([1, 2], "of something else"), ("wide", "of another model"), ("step", "at step 99"),
     ("pruner", "cannot be loaded")],
)  # fmt: skip
def test_a_whole_file_of_wrong_content_is_set_aside(tmp_path, capsys, state, said):
    argv, path = stopped(tmp_path)
    checkpoint = Checkpoint(path, print)
    right = checkpoint.load()
    if state == "wide":
        state = {**right, "model": {name: value[None] for name, value in right["model"].items()}}
    elif state == "step":
        state = {**right, "step": 99}
    elif state == "pruner":
        state = {**right, "pruner": {"masks": 3}}
    checkpoint.save(state)
    checkpoint.previous.unlink(missing_ok=True)
    capsys.readouterr()
    status = main(argv)
    printed = capsys.readouterr().err
    assert said in printed and "Traceback" not in printed
    if status:  # what looks right has been set aside too: the command begins anew
        assert status == 1 and main(argv) == 0
    assert (path / "checkpoint.corrupt.pt").exists() and (path / "summary.csv").exists()


def test_a_stopped_run_with_an_edited_default_is_not_resumed(tmp_path, capsys):
    argv, path = stopped(tmp_path)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("norm_weight_decay: true", "norm_weight_decay: false"))
    assert main(argv) == 2
    assert "norm_weight_decay=False, now True" in capsys.readouterr().err
    assert main([*argv, "--redo-older"]) == 0
