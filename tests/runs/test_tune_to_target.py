from __future__ import annotations

import pytest
import yaml

from sparsebench.cli import main
from sparsebench.files import read_csv
from sparsebench.runs import tune_to_target

TINY = ("dataset=digits", "dataset.train_samples=200", "model=resnet", "model.depth=8", "model.width=4", "epochs=1",
        "device=cpu", "tune_to_target=true")  # fmt: skip


@pytest.fixture
def search(tmp_path, capsys):
    """(words) -> (status, what was printed, rows of all runs by their folder)."""

    def do(*argv):
        status = main(["train", *TINY, f"results_dir={tmp_path}", *argv])
        summaries = sorted(tmp_path.glob("*/summary.csv"))
        return status, capsys.readouterr(), {path.parent: next(iter(read_csv(path))) for path in summaries}

    return do


def test_the_search_ends_at_the_target_and_is_found_again(search, monkeypatch):
    monkeypatch.setattr(tune_to_target, "TOLERANCE", 0.02)
    status, printed, rows = search("prune=str", "sparsity=0.8")
    assert status == 0
    last = [line for line in printed.out.splitlines() if line.startswith("tune_to_target: closest")]
    assert len(last) == 1 and ", within 0.02" in last[0]
    near = [
        path for path, row in rows.items() if abs(float(row["sparsity"]) - 0.8) <= tune_to_target.TOLERANCE
    ]
    assert len(near) == 1 and 1 < len(rows) <= tune_to_target.MAX_TRIALS
    assert printed.out.splitlines()[-1].endswith(str(near[0]))  # its row is the last word
    times = {path: (path / "summary.csv").stat().st_mtime_ns for path in rows}
    status, again, rows = search("prune=str", "sparsity=0.8")
    assert status == 0 and again.out.count("already finished") == len(rows) == len(times)
    assert times == {path: (path / "summary.csv").stat().st_mtime_ns for path in rows}


def test_every_try_is_the_run_that_its_command_makes(search, monkeypatch, capsys):
    monkeypatch.setattr(tune_to_target, "MAX_TRIALS", 2)
    _, _, rows = search("prune=str", "sparsity=0.8", "seed=3")
    assert len(rows) == 2
    for path, row in rows.items():
        argv = row["command"].removeprefix("sparsebench train ").split()
        assert not any(word.startswith("tune_to_target") for word in argv)
        value = yaml.safe_load((path / "config.yaml").read_text())["prune"]["s_init"]
        assert f"prune.s_init={value}" in argv
        assert main(["train", *argv]) == 0
        assert "already finished" in capsys.readouterr().out


def test_a_search_that_does_not_get_there_says_what_is_nearest(search, monkeypatch):
    monkeypatch.setattr(tune_to_target, "MAX_TRIALS", 2)
    status, printed, rows = search("prune=str", "sparsity=0.5", "prune.s_init=-0.5")
    assert status == 0 and len(rows) == 2
    assert printed.out.count("tune_to_target: trial") == 2
    assert "not within 0.005" in printed.out


def test_a_start_outside_the_search_starts_in_its_middle(search, monkeypatch):
    monkeypatch.setattr(tune_to_target, "MAX_TRIALS", 1)
    assert "prune.s_init=-10.0" in search("prune=str", "prune.s_init=-3200.0")[1].out


def test_a_method_of_several_trainings_is_searched_too(search, monkeypatch):
    monkeypatch.setattr(tune_to_target, "MAX_TRIALS", 1)
    status, printed, rows = search("prune=continuous_sparsification", "prune.rounds=1", "prune.rewind=0it")
    assert status == 0 and len(rows) == 2  # a round and its ticket
    assert "trial 1 of at most 1, prune.s_init=0.0" in printed.out


@pytest.mark.parametrize("method", ["gmp", "dense", "topkast"])
def test_methods_with_a_target_are_refused_before_anything_is_written(search, method, tmp_path):
    status, printed, rows = search(f"prune={method}")
    assert status == 2 and not rows and not list(tmp_path.iterdir())
    assert printed.err.splitlines() == [
        f"sparsebench: error: tune_to_target=true: expected false with prune={method}, which reaches the requested "
        "sparsity by itself"
    ]
