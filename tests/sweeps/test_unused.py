"""Sweeps over settings that only some of the runs use, or have."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from sparsebench.cli import main
from sparsebench.files import read_csv
from sparsebench.paths import options
from sparsebench.records.settings import words
from tests.support import ROOT

TINY = (
    "model=mlp",
    "model.hidden=[8]",
    "dataset.train_samples=200",
    "batch_size=20",
    "epochs=1",
    "device=cpu",
)
PLANNED = json.loads((ROOT / "tests" / "data" / "planned_runs.json").read_text())
"""Sweeps of the README, docs and conf/experiment -> the ids that they planned before unused settings were left out."""


def planned(text):
    return [line.split(None, 1)[1] for line in text.splitlines() if line.startswith("planned")]


def test_cells_that_differ_in_unused_settings_are_one_run_whose_command_train_takes(tmp_path, capsys):
    argv = [*TINY, "prune=dense,snip,dpf", "sparsity=0.8,0.9", "schedule.interval=1it,2it"]
    assert main(["sweep", *argv, f"results_dir={tmp_path}"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "dense ignores sparsity, schedule.interval: 1 run instead of 4" in said
    assert "snip ignores schedule.interval: 2 runs instead of 4" in said
    rows = [row for path in tmp_path.glob("*/summary.csv") for row in read_csv(path)]
    assert len(rows) == 1 + 2 + 4
    for row in rows:
        settings = {word.partition("=")[0] for word in words(row["command"])}
        assert ("schedule.interval" in settings) == (row["method"] == "dpf")
        assert ("sparsity" in settings) == (row["method"] != "dense")
        assert main(shlex.split(row["command"])[1:]) == 0 and "already finished" in capsys.readouterr().out


def test_a_setting_that_no_cell_uses_is_refused(tmp_path, capsys):
    argv = [*TINY, "prune=snip,dense", "schedule.interval=1it,2it", f"results_dir={tmp_path / 'runs'}"]
    assert main(["sweep", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("sparsebench: error: schedule.interval=1it,2it: prune=") and "is used by dpf" in line
    )
    assert not list(tmp_path.iterdir())


def test_of_an_experiment_what_the_grids_set_is_never_refused(tmp_path, capsys):
    argv = ["experiment=sanity_checks", "scale=smoke", "prune=dense", f"results_dir={tmp_path}", "--dry-run"]
    assert main(["sweep", *argv]) == 0
    assert "dense ignores" in (said := capsys.readouterr().out) and len(planned(said)) == 1
    assert main(["sweep", *argv, "sparsity=0.9"]) == 2


def test_a_setting_that_only_some_cells_have_is_set_there_if_asked(tmp_path, capsys):
    argv = ["model=mlp,resnet", "model.depth=8,14", "prune=dense", "device=cpu", f"results_dir={tmp_path}"]
    assert main(["sweep", *argv, "--dry-run"]) == 2
    assert capsys.readouterr().err == (
        "sparsebench: error: model.depth=8: expected a setting that all runs have: it exists for model=resnet and not "
        "for model=mlp. Add --where-it-exists to set it where it exists, or sweep twice: model=resnet with "
        "model.depth, and model=mlp without\n"
    )
    assert main(["sweep", *argv, "--dry-run", "--where-it-exists"]) == 0
    rows = planned(capsys.readouterr().out)
    assert [re.findall(r"model\S*", row) for row in rows] == [
        ["model=mlp"], ["model=resnet", "model.depth=8"], ["model=resnet", "model.depth=14"]
    ]  # fmt: skip
    for model in ("mlp", "mlp,lenet"):
        argv[0] = f"model={model}"
        assert main(["sweep", *argv, "--dry-run", "--where-it-exists"]) == 2
        named = f"model.depth exists for model=resnet, vgg, wide_resnet; chosen was {model}"
        assert named in capsys.readouterr().err


def test_a_hint_names_settings_of_a_sweep(capsys):
    assert main(["sweep", "prune=dense", "retires=1"]) == 2
    assert "did you mean 'retries'?" in capsys.readouterr().err


def test_every_experiment_has_a_snapshot():
    assert {f"experiment={name}" for name in options("experiment")} <= PLANNED.keys()


@pytest.mark.slow
@pytest.mark.parametrize("command", PLANNED)
def test_shipped_sweeps_plan_the_runs_that_they_always_did(command, tmp_path, monkeypatch):
    from sparsebench.sweeps import scheduler, sweeper

    plans = []

    class Noted(scheduler.Scheduler):
        def __init__(self, runs, *others):
            plans.append(sorted(run.run_id for run in runs))
            super().__init__(runs, *others)

    monkeypatch.setattr(sweeper, "Scheduler", Noted)
    monkeypatch.setattr(sweeper, "Estimate", Free)
    argv = [word for word in shlex.split(command) if word != "--dry-run"]
    assert main(["sweep", *argv, "--dry-run", "device=cpu", f"results_dir={tmp_path}"]) == 0
    assert plans == [PLANNED[command].split()]


class Free:
    """An estimate that builds nothing."""

    def add(self, *_):
        pass

    def __str__(self):
        return ""
