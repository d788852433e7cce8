"""Several runs in one process: each ends as it does alone, and one that fails does not disturb the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sparsebench.cli import main
from sparsebench.files import read_csv
from sparsebench.paths import options
from sparsebench.pruning.methods.dpf import DPF
from sparsebench.records.lease import holders
from sparsebench.records.states import states
from sparsebench.sweeps.packed import Job, Pack, refuse_unsuitable
from sparsebench.training.checkpoint import Checkpoint
from sparsebench.training.signals import Interrupted
from tests.support.configs import train_config
from tests.support.processes import PATIENCE, result, until

SMALL = (
    "dataset=digits",
    "dataset.train_samples=300",
    "batch_size=32",
    "device=cpu",
    "save_every=7it",
    "eval_every=9it",
)
THIN = ("model=resnet", "model.depth=8", "model.width=4", "schedule.interval=4it")
DIFFERENT = {
    "dropout": (
        "model=wide_resnet",
        "model.depth=10",
        "model.width=1",
        "model.dropout=0.3",
        "prune=dense",
        "epochs=3",
    ),
    "mixup": (*THIN, "prune=dpf", "mixup=0.3", "epochs=3"),
    "dsr": (*THIN, "prune=dsr", "epochs=3"),
    "longer": (*THIN, "prune=rigl", "epochs=6"),
}


def pack(folder: Path, runs: list[tuple[str, ...]], at_once: int | None) -> Pack:
    """Runs as the launcher composes them; their results go to a folder each, below ``folder``."""
    folder.mkdir(exist_ok=True)
    jobs = []
    for number, settings in enumerate(runs):
        overrides = [*SMALL, *settings, f"results_dir={folder / 'runs'}", "wait=false"]
        jobs.append(Job(number, *train_config(*overrides), overrides))
    return Pack(jobs, at_once, folder)


def alone(folder: Path, settings: tuple[str, ...]) -> dict[str, object]:
    assert main(["train", *SMALL, *settings, f"results_dir={folder}"]) == 0
    return result(folder)


def results(folder: Path) -> dict[str, dict[str, object]]:
    return {path.name: result(folder, path.name) for path in folder.glob("*-*") if path.is_dir()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, dict[str, object]]:
    """What the different runs leave, each trained alone: name of its folder -> its result."""
    found = {}
    for name, settings in DIFFERENT.items():
        folder = tmp_path_factory.mktemp(name)
        alone(folder, settings)
        found |= results(folder)
    return found


def test_different_runs_end_in_one_process_as_each_does_alone(tmp_path, expected, hydra_config):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    pack(tmp_path, list(DIFFERENT.values()), at_once=3).train()
    assert results(tmp_path / "runs") == expected
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    said = [(tmp_path / f"{number}.log").read_text() for number in range(4)]
    assert all(text.count("results    ") == 1 for text in said)  # each its own


def test_a_signal_stops_all_runs_after_saving_and_they_resume_to_the_bit(tmp_path, expected, hydra_config):
    stopping = pack(tmp_path, list(DIFFERENT.values()), at_once=4)
    advance, steps = stopping._advance, Counter()

    def advance_and_stop(member):
        advance(member)
        steps[member.job.number] += 1
        if steps.total() == 50:
            os.kill(os.getpid(), signal.SIGTERM)

    stopping._advance = advance_and_stop
    with pytest.raises(Interrupted, match="SIGTERM"):
        stopping.train()
    assert set(steps.values()) == {13, 12} or set(steps.values()) == {13, 14}  # in turn
    assert {run.state for run in states(tmp_path / "runs")} == {"interrupted"}
    assert len(list((tmp_path / "runs").glob("*/checkpoint.pt"))) == 4
    pack(tmp_path, list(DIFFERENT.values()), at_once=2).train()
    assert results(tmp_path / "runs") == expected


def test_checkpoints_of_a_pack_are_those_of_the_runs_alone(tmp_path, hydra_config):
    folders = {}
    for way in ("alone", "packed"):
        made = pack(tmp_path / way, list(DIFFERENT.values()), at_once=4 if way == "packed" else 1)
        advance, steps = made._advance, Counter()

        def leave_at_20(member, made=made, advance=advance, steps=steps):
            advance(member)
            steps[member.job.number] += 1
            if steps[member.job.number] == 20:  # after the checkpoint of step 14
                made.members.remove(member)
                member.close()

        made._advance = leave_at_20
        made.train()
        folders[way] = {path.name: path for path in (tmp_path / way / "runs").glob("*-*")}
    assert folders["alone"].keys() == folders["packed"].keys() and len(folders["alone"]) == 4
    for name, folder in folders["alone"].items():
        ours, theirs = (Checkpoint(path, pytest.fail).load() for path in (folder, folders["packed"][name]))
        ours, theirs = tensors(ours), tensors(theirs)
        assert ours.keys() == theirs.keys() and len(ours) > 50
        assert [key for key, value in ours.items() if not torch.equal(value, theirs[key])] == []


def tensors(state, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, those of the generators included, by their place."""
    if isinstance(state, torch.Tensor):
        return {name: state}
    parts = (
        state.items()
        if isinstance(state, dict)
        else enumerate(state)
        if isinstance(state, (list, tuple))
        else ()
    )
    return {place: value for key, part in parts for place, value in tensors(part, f"{name}.{key}").items()}


class Failing(DPF):
    """Finds no memory at step 3, once."""

    memory = "enough"

    def before_forward(self, step):
        if step == 3 and Failing.memory == "too little":
            Failing.memory = "enough"
            raise torch.OutOfMemoryError("CUDA out of memory")
        super().before_forward(step)


class Raising(DPF):
    """Raises at step 5."""

    def before_forward(self, step):
        if step == 5:
            raise ZeroDivisionError("a bug of a method")
        super().before_forward(step)


def test_a_run_that_fails_stops_alone(tmp_path, expected, hydra_config, capsys):
    raising = (*DIFFERENT["mixup"], f"prune._target_={__name__}.Raising", "seed=7")
    diverging = (*DIFFERENT["mixup"], "optimizer.lr=1e30", "seed=8")
    pack(tmp_path, [raising, DIFFERENT["dsr"], diverging, DIFFERENT["longer"]], at_once=4).train()
    found = {run.state: run for run in states(tmp_path / "runs")}
    assert Counter(run.state for run in states(tmp_path / "runs")) == {
        "finished": 2,
        "failed": 1,
        "diverged": 1,
    }
    assert "a bug of a method" in found["failed"].error
    finished = {
        name: each for name, each in results_of_finished(tmp_path / "runs").items() if name in expected
    }
    assert finished == {name: expected[name] for name in finished} and len(finished) == 2
    assert "ZeroDivisionError" in (tmp_path / "0.log").read_text()
    assert not capsys.readouterr().out


def results_of_finished(folder: Path) -> dict[str, dict[str, object]]:
    return {p.parent.name: result(folder, p.parent.name) for p in folder.glob("*/model.safetensors")}


def test_without_memory_the_pack_shrinks_and_goes_on(tmp_path, hydra_config, capsys):
    settings = (*DIFFERENT["mixup"], f"prune._target_={__name__}.Failing")
    pack(tmp_path / "alone", [settings], at_once=1).train()
    (expected,) = results(tmp_path / "alone/runs").values()
    Failing.memory = "too little"
    shrinking = pack(tmp_path / "packed", [DIFFERENT["dsr"], settings], at_once=2)
    shrinking.train()
    assert Failing.memory == "enough" and shrinking.limit == 1
    assert capsys.readouterr().err == "sparsebench: out of memory: 1 runs at once from here on\n"
    (folder,) = (tmp_path / "packed/runs").glob("*dpf*")
    assert result(tmp_path / "packed/runs", folder.name) == expected


def test_a_run_that_finds_no_memory_alone_fails(tmp_path, hydra_config, capsys):
    Failing.memory = "too little"
    pack(tmp_path, [(*DIFFERENT["mixup"], f"prune._target_={__name__}.Failing")], at_once=1).train()
    assert "out of memory, alone" in capsys.readouterr().err
    (run,) = states(tmp_path / "runs")
    assert run.state == "failed" and "CUDA out of memory" in run.error


def test_by_default_the_pack_grows_as_long_as_that_pays(tmp_path, hydra_config, monkeypatch, capsys):
    now, images = (
        [0.0],
        {1: 100.0, 2: 190.0, 4: 195.0},
    )  # images per second of a step in turn, by runs at once
    growing = pack(tmp_path, [(*DIFFERENT["mixup"], f"seed={seed}") for seed in range(6)], at_once=None)
    monkeypatch.setattr("sparsebench.sweeps.packed.time.monotonic", lambda: now[0])
    largest = []

    def advance(member):
        member.progress = member.progress or Stub()
        member.progress.steps += 1
        member.progress.samples += 32
        now[0] += 32 / images[len(growing.members)]
        largest.append(len(growing.members))
        if now[0] > 60:
            images[len(growing.members) - 1] = 1.0
            growing.members.remove(member)
            member.close()
            growing.waiting.clear()

    growing._advance = advance
    growing.train()
    assert max(largest) == 4 and growing.limit == 4
    assert "no more runs at once: 4 at once make 195 images/s, 2 made 190" in capsys.readouterr().err


class Stub:
    """Progress of a run that takes no time."""

    steps = samples = 0


@pytest.mark.parametrize("dataset", options("dataset"))
def test_only_data_sets_in_memory_are_packed(dataset):
    from sparsebench.errors import SettingError

    cfg, choices = train_config(f"dataset={dataset}")
    if dataset not in ("imagenet", "imagefolder"):
        refuse_unsuitable(cfg, choices)
        return
    with pytest.raises(SettingError, match=f"dataset={dataset}.*in memory with launcher=packed"):
        refuse_unsuitable(cfg, choices)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["launcher.runs=0"], "launcher.runs=0: expected an integer in [1, 1024], or null"),
        (["device=ddp"], "device=ddp: expected auto, cpu or cuda with launcher=packed"),
        (["dataset=imagenet", "data_root=/nowhere"], "dataset=imagenet: expected a data set in memory"),
    ],
)
def test_what_cannot_be_packed_is_refused_before_anything_is_trained(tmp_path, capsys, argv, said):
    argv = ["prune=dense,dpf", "launcher=packed", *argv, f"results_dir={tmp_path / 'runs'}"]
    assert main(["sweep", *argv]) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*-*"))


@pytest.mark.slow
def test_a_sweep_that_is_killed_in_the_middle_ends_as_the_runs_alone(tmp_path, expected):
    grids = [dict(setting.split("=", 1) for setting in settings) for settings in DIFFERENT.values()]
    (tmp_path / "conf/experiment").mkdir(parents=True)
    content = {
        "hydra": {"sweeper": {"grids": [{k: yaml.safe_load(v) for k, v in grid.items()} for grid in grids]}}
    }
    text = "# @package _global_\n# Four runs.\n" + yaml.safe_dump(content)
    (tmp_path / "conf/experiment/four.yaml").write_text(text)
    folder = tmp_path / "runs"
    command = [sys.executable, "-m", "sparsebench", "sweep", f"--config-dir={tmp_path / 'conf'}", "experiment=four",
               "launcher=packed", "launcher.runs=3", *SMALL, f"results_dir={folder}"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(
            lambda: len(list(folder.glob("*/checkpoint.previous.pt"))) >= 3 or process.poll() is not None,
            "runs",
        )
        held = holders(folder / ".state") or holders(folder / ".sparsebench")
        assert process.poll() is None, process.communicate()[0]
    finally:
        process.kill()
        process.communicate()
    assert len({json.dumps(str(holder)) for holder in held.values()}) >= 1
    assert not list(folder.glob("*/summary.csv")) or len(list(folder.glob("*/summary.csv"))) < 4
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(folder)
    assert found == expected
    assert all(read_csv(path)[0]["status"] == "finished" for path in folder.glob("*/summary.csv"))
