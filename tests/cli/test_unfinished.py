"""collect and compare on a sweep that was interrupted: what they show of runs without a result."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparsebench.cli import main
from sparsebench.files import read_csv, write_csv
from sparsebench.records import schema
from sparsebench.records.lease import Lease
from sparsebench.records.states import fail

SWEEP = ("model=mlp", "epochs=3", "device=cpu", "prune=dense,dpf", "seed=0,1")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert main(["sweep", *SWEEP, f"results_dir={folder}"]) == 0
    return folder


@pytest.fixture
def results(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


def interrupt(results: Path, which: str, evaluations: int) -> Path:
    """Take the end of a training away, as if it had stopped after some evaluations."""
    (folder,) = results.glob(f"*-{which}-*")
    (folder / schema.SUMMARY).unlink()
    rows = read_csv(folder / schema.METRICS)[:evaluations]
    if rows:
        write_csv(folder / schema.METRICS, schema.METRICS_COLUMNS, rows)
    else:
        (folder / schema.METRICS).unlink()
    return folder


def run_id(folder: Path) -> str:
    return folder.name.rpartition("-")[2]


def collected(results: Path, output: Path, *more: str) -> dict[str, dict[str, str]]:
    assert main(["collect", str(results), "-o", str(output), *more]) == 0
    return {row["run_id"]: row for row in read_csv(output)}


def test_collect_leaves_unfinished_runs_out_and_says_how_many(results, tmp_path, capsys):
    everything = collected(results, tmp_path / "all.csv", "--unfinished")
    assert "left out" not in capsys.readouterr().err
    folders = [interrupt(results, "dense-s0-seed1", 2), interrupt(results, "dpf-s0.9-seed0", 0)]
    finished = collected(results, tmp_path / "finished.csv")
    assert capsys.readouterr().err.splitlines()[0] == (
        f"sparsebench: {results}: 2 unfinished runs left out (--unfinished shows them)"
    )
    assert finished == {i: row for i, row in everything.items() if i not in map(run_id, folders)}


def test_a_row_of_an_unfinished_run_tells_its_state_and_last_evaluation_and_no_result(results, tmp_path):
    before = collected(results, tmp_path / "before.csv")
    two, none = interrupt(results, "dpf-s0.9-seed0", 2), interrupt(results, "dpf-s0.9-seed1", 0)
    failed = interrupt(results, "dense-s0-seed1", 1)
    fail(results, run_id(failed), ValueError("no space left"))
    with Lease.claim(results / ".state", run_id(none)):
        rows = collected(results, tmp_path / "rows.csv", "--unfinished")
    assert [rows[run_id(folder)]["status"] for folder in (two, none, failed)] == [
        "interrupted",
        "running",
        "failed",
    ]
    assert rows[run_id(failed)]["error"] == "no space left"
    row, summary = rows[run_id(two)], before[run_id(two)]
    last = read_csv(two / schema.METRICS)[-1]
    assert last["epoch"] == "2.0" and {column: row[column] for column in last} == last
    known = ("schema", "dataset", "model", "method", "seed", "target_sparsity", "epochs", "batch_size", "precision",
             "config_hash", "started", "command")  # fmt: skip
    assert [row[column] for column in known] == [summary[column] for column in known]
    others = [c for c in schema.SUMMARY_COLUMNS if c not in (*last, *known)]
    filled = {column for column in others if row[column]}
    assert filled <= {"run_id", "status", "device", "version", "torch", "git_commit", "git_dirty"}
    assert not any(rows[run_id(none)][column] for column in schema.METRICS_COLUMNS)


def test_a_table_with_unfinished_runs_compares_like_one_without(results, tmp_path, capsys):
    interrupt(results, "dpf-s0.9-seed0", 2)
    with_, without = tmp_path / "with.csv", tmp_path / "without.csv"
    collected(results, with_, "--unfinished"), collected(results, without)
    capsys.readouterr()
    outputs = []
    for path in (with_, without):
        assert main(["compare", str(path), "--format", "csv"]) == 0
        outputs.append(capsys.readouterr())
    first, second = outputs
    assert "1 of 4 runs left out: 1 interrupted" in first.err and second.err == ""
    columns = [line.split(",") for line in (first.out.splitlines()[0], second.out.splitlines()[0])]
    assert columns[0] == columns[1]
    place = columns[0].index("excluded")
    rows = [[line.split(",") for line in output.out.splitlines()[1:]] for output in outputs]
    assert [row[place] for row in rows[0]] == ["0", "1"] and [row[place] for row in rows[1]] == ["0", "0"]
    assert [row[:place] + row[place + 1 :] for row in rows[0]] == [
        row[:place] + row[place + 1 :] for row in rows[1]
    ]


def test_compare_lists_them_below_with_the_dense_run_at_the_same_epoch(results, capsys):
    assert main(["compare", str(results)]) == 0
    assert "unfinished" not in capsys.readouterr().out
    (dense,) = results.glob("*-dense-s0-seed0-*")
    there = float(read_csv(dense / schema.METRICS)[1]["val_top1"])
    folder = interrupt(results, "dpf-s0.9-seed0", 2)
    now = float(read_csv(folder / schema.METRICS)[-1]["val_top1"])
    interrupt(results, "dense-s0-seed1", 1)
    interrupt(results, "dpf-s0.9-seed1", 2)  # its dense run has not come as far
    assert main(["compare", str(results)]) == 0
    plain = capsys.readouterr().out
    assert main(["compare", str(results), "--unfinished"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(plain)
    title, _, header, *lines = shown[len(plain) :].strip().splitlines()
    assert title == "unfinished in results:"
    assert header.split() == [
        *("method", "target_sparsity", "seed", "status", "epoch", "sparsity", "val_top1"),
        "difference_to_dense_there",
    ]
    cells = {tuple(line.split()[:3:2]): line.split()[3:] for line in lines[:-1]}
    assert cells["dpf", "0"][:4] == ["interrupted", "2", "of", "3"]
    assert cells["dpf", "0"][5:] == [f"{now:.2f}", f"{now - there:+.2f}"]
    assert cells["dense", "1"][1:4] == ["1", "of", "3"] and len(cells["dense", "1"]) == 6
    assert len(cells["dpf", "1"]) == 6, "no dense run at this epoch: no difference"
    assert lines[-1].startswith("unfinished: validation accuracies so far")


def test_without_any_result_only_the_list_is_shown(results, capsys):
    folder = interrupt(results, "dpf-s0.9-seed0", 1)
    assert main(["compare", str(folder)]) == 2
    capsys.readouterr()
    assert main(["compare", str(folder), "--unfinished", "--format", "markdown"]) == 0
    captured = capsys.readouterr()
    assert "| dpf " in captured.out and "1 of 3" in captured.out
    assert captured.err == f"sparsebench: no finished run yet in {folder}\n"


def test_csv_of_unfinished_runs_is_left_to_collect(results, capsys):
    assert main(["compare", str(results), "--unfinished", "--format", "csv"]) == 2
    assert "collect --unfinished" in capsys.readouterr().err


def test_a_folder_with_neither_is_refused(tmp_path, capsys):
    assert main(["collect", str(tmp_path), "--unfinished"]) == 2
    assert "expected a folder with runs" in capsys.readouterr().err
