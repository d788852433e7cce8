import json
import shutil
import tarfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sparsebench.cli import main
from sparsebench.config import renamed
from sparsebench.config.identity import hash_of, id_of
from sparsebench.config.open import compose_config, reopen_config
from sparsebench.errors import SettingError
from sparsebench.files import read_csv

ROOT = Path(__file__).parents[1]
ARCHIVE = ROOT / "tests" / "data" / "runs_0.1.0" / "runs.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    place = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(place, filter="data")
    return place


def opened(path):
    origin = json.loads((path / "run.json").read_text())
    training = path.name.partition("-training")[2].partition("-")[0]
    return origin, reopen_config((path / "config.yaml").read_text(), origin["choices"], int(training or 0))


def test_every_old_run_opens_under_its_old_name(old):
    folders = sorted((old / "runs").iterdir())
    for path in folders:
        origin, found = opened(path)
        assert (found.run_id, found.config_hash) == (origin["run_id"], origin["config_hash"]), path.name
        assert path.name.endswith(f"-{found.run_id}")
    methods = {read_csv(path / "summary.csv")[0]["method"] for path in folders}
    assert methods == {path.stem for path in (ROOT / "conf" / "prune").glob("*.yaml")}
    targets = {line for path in folders for line in (path / "config.yaml").read_text().split("\n")}
    assert "  _target_: sparsebench.device.Device" in targets
    assert any("sparsebench.lr_schedules." in line for line in targets)


def test_audit_finds_nothing_wrong_with_old_runs(old, capsys):
    assert main(["audit", str(old / "runs")]) == 0
    number = len(list((old / "runs").glob("digits-*")))
    assert f"{number} runs audited, 0 claims do not hold" in capsys.readouterr().out


def test_compare_reads_old_runs(old, tmp_path):
    assert main(["compare", str(old / "runs"), "--format", "csv", "-o", str(tmp_path / "table.csv")]) == 0
    methods = {row["method"] for row in read_csv(tmp_path / "table.csv")}
    assert methods >= {path.stem for path in (ROOT / "conf" / "prune").glob("*.yaml")} - {"sbp_sr"}


@pytest.mark.parametrize("method", ["dense", "dpf", "rigl", "str", "lottery"])
def test_the_command_of_an_old_run_finds_it_finished(old, method, capsys, monkeypatch):
    monkeypatch.chdir(old)
    path = sorted((old / "runs").glob(f"*-{method}-*"))[0]
    argv = json.loads((path / "run.json").read_text())["command"].replace("'", "").split()[1:]
    if method == "rigl":  # whose default was
        argv.append("schedule.interval=100it")
    if method == "str":  # which ignores it, and would refuse it now
        argv = [word for word in argv if not word.startswith("sparsity=")]
    before = {path.name for path in (old / "runs").iterdir()}
    assert main(argv) == 0
    assert "already finished" in capsys.readouterr().out
    assert {path.name for path in (old / "runs").iterdir()} - {".leases"} == before


def test_an_old_run_that_was_stopped_resumes(old, tmp_path, capsys, monkeypatch):
    shutil.copytree(old / "stopped", tmp_path / "stopped")
    monkeypatch.chdir(tmp_path)
    path = next((tmp_path / "stopped").iterdir())
    origin = json.loads((path / "run.json").read_text())
    first = read_csv(path / "metrics.csv")
    assert main(origin["command"].replace("'", "").split()[1:]) == 0
    after = json.loads((path / "run.json").read_text())
    assert after["run_id"] == origin["run_id"] and len(after["resumed"]) == 1
    assert read_csv(path / "metrics.csv")[: len(first)] == first  # not trained again
    assert read_csv(path / "summary.csv")[0]["status"] == "finished"


def test_an_old_target_on_the_command_line_works_with_a_note(tmp_path, capsys):
    argv = ["prune=dense", "device=cpu", "model=mlp", "dataset.train_samples=50", "epochs=1"]
    argv = [*argv, f"results_dir={tmp_path}"]
    assert main(["train", *argv, "lr_schedule._target_=sparsebench.lr_schedules.Multistep"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "note" in line]
    assert told == [
        "sparsebench: note: lr_schedule._target_=sparsebench.lr_schedules.Multistep is now written "
        "lr_schedule._target_=sparsebench.optim.lr_schedules.Multistep"
    ]
    assert main(["train", *argv]) == 0  # the same run, without a note
    now = capsys.readouterr()
    assert "already finished" in now.out and "note" not in now.err


def test_renamed_options_and_settings_keep_the_names_of_runs(monkeypatch, capsys):
    cfg, choices = compose_config(["prune=gmp", "allocation=erk", "clip_norm=2.0"])
    text, chosen = OmegaConf.to_yaml(cfg, resolve=True), dict(choices)
    now = reopen_config(text, chosen)
    found = {**{group: chosen[group] for group in ("allocation", "prune")}, "changed": dict(now.changed)}
    # As if conf had always said "sparser" and "largest_norm" before it said "erk" and "clip_norm".
    monkeypatch.setitem(renamed.OPTIONS, "allocation", {"sparser": "erk"})
    monkeypatch.setitem(renamed.SETTINGS, "largest_norm", "clip_norm")
    capsys.readouterr()
    again, others = compose_config(["prune=gmp", "allocation=sparser", "largest_norm=2.0"])
    assert (again, others["allocation"]) == (cfg, "erk")
    assert capsys.readouterr().err == (
        "sparsebench: note: allocation=sparser is now written allocation=erk\n"
        "sparsebench: note: largest_norm=2.0 is now written clip_norm=2.0\n"
    )
    before = reopen_config(text.replace("clip_norm:", "largest_norm:"), {**chosen, "allocation": "sparser"})
    assert before.cfg.clip_norm == 2.0 and "largest_norm" not in before.cfg
    assert before.changed == now.changed
    first = {"allocation": "sparser", "prune": "gmp", "changed": {"largest_norm": 2.0}}
    assert found["changed"] == {"clip_norm": 2.0}
    renamed_ids = id_of(found), hash_of(found)
    monkeypatch.undo()
    assert renamed_ids == (id_of(first), hash_of(first))
    with pytest.raises(SettingError, match="largest_norm"):
        compose_config(["largest_norm=2.0"])
