"""Edited rows, edited configs and swapped weights are found; what was not touched holds."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsebench.cli import main
from sparsebench.files import read_csv, write_csv
from sparsebench.records.schema import SUMMARY_COLUMNS

TINY = ("model=mlp", "model.hidden=[20]", "device=cpu", "epochs=2", "prunable.last_fc=true")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("made")
    for argv in (["prune=dense"], ["prune=dpf", "schedule.interval=4it"], ["prune=imp", "+prune.rounds=1"]):
        argv = [word.replace("+", "") for word in argv]
        assert main(["train", *TINY, *argv, f"results_dir={results}"]) == 0
    return results


@pytest.fixture
def results(made, tmp_path):
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def audit(results, capsys, *argv):
    capsys.readouterr()
    status = main(["audit", str(results), "--format", "json", *argv])
    captured = capsys.readouterr()
    found = [f for f in json.loads(captured.out) if f["kind"] == "claim"]
    return status, {f["column"]: (f["claimed"], f["found"]) for f in found}, captured.err


def folder(results, method):
    return next(results.glob(f"*-{method}-*"))


def replace(path, old, new):
    text = path.read_text()
    assert text.count(old) >= 1, text
    path.write_text(text.replace(old, new))


def edit(path, column, value):
    header, line = path.read_text().splitlines()
    values = line.split(",")
    values[header.split(",").index(column)] = str(value)
    path.write_text(f"{header}\n{','.join(values)}\n")


def test_claims_of_untouched_runs_hold_and_nothing_is_written(results, capsys):
    before = {p: p.stat().st_mtime_ns for p in results.rglob("*")}
    assert main(["audit", str(results)]) == 0
    *notes, last = capsys.readouterr().out.splitlines()
    assert last == "4 runs audited, 0 claims do not hold"
    assert all("  note: git_dirty" in line for line in notes)
    assert {p: p.stat().st_mtime_ns for p in results.rglob("*")} == before


def test_edited_columns_are_found_each(results, capsys):
    unchecked = {"schema", "status", "sparsity_ok", "train_flops", "train_flops_ratio",
                 "train_flops_ratio_dense_gradient", "steps", "device", "seconds", "images_per_second",
                 "peak_memory_mb", "version", "torch"}  # fmt: skip
    columns = [column for column in SUMMARY_COLUMNS if column not in unchecked]
    path = folder(results, "dpf")
    for number, column in enumerate(columns):
        edit(path / "summary.csv", column, 700 + number)
    status, found, _ = audit(path, capsys)
    assert status == 1
    assert set(columns) - {"kept_zeros"} | {"sparsity_ok"} == found.keys() - {"metrics.csv sparsity"}


def test_a_row_that_accuses_itself_is_a_note(results, capsys):
    path = folder(results, "dpf")
    edit(path / "summary.csv", "sparsity_ok", "False")
    assert main(["audit", str(path)]) == 0
    assert "note: sparsity_ok=False: missed its sparsity" in capsys.readouterr().out


def test_weights_that_were_swapped_are_found(results, capsys):
    path = folder(results, "dpf") / "model.safetensors"
    state = load_file(path)
    name = next(iter(state))
    state[name] = -state[name]  # as many zeros as before
    save_file(state, path)
    status, found, _ = audit(path.parent, capsys)
    evaluated = {"top1", "top5", "test_loss", "val_top1"}
    assert status == 1 and found.keys() <= {*evaluated, "weights_hash"} and "test_loss" in found
    status, found, _ = audit(path.parent, capsys, "--no-accuracy")
    assert status == 1 and found.keys() == {"weights_hash"}


def test_numerics_that_were_edited_are_found(results, capsys):
    path = folder(results, "dpf")
    replace(path / "config.yaml", "channels_last: false", "channels_last: true")
    status, found, _ = audit(path, capsys, "--no-accuracy")
    assert (status, found) == (1, {"config.yaml channels_last": ("True", "False (run.json)")})


def test_a_zero_that_came_back_is_found_in_its_layer(results, capsys):
    path = folder(results, "dpf") / "model.safetensors"
    state = load_file(path)
    weight = next(tensor for tensor in state.values() if tensor.dim() == 2)
    weight.view(-1)[torch.nonzero(weight.view(-1) == 0)[0]] = 1e-30
    save_file(state, path)
    status, found, _ = audit(path.parent, capsys, "--no-accuracy")
    assert status == 1
    row = read_csv(path.parent / "summary.csv")[0]
    assert found["nonzero"] == (row["nonzero"], str(int(row["nonzero"]) + 1))
    assert {"sparsity", "sparsity_ok", "macs_sparse"} <= found.keys()
    assert any(column.startswith("layers.csv ") and column.endswith(" nonzero") for column in found)


def test_an_edited_config_is_found_by_its_hash(results, capsys):
    path = folder(results, "dpf")
    replace(path / "config.yaml", "momentum: 0.9", "momentum: 0.8")
    status, found, _ = audit(path, capsys, "--no-accuracy")
    assert status == 1 and {"run_id", "config_hash", "folder"} == found.keys()
    assert "optimizer.momentum=0.8" in found["run_id"][1]


def test_edited_tables_are_found(results, capsys):
    path = folder(results, "dpf")
    layers = (path / "layers.csv").read_text().splitlines()
    (path / "layers.csv").write_text("\n".join([*layers[:2], *layers[3:]]) + "\n")
    metrics = read_csv(path / "metrics.csv")
    replace(path / "metrics.csv", metrics[-1]["val_top1"], "99.0")
    status, found, _ = audit(path, capsys, "--no-accuracy")
    assert status == 1
    assert found[f"layers.csv {layers[2].split(',')[0]}"] == ("no row", "a row")
    assert found["val_top1"][1] == "99.0 (metrics.csv)"


def test_a_training_that_stopped_before_its_last_step_is_found(results, capsys):
    path = folder(results, "dpf")
    *before, last = read_csv(path / "metrics.csv")
    step = int(last["step"])
    write_csv(path / "metrics.csv", [*last], [*before, {**last, "step": step - 1}])
    status, found, _ = audit(path, capsys, "--no-accuracy")
    assert status == 1 and found == {"metrics.csv step": (str(step - 1), str(step))}


def broken(path):
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    "name", ["summary.csv", "config.yaml", "run.json", "model.safetensors", "layers.csv"]
)
@pytest.mark.parametrize(
    "damage", [broken, lambda path: path.unlink(), lambda path: path.write_bytes(b"\xff\x00")]
)
def test_a_damaged_file_is_a_finding(name, damage, results, capsys):
    path = folder(results, "dpf")
    damage(path / name)
    capsys.readouterr()
    if not (path / "summary.csv").exists():
        assert main(["audit", str(results), "--no-accuracy"]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert (
            last == "3 runs audited (1 unfinished left out), accuracies not evaluated, 0 claims do not hold"
        )
        return
    status, found, errors = audit(path, capsys, "--no-accuracy")
    assert (
        status == 1
        and found
        and errors
        == (f"1 runs audited, accuracies not evaluated, {len(found)} claims do not hold in 1 runs\n")
    )
    assert damage is broken or name in found or name in next(iter(found.values()))[1]


def test_a_bad_run_does_not_keep_the_others_from_being_checked(results, capsys):
    (folder(results, "dpf") / "model.safetensors").unlink()
    edit(folder(results, "imp") / "summary.csv", "macs", 1)
    capsys.readouterr()
    assert main(["audit", str(results), "--no-accuracy"]) == 1
    first, second, last = [line for line in capsys.readouterr().out.splitlines() if "  note: " not in line]
    assert "model.safetensors: claimed a readable file, found missing" in first and "-imp-" in second
    assert last == "4 runs audited, accuracies not evaluated, 2 claims do not hold in 2 runs"


def test_data_that_are_not_there_are_a_finding(results, tmp_path, capsys, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there: no network
    path = folder(results, "dense")
    (path / "config.yaml").write_text(
        (path / "config.yaml").read_text()
        .replace("sparsebench.data.digits.Digits", "sparsebench.data.cifar.CIFAR10\n  data_root: x")
        .replace("  channels: 1\n", "")
    )  # fmt: skip
    status, found, _ = audit(path, capsys, "--data-root", str(tmp_path / "none"))
    assert status == 1 and f"data_root={tmp_path}/none" in found["run"][1]


@pytest.mark.parametrize(
    ("argv", "named"),
    [(["/nowhere"], "path=/nowhere"), (["."], "path=."), ([], "FOLDER"), (["x", "--tolerance", "-1"], "tolerance=-1"),
     (["x", "-o", "/nowhere/x"], "output=/nowhere/x"), (["x", "--format", "xml"], "--format")],
)  # fmt: skip
def test_bad_input_is_status_2(argv, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["audit", *argv]) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_findings_as_csv_in_a_file(results, tmp_path, capsys):
    edit(folder(results, "dense") / "summary.csv", "macs", 1)
    file = tmp_path / "findings.csv"
    assert main(["audit", str(results), "--no-accuracy", "--format", "csv", "-o", str(file)]) == 1
    (row,) = [row for row in read_csv(file) if row["kind"] == "claim"]
    assert row["run"] == folder(results, "dense").name and (row["column"], row["claimed"]) == ("macs", "1")
    assert "1 claims do not hold in 1 runs" in capsys.readouterr().out
    assert main(["audit", str(file)]) == 2  # a table has no models


def test_elsewhere_accuracies_may_differ_by_what_the_line_says(results, capsys):
    path = folder(results, "dense")
    row = read_csv(path / "summary.csv")[0]
    for file in (path / "summary.csv", path / "run.json"):
        replace(file, row["torch"], "1.0.0")
    edit(path / "summary.csv", "top5", float(row["top5"]) - 0.05)
    for column in ("top1", "test_top1_at_best_val"):
        edit(path / "summary.csv", column, float(row["top1"]) - 0.5)
    status, found, _ = audit(path, capsys)
    assert status == 1 and found.keys() == {"top1"}
    assert "within 0.1 on torch " in found["top1"][1]
    assert audit(path, capsys, "--tolerance", "0.6")[0] == 0
