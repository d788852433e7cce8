"""Edited rows, edited configs and swapped weights are found; what was not touched holds."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from sparsebench.cli import main
from sparsebench.config.open import compose_config
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
    assert all("  note: git_dirty" in line or line.startswith("not checked in ") for line in notes)
    assert {p: p.stat().st_mtime_ns for p in results.rglob("*")} == before


def test_edited_columns_are_found_each(results, capsys):
    path = folder(results, "dpf")
    for number, column in enumerate(SUMMARY_COLUMNS):
        edit(path / "summary.csv", column, 700 + number)
    status, found, _ = audit(path, capsys)
    assert status == 1
    # Compared with seconds, which are edited too; and of a run that is not finished, as "702" is not.
    unfinished = {"sparsity_ok", "kept_zeros", "top1", "top5", "test_loss", "test_top1_at_best_val"}
    assert set(SUMMARY_COLUMNS) - found.keys() - unfinished <= {"peak_memory_mb", "seconds", "val_top1"}


def test_a_good_run_that_is_marked_as_a_bad_one_is_found(results, capsys):
    path = folder(results, "dpf")
    edit(path / "summary.csv", "sparsity_ok", "False")
    status, found, _ = audit(path, capsys, "--no-accuracy")
    assert (status, found["sparsity_ok"][0]) == (1, "False")
    edit(path / "summary.csv", "sparsity_ok", "True")
    edit(path / "summary.csv", "status", "diverged")
    status, found, _ = audit(path, capsys, "--no-accuracy")
    assert status == 1 and found["status"] == ("diverged", "finished (losses of metrics.csv)")


def test_weights_that_were_swapped_are_found(results, capsys):
    path = folder(results, "dpf") / "model.safetensors"
    state = load_file(path)
    name = next(iter(state))
    state[name] = -state[name]  # as many zeros as before
    save_file(state, path)
    status, found, _ = audit(path.parent, capsys)
    evaluated = {"top1", "top5", "test_loss", "val_top1"}
    evaluated |= {f"metrics.csv {column}" for column in ("val_loss", "val_top1", "val_top5")}
    assert status == 1 and found.keys() <= {*evaluated, "weights_hash"} and "test_loss" in found
    status, found, _ = audit(path.parent, capsys, "--no-accuracy")
    assert status == 1 and found.keys() == {"weights_hash"}


def test_numerics_that_were_edited_are_found(results, capsys):
    path = folder(results, "dpf")
    replace(path / "config.yaml", "channels_last: false", "channels_last: true")
    status, found, _ = audit(path, capsys, "--no-accuracy")
    expected = ("True", "False (run.json)")
    assert (status, found) == (
        1,
        {f"config.yaml {place}channels_last": expected for place in ("", "device.")},
    )


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
    assert (
        status == 1 and {"run_id", "config_hash", "folder", "config.yaml optimizer.momentum"} == found.keys()
    )
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
    assert status == 1 and found.pop("metrics.csv step") == (str(step - 1), str(step))
    assert found.keys() == {"metrics.csv epoch"}


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
    lines = capsys.readouterr().out.splitlines()
    first, second, last = [line for line in lines if "  note: " not in line and "not checked" not in line]
    assert "model.safetensors: claimed a readable file, found missing" in first and "-imp-" in second
    assert last == "4 runs audited, accuracies not evaluated, 2 claims do not hold in 2 runs"


def test_data_that_are_not_there_are_no_claim(results, tmp_path, capsys, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there: no network
    path = folder(results, "dense")
    cfg, choices = compose_config(["dataset=cifar10", *TINY[:4], "prune=dense"])
    (path / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    origin = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**origin, "choices": choices}))
    _, found, _ = audit(path, capsys, "--data-root", str(tmp_path / "none"))
    assert "run" not in found
    assert main(["audit", str(path), "--data-root", str(tmp_path / "none")]) == 1  # the edited files
    lines = capsys.readouterr().out.splitlines()
    assert any("note: run=model and data: not built here: dataset.data_root=" in line for line in lines)
    assert any("not checked in 1 run: " in line and "top1" in line for line in lines)


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
    replace(path / "run.json", f'"torch": "{row["torch"].partition("+")[0]}"', '"torch": "1.0.0"')
    edit(path / "summary.csv", "top5", float(row["top5"]) - 0.05)
    for column in ("top1", "test_top1_at_best_val"):
        edit(path / "summary.csv", column, float(row["top1"]) - 0.5)
    status, found, _ = audit(path, capsys)
    assert status == 1 and found.keys() == {"top1"}
    assert "within 0.1 on torch " in found["top1"][1]
    assert audit(path, capsys, "--tolerance", "0.6")[0] == 0


@pytest.fixture
def two(tmp_path):
    """Two seeds of one method, one of them with another eval_every too, and another method, on the same data."""
    argv = ("train", *TINY, "dataset.train_samples=96", "batch_size=32")
    for more in (["seed=0"], ["seed=1"], ["seed=0", "eval_every=1it"], ["seed=0", "prune=gmp"]):
        run = [*argv, "schedule.interval=1it", *more, f"results_dir={tmp_path / 'runs'}"]
        assert main(run) == 0
    found = {}
    for path in (tmp_path / "runs").glob("*-*"):
        command = json.loads((path / "run.json").read_text())["command"]
        name = "often" if "eval_every" in command else "gmp" if "gmp" in command else None
        found[name or path.name.split("seed")[1][0]] = path
    return found


def test_one_training_under_two_settings_that_do_not_change_it_is_no_finding(two, capsys):
    rows = {name: read_csv(path / "summary.csv")[0] for name, path in two.items()}
    assert rows["0"]["weights_hash"] == rows["often"]["weights_hash"] != rows["1"]["weights_hash"]
    status, found, _ = audit(two["0"].parent, capsys, "--no-accuracy")
    assert (status, found) == (0, {})


@pytest.mark.parametrize("other", ["1", "gmp"])
def test_the_weights_of_another_seed_or_method_are_found_by_comparing_runs(two, other, capsys):
    path, theirs = two[other], two["0"]
    shutil.copy(theirs / "model.safetensors", path / "model.safetensors")
    (row,) = read_csv(theirs / "summary.csv")
    edit(path / "summary.csv", "weights_hash", row["weights_hash"])
    assert audit(path, capsys, "--no-accuracy")[1].keys().isdisjoint({"weights_hash"})
    status, found, _ = audit(path.parent, capsys, "--no-accuracy")
    assert status == 1
    assert theirs.name in found["weights_hash"][1] or path.name in found["weights_hash"][1]


@pytest.mark.parametrize(
    ("column", "other"), [("split_hash", "1"), ("order_hash", "gmp"), ("init_hash", "often")]
)
def test_hashes_of_equal_settings_that_contradict_are_found(two, column, other, capsys):
    row = read_csv(two[other] / "summary.csv")[0]
    for file in ("summary.csv", "run.json"):
        replace(two[other] / file, row[column], "0" * 16)
    capsys.readouterr()
    assert main(["audit", str(two["0"].parent), "--no-accuracy"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if f"  {column}: claimed" in line]
    assert any(line.startswith(two["0"].name) and "of the same settings" in line for line in lines)


def test_a_run_is_made_again_and_compared_to_the_bit(two, capsys):
    status, found, _ = audit(two["0"], capsys, "--no-accuracy", "--retrain")
    assert (status, found) == (0, {})
    assert main(["audit", str(two["0"]), "--retrain"]) == 0
    said = capsys.readouterr().out
    assert "note: retrain=made again from its command: equal to the bit" in said
    assert "--retrain compares it" not in said  # it has
    rows = read_csv(two["0"] / "metrics.csv")
    edited = [{**rows[0], "train_loss": "1.5"}, *rows[1:]]  # nothing else tells it
    write_csv(two["0"] / "metrics.csv", list(rows[0]), edited)
    assert audit(two["0"], capsys, "--no-accuracy")[0] == 0
    status, found, _ = audit(two["0"], capsys, "--no-accuracy", "--retrain")
    assert status == 1 and list(found) == [f"metrics.csv {rows[0]['step']} train_loss"]
    assert {path.name for path in two["0"].parent.glob("*-*")} == {path.name for path in two.values()}


def test_a_sample_is_made_again(two, capsys):
    assert main(["audit", str(two["0"].parent), "--no-accuracy", "--retrain", "--sample", "1"]) == 0
    assert capsys.readouterr().out.count("note: retrain=") == 1
    assert main(["audit", str(two["0"].parent), "--sample", "1"]) == 2
    assert main(["audit", str(two["0"].parent), "--retrain", "--sample", "0"]) == 2
