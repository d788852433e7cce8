"""Runs of earlier versions whose ids count numerics, or do not count ranks, are still known by them."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from sparsebench.cli import main
from sparsebench.config.compose import own_hydra
from sparsebench.config.identity import id_of, identity_in
from sparsebench.files import read_csv
from sparsebench.records.states import ResultsFolder
from tests.support.configs import train_config

ARCHIVE = Path(__file__).parent / "data" / "runs_0.1.0" / "numerics.tar.xz"
FINISHED = ("dense", "dpf", "lottery")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    place = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(place, filter="data")
    return place


@pytest.fixture
def earlier(unpacked, tmp_path, monkeypatch):
    for name in ("runs", "stopped"):
        shutil.copytree(unpacked / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(path, without=()):
    words = json.loads((path / "run.json").read_text())["command"].replace("'", "").split()[1:]
    return [word for word in words if word.split("=")[0] not in without]


def folders(place):
    return {path.name for path in place.iterdir() if not path.name.startswith(".")}


def names(place, method):
    return sorted(path for path in (place / "runs").glob(f"*-{method}-*"))


@pytest.mark.parametrize("method", FINISHED)
@pytest.mark.parametrize("without", [(), ("channels_last",), ("channels_last", "deterministic")])
def test_the_command_finds_it_finished_with_its_numerics_and_without(earlier, method, without, capsys):
    before = folders(earlier / "runs")
    assert main(command(names(earlier, method)[0], without)) == 0
    assert "already finished" in capsys.readouterr().out
    assert folders(earlier / "runs") == before


def test_a_sweep_and_status_know_them(earlier, capsys):
    argv = [word for word in command(names(earlier, "dpf")[0]) if not word.startswith("prune=")]
    assert main(["sweep", *argv[1:], "prune=dpf", "--dry-run"]) == 0
    assert "1 runs, 1 of them finished" in capsys.readouterr().out
    before = folders(earlier / "runs")
    assert main(["sweep", *argv[1:], "prune=dpf"]) == 0
    assert folders(earlier / "runs") == before
    assert main(["status", "runs"]) == 0
    assert "planned" not in capsys.readouterr().out


def test_a_stopped_one_resumes_in_its_folder_with_its_numerics(earlier, capsys):
    (path,) = (earlier / "stopped").iterdir()
    before, first = json.loads((path / "run.json").read_text()), read_csv(path / "metrics.csv")
    assert main(command(path, ("channels_last",))) == 0
    assert folders(earlier / "stopped") == {path.name}
    after = json.loads((path / "run.json").read_text())
    assert after["run_id"] == before["run_id"] and after["config_hash"] == before["config_hash"]
    assert after["numerics"]["channels_last"] is True and len(after["resumed"]) == 1
    assert read_csv(path / "metrics.csv")[: len(first)] == first  # not trained again
    (row,) = read_csv(path / "summary.csv")
    assert row["status"] == "finished" and " channels_last " in row["numerics"]
    assert main(["audit", str(path), "--no-accuracy"]) == 0


def test_audit_and_compare_read_them(earlier, capsys):
    assert main(["audit", "runs"]) == 0
    assert "6 runs audited, 0 claims do not hold" in capsys.readouterr().out
    assert main(["compare", "runs", "--format", "csv", "-o", "table.csv"]) == 0
    assert {row["method"] for row in read_csv(earlier / "table.csv")} >= {"dense", "dpf", "rigl"}


def test_a_run_of_two_ranks_is_known_to_two_ranks_only(earlier):
    (path,) = names(earlier, "rigl")
    cfg, choices = train_config(*command(path)[1:], "schedule.interval=100it")  # the default that was
    here, own = ResultsFolder(earlier / "runs"), path.name.rpartition("-")[2]
    with own_hydra():
        assert here.ranks(own) == 2 and here.ranks("0123456789") == 1
        assert id_of(identity_in(here, cfg, choices, ranks=2)) == own
        assert id_of(identity_in(here, cfg, choices, ranks=4)) != own
