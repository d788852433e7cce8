"""Merging folders that hold the same runs: equal to the bit, made again with other numerics, or contradicting."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sparsebench.cli import main
from sparsebench.files import read_csv, write_csv
from sparsebench.records.collect import read
from tests.support.tables import row

ONE, TWO = "cpu EPYC ranks=1 threads=1 torch=2.9", "cpu EPYC ranks=1 threads=2 torch=2.9"
ID = "0123456789"


def run(folder: Path, run_id: str = ID, **values: object) -> Path:
    """A folder of results with one run more."""
    cells = row("dpf", 0.9, 0, 97.5, run_id=run_id, device="cpu", torch="2.9", version="1", command="x")
    cells |= {"weights_hash": "aa", "init_hash": "bb", "numerics": ONE, "numerics_changed_at": "", **values}
    path = folder / f"digits-mlp-dpf-{cells['run_id']}"
    path.mkdir(parents=True)
    write_csv(path / "summary.csv", [*cells], [cells])
    (path / "run.json").write_text("{}")
    return folder


def kept(folder: Path) -> str:
    return str(read(folder).set_index("run_id").loc[ID, "numerics"])


def repeats(folder: Path) -> list[str]:
    path = folder / "repeats.csv"
    return [one["numerics"] for one in read_csv(path)] if path.exists() else []


@pytest.fixture
def places(tmp_path):
    return tmp_path / "a", tmp_path / "b", tmp_path / "all"


def merge(*words: object) -> int:
    return main(["merge", *map(str, words)])


@pytest.mark.parametrize("column", ["weights_hash", "init_hash", "top1", "steps"])
def test_equal_numerics_have_to_be_equal_to_the_bit(column, places, capsys):
    a, b, both = places
    run(a, **{column: "1"}), run(b, **{column: "2"})
    for prefer in ([], ["--prefer", "LAST"]):
        assert merge(a, b, "-o", both, *prefer) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{column} 1 and 2" in line
    assert repeats(both) == []


def test_equal_results_are_one_run_whatever_differs_by_nature(places, capsys):
    a, b, both = places
    run(a, seconds=1, started="2026-01-01"), run(b, seconds=2, started="2026-01-02", git_commit="c")
    assert merge(a, b, "-o", both) == 0
    assert "1 runs copied, 1 exist with the same result, 0 differ" in capsys.readouterr().out


def test_a_run_made_twice_stops_the_merge_before_anything_is_copied(places, capsys):
    a, b, both = places
    run(run(a), "other"), run(b, numerics=TWO, weights_hash="cc", top1=98.5)
    for argv in ((a, b, "-o", both), (a, b, "-o", both, "--dry-run")):
        assert merge(*argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(
            "sparsebench: error: --prefer: expected FIRST or LAST: 1 runs were made more than once"
        )
        assert all(word in line for word in (ID, ONE, TWO, "top1 97.5 and 98.5"))
    assert not both.exists()
    assert merge(a, b, "-o", both, "--prefer", "BOTH") == 2


@pytest.mark.parametrize(("prefer", "one", "other"), [("FIRST", ONE, TWO), ("LAST", TWO, ONE)])
def test_one_of_two_numerics_is_kept_and_the_other_is_a_repeat(prefer, one, other, places, capsys):
    a, b, both = places
    run(run(a), "more", config_hash="other", seed=1), run(b, numerics=TWO, weights_hash="cc", top1=98.5)
    for _ in range(2):  # again: nothing changes
        assert merge(a, b, "-o", both, "--prefer", prefer) == 0
        assert (kept(both), repeats(both)) == (one, [other])
    capsys.readouterr()
    assert len(read(both)) == 2, "a repeat is no run"
    assert main(["compare", str(both), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [one["n"] for one in rows] == [1, 1] and {one["mixed"] for one in rows} == {""}, (
        "no mean over both"
    )
    assert merge(b, "-o", both, "--prefer", "FIRST") == 0
    assert (kept(both), repeats(both)) == (one, [other]), "what is there is the first"
    for path in (both, both / ".state"):
        assert not [p for p in path.iterdir() if p.name.endswith(".tmp")]


def test_the_last_is_the_last_that_is_named(places):
    a, b, both = places
    run(a), run(b, numerics=TWO, weights_hash="cc")
    assert merge(b, a, "-o", both, "--prefer", "LAST") == 0
    assert (kept(both), repeats(both)) == (ONE, [TWO])
    assert merge(a, b, "-o", both, "--prefer", "LAST") == 0
    assert (kept(both), repeats(both)) == (TWO, [ONE])


def test_a_run_that_went_on_with_other_numerics_is_another_result(places, capsys):
    a, b, both = places
    run(a), run(b, numerics_changed_at="40", weights_hash="cc")
    assert merge(a, b, "-o", both) == 2
    assert "changed at step 40" in capsys.readouterr().err
    shutil.rmtree(a)
    shutil.copytree(b, a)
    assert merge(a, b, "-o", both) == 0, "two copies of one result"


@pytest.mark.parametrize(("values", "status"), [({}, 0), ({"top1": 1}, 1), ({"torch": "2.10", "top1": 1}, 2)])
def test_results_of_versions_without_numerics_are_told_by_device_and_torch(values, status, places):
    a, b, both = places
    run(a, numerics="", weights_hash=""), run(b, **values)
    assert merge(a, b, "-o", both) == status


def test_nothing_from_outside_a_run_is_copied(places, tmp_path, capsys):
    a, _, both = places
    for number, name in enumerate(("good", "file", "folder", "fifo", "deep")):
        run(a, f"{number}{name}")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    folder = {path.name.rpartition("-")[2][1:]: path for path in a.iterdir()}
    (folder["good"] / "logs").mkdir()
    (folder["good"] / "logs" / "run.log").write_text("log")
    (folder["good"] / "latest.log").symlink_to(folder["good"] / "logs" / "run.log")
    (folder["file"] / "model.safetensors").symlink_to(secret / "key")
    (folder["folder"] / "wandb").symlink_to(secret)
    os.mkfifo(folder["fifo"] / "log.txt")
    (folder["deep"] / "logs").mkdir()
    (folder["deep"] / "logs" / "x").symlink_to("../../../secret/key")
    assert merge(a, "-o", both) == 1
    assert capsys.readouterr().err.count("left out: ") == 4
    (copied,) = both.glob("digits-*")
    assert copied.name == folder["good"].name
    link = copied / "latest.log"
    assert os.readlink(link) == "logs/run.log" and link.read_text() == "log"
    assert not [path for path in both.rglob("*") if path.is_file() and path.read_bytes() == b"secret"]
    assert not list(both.glob(".*.tmp"))


def test_a_link_in_the_output_folder_is_not_written_through(places, tmp_path, capsys):
    a, _, both = places
    run(a)
    theirs = run(tmp_path / "theirs", top1=50) / f"digits-mlp-dpf-{ID}"
    both.mkdir()
    (both / theirs.name).symlink_to(theirs)
    before = sorted(path.name for path in theirs.iterdir())
    assert merge(a, "-o", both, "--prefer", "LAST") == 1
    assert "a link to another folder" in capsys.readouterr().err
    assert sorted(path.name for path in theirs.iterdir()) == before


def test_a_file_as_the_output_folder_is_refused(places, tmp_path, capsys):
    a, _, _ = places
    run(a)
    (tmp_path / "file").write_text("")
    assert merge(a, "-o", tmp_path / "file") == 2
    assert "a folder; a file with this name exists" in capsys.readouterr().err
