"""Every study: its config, its contract, and the command that runs it."""

from __future__ import annotations

import csv
import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from sparsebench.cli import main
from sparsebench.config.build import build
from sparsebench.config.catalog import entries
from sparsebench.config.compose import STUDY
from sparsebench.config.identity import study_id
from sparsebench.config.open import validate_study
from sparsebench.paths import config_dir
from sparsebench.theory.overparam_prune_network import OverparamPruneNetwork
from sparsebench.theory.study import Draws, below, close, mean_and_error, near
from tests.support.configs import options

STUDIES = options("theory")
CPU = torch.device("cpu")
SMALL = (
    "study=overparam_prune_network",
    "study.images=400",
    "study.seeds=3",
    "study.draws=3",
    "study.n=30",
    "study.keep=8",
    "study.features=[8,60]",
)
"""A study of a second."""


@pytest.fixture
def composed():
    """(study, overrides) -> (config, choices), composed as the command line composes them."""

    def make(name: str, *overrides: str):
        cfg = compose("theory", overrides=[f"{STUDY}={name}", *overrides], return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        del cfg.hydra
        return cfg, choices

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield make


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_built_from_its_file_and_keeps_the_contract(composed, name):
    cfg, choices = composed(name)
    validate_study(cfg, choices)
    study = build(cfg.study, "study")
    assert {field.name for field in fields(study)} == set(cfg.study) - {"_target_"}
    assert next(iter(study.tables)) == name
    points = study.points()
    assert points == json.loads(json.dumps(points)), "grid points are texts, numbers and lists of them"
    assert len({json.dumps(point, sort_keys=True) for point in points}) == len(points)
    (entry,) = (entry for entry in entries("theory") if entry.name == name)
    assert entry.description
    assert entry.reference


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_figures(name):
    assert (config_dir().parent / "sparsebench" / "report" / "studies" / f"{name}.py").is_file()


def test_another_setting_is_another_study_and_another_place_is_not(composed):
    name = study_id(*composed("overparam_prune"))
    assert study_id(*composed("overparam_prune", "study.seed=1")) != name
    assert study_id(*composed("overparam_prune", "results_dir=elsewhere", "wait=false")) == name


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run(*argv):
    return main(["theory", *SMALL, *argv])


def test_a_study_writes_tables_checks_figures_and_where_they_come_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run() == 0
    (folder,) = (tmp_path / "results/theory").glob("*-*")
    said = capsys.readouterr().out
    rows = read(folder / "overparam_prune_network.csv")
    assert {row["p"] for row in rows} == {"8", "60"}
    assert read(folder / "networks.csv") == []
    checks = read(folder / "summary.csv")
    columns = "study,check,case,predicted,measured,standard_error,deviation,tolerance,passed"
    assert list(checks[0]) == columns.split(",")
    passed = sum(check["passed"] == "True" for check in checks)
    assert f"{passed} of {len(checks)} checks passed" in said
    assert said.count("failed: ") == len(checks) - passed
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg"}
    assert (folder / "figures/networks.png").read_bytes()[:4] == b"\x89PNG"
    origin = json.loads((folder / "study.json").read_text())
    assert origin["command"].startswith("sparsebench theory study=overparam_prune_network study.images=400 ")
    assert "Double Descent" in origin["paper"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["study"]["seeds"] == 3
    assert not list(folder.glob(".points"))

    assert run() == 0
    assert "already finished; nothing done" in capsys.readouterr().out
    assert main(["report", "results"]) == 0
    page = (tmp_path / "results/report/index.html").read_text()
    assert f"{passed} of {len(checks)} passed" in page
    assert page.count("<figure>") == 1
    assert main(["collect", "results", "-o", "table.csv"]) == 2, "a study is not a run"


@pytest.mark.slow
@pytest.mark.nightly
def test_a_report_has_runs_and_studies_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["model=mlp", "prune=dense", "epochs=1", "dataset.train_samples=100", "results_dir=results/runs"]
    assert main(["train", *argv]) == 0
    assert run() == 0
    assert main(["report", "results"]) == 0
    assert "1 theory study, 1 of 1 runs count" in capsys.readouterr().err
    page = (tmp_path / "results/report/index.html").read_text()
    assert "Theory: overparam_prune_network" in page and 'id="means"' in page


def test_an_interrupted_study_computes_what_is_left_and_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, computed = OverparamPruneNetwork.rows, []

    def interrupted(study, point, device):
        computed.append(point["p"])
        if len(computed) == 2:
            raise KeyboardInterrupt
        return rows(study, point, device)

    monkeypatch.setattr(OverparamPruneNetwork, "rows", interrupted)
    assert run("study.features=[8,16,60]", "results_dir=cut") == 130
    assert not list(tmp_path.glob("cut/*/summary.csv"))
    assert run("study.features=[8,16,60]", "results_dir=cut") == 0
    assert computed == [8, 16, 16, 60]
    assert run("study.features=[8,16,60]", "results_dir=whole") == 0
    (cut,), (whole,) = tmp_path.glob("cut/*-*"), tmp_path.glob("whole/*-*")
    for name in ("overparam_prune_network.csv", "summary.csv", "figures/networks.svg"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


COMMAND = [sys.executable, "-m", "sparsebench", "theory", *SMALL]


@pytest.mark.slow
@pytest.mark.nightly
def test_a_killed_study_resumes_to_the_same_bytes(tmp_path):
    quiet = {"stdout": subprocess.DEVNULL}
    more = "study.features=[" + ",".join(str(p) for p in range(31, 61)) + "]"
    with subprocess.Popen([*COMMAND, more, "results_dir=cut"], cwd=tmp_path, **quiet) as process:
        while len(done := list(tmp_path.glob("cut/*/.points/*.json"))) < 5:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not list(tmp_path.glob("cut/*/summary.csv"))
    kept = {path: path.stat().st_mtime_ns for path in done}
    with subprocess.Popen([*COMMAND, more, "results_dir=cut"], cwd=tmp_path, **quiet) as process:
        while not list(tmp_path.glob("cut/*/overparam_prune_network.csv")):
            assert process.poll() in (None, 0)
            assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if path.exists())
            time.sleep(0.02)
        assert process.wait() == 0
    subprocess.run([*COMMAND, more, "results_dir=whole"], cwd=tmp_path, check=True, **quiet)
    (cut,), (whole,) = tmp_path.glob("cut/*-*"), tmp_path.glob("whole/*-*")
    for path in whole.rglob("*"):
        if path.is_file() and path.name not in ("study.json", "config.yaml"):
            assert (cut / path.relative_to(whole)).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_sweep_runs_a_study_for_every_combination(tmp_path, monkeypatch, launcher):
    monkeypatch.chdir(tmp_path)
    argv = ["sweep", *SMALL, "study.seed=0,1", "results_dir=swept", f"launcher={launcher}"]
    assert main(argv) == 0
    folders = sorted(tmp_path.glob("swept/overparam_prune_network-*"))
    assert {yaml.safe_load((f / "config.yaml").read_text())["study"]["seed"] for f in folders} == {0, 1}
    assert all((folder / "summary.csv").is_file() for folder in folders)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "study: expected one of "),
        (["study=overparam_prun"], "did you mean 'overparam_prune'?"),
        (["study=overparam_prune", "study.sedes=3"], "study.sedes=3: expected an existing setting"),
        (["study=overparam_prune", "study.seeds=many"], "study.seeds=many: expected an integer"),
        (["study=overparam_prune", "study.seeds=1"], "study.seeds=1: expected an integer in [2, 100000]"),
        (["study=overparam_prune", "device=tpu"], "device=tpu: expected one of auto, cpu, cuda"),
        (["study=overparam_prune", "device=ddp"], "device=ddp: expected auto, cpu or cuda"),
        (["study=overparam_prune", "threads=0"], "threads=0: expected an integer in [1, 1024]"),
        (["study=overparam_prune", "epochs=3"], "epochs=3: expected an existing setting"),
    ],
)
def test_bad_settings_are_one_line_and_write_nothing(tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    assert main(["theory", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_failed_check_is_shown_and_is_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sparsebench.theory.study.ERRORS", -100.0)
    assert run() == 0
    assert "  failed: risk on features of images, none, p=60" in capsys.readouterr().out
    assert main(["report", "results"]) == 0
    assert '<tr class="failed">' in (tmp_path / "results/report/index.html").read_text()


def test_a_check_passes_within_its_tolerance_and_its_errors_and_a_nan_never():
    assert close("risk", "", 2.0, 2.05, 0.02).passed is False
    assert close("risk", "", 2.0, 2.05, 0.02, 0.003).passed is True  # 0.04 + 3.5 * 0.003 >= 0.05
    assert close("risk", "", 2.0, 2.05, 0.02).deviation == pytest.approx(0.025)
    assert close("risk", "", 2.0, math.nan, 0.5).passed is False
    assert close("risk", "", 2.0, 2.0, 0.5, math.nan).passed is False
    assert near("bias", "", 0.0, 0.1, 0.1).passed is True
    assert near("bias", "", 0.0, 0.1, 0.05).passed is False
    assert below("loss", "", 1.0, 1.0).passed is True
    assert below("loss", "", 1.0, 1.1).deviation == pytest.approx(0.1)


def test_the_mean_has_the_error_of_its_samples():
    mean, error = mean_and_error(torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64))
    assert (mean, error) == (3.0, pytest.approx(math.sqrt(14 / 3) / 2))


def test_random_numbers_depend_on_the_seed_and_the_grid_point_alone():
    first = Draws(0, {"p": 3}, CPU).normal(4)
    torch.manual_seed(5)
    assert torch.equal(Draws(0, {"p": 3}, CPU).normal(4), first)
    assert not torch.equal(Draws(1, {"p": 3}, CPU).normal(4), first)
    assert not torch.equal(Draws(0, {"p": 4}, CPU).normal(4), first)
    assert first.dtype == torch.float64


@pytest.mark.parametrize("name", STUDIES)
def test_every_table_of_every_study_is_explained(composed, name):
    """In results/README.md, or in its docstring: a study is new files, and edits none."""
    study = build(composed(name)[0].study, "study")
    text = (config_dir().parent / "results/README.md").read_text()
    explained = text.partition("## Theory studies")[2].partition("## reference/")[0] + (study.__doc__ or "")
    assert set(study.tables) <= set(re.findall(r"`(\w+)`", explained))


def test_a_study_of_edited_code_is_not_taken_for_this_one_until_it_is_made_again(
    tmp_path, capsys, monkeypatch
):
    argv = ["theory", *SMALL, f"results_dir={tmp_path}"]
    assert main(argv) == 0
    (folder,) = (path for path in tmp_path.iterdir() if not path.name.startswith("."))
    origin = json.loads((folder / "study.json").read_text())
    assert "theory/study.py" in origin["code"] and "redo_older" not in origin["command"]
    edited = {**origin, "code": {**origin["code"], "theory/study.py": "another"}}
    (folder / "study.json").write_text(json.dumps(edited))
    capsys.readouterr()
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "sparsebench/theory/study.py edited since; --redo-older" in said and said.count("\n") == 1
    assert main([*argv, "--redo-older"]) == 0 and main(argv) == 0
    assert "already finished" in capsys.readouterr().out
    assert "redo_older" not in json.loads((folder / "study.json").read_text())["command"]
    (folder / "study.json").write_text(json.dumps({**origin, "version": "0.0.1"}))
    assert main(argv) == 0
    assert "finished with version 0.0.1, now " in capsys.readouterr().err
