"""What a sweep chooses once for all its jobs: the precision, their ranks, and the threads."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from sparsebench.cli import main
from sparsebench.distributed.precision import automatic_precision
from sparsebench.files import read_csv
from sparsebench.sweeps.launchers import LocalLauncher, ranks_of_jobs

TINY = ["model=mlp", "model.hidden=[8]", "dataset.train_samples=64", "epochs=1", "device=cpu", "prune=dense"]


def test_an_automatic_precision_is_resolved_before_the_jobs(tmp_path):
    assert main(["sweep", *TINY, f"results_dir={tmp_path}", "precision=auto,bf16", "seed=0"]) == 0
    typed = automatic_precision("cpu")
    (plan,) = tmp_path.glob(".sweeps/*/plan.csv")
    planned = [row["overrides"] for row in read_csv(plan)]
    assert not [words for words in planned if "auto" in words.split("results_dir")[0]]
    assert any(f"precision={typed}" in words for words in planned)
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("*/run.json")]
    assert {run["precision"] for run in runs} == {typed, "bf16"} and len(runs) == len(planned)


def test_runs_that_differ_in_rounding_alone_are_one_run(tmp_path, capsys):
    argv = ["sweep", *TINY, f"results_dir={tmp_path}", "channels_last=true,false", "deterministic=false,true"]
    assert main([*argv, "--dry-run"]) == 0
    assert "1 runs, 0 of them finished" in capsys.readouterr().out


def test_settings_of_the_device_can_be_swept(tmp_path, capsys):
    argv = ["sweep", *TINY, f"results_dir={tmp_path}", "device.precision=fp32,bf16"]
    assert main([*argv, "--dry-run"]) == 0
    assert "2 runs" in capsys.readouterr().out


def test_jobs_of_a_cluster_have_the_ranks_of_their_request():
    def ranks(device, **launcher):
        return ranks_of_jobs(OmegaConf.create({"hydra": {"launcher": launcher}}), {"device": device})

    assert ranks("ddp", nodes=2, tasks_per_node=4) == 8 == ranks("ddp", tasks_per_node=8)
    assert ranks("auto", nodes=2, tasks_per_node=4) is None is ranks("ddp", n_jobs=4)


def test_local_jobs_get_the_threads_that_the_environment_says_or_an_equal_part(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert LocalLauncher(n_jobs=2, gpus=[]).threads == 3
    assert LocalLauncher(n_jobs=2, gpus=[], threads=5).threads == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert LocalLauncher(n_jobs=10_000, gpus=[]).threads == 1


@pytest.mark.slow
def test_local_jobs_use_and_store_their_threads(tmp_path, monkeypatch):
    argv = ["sweep", *TINY, f"results_dir={tmp_path}", "seed=0,1", "launcher=local", "launcher.n_jobs=2"]
    assert main([*argv, "launcher.threads=2"]) == 0
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("*/run.json")]
    assert [run["numerics"]["threads"] for run in runs] == [2, 2]
