"""One value of a run's files edited at a time, plausibly: it is found false, or its column is named as not checked."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file

from sparsebench.cli import main
from sparsebench.files import read_csv, write_csv
from sparsebench.records.schema import LAYERS_COLUMNS, METRICS_COLUMNS
from sparsebench.runs.audit.command import ELSEWHERE
from sparsebench.runs.audit.findings import CANNOT_BE_CHECKED, CLAIM, UNCHECKED
from sparsebench.runs.audit.one_run import Extent, audit
from sparsebench.runs.reopen import Datasets

TINY = (
    "model=mlp",
    "model.hidden=[16,12]",
    "device=cpu",
    "epochs=2",
    "dataset.train_samples=160",
    "batch_size=16",
)
KINDS = {
    "dense": ("prune=dense", "evaluate=[calibration,per_class]"),
    "dpf": ("prune=dpf", "schedule.interval=4it", "eval_every=0.5ep", "prunable.last_fc=true"),
    "rigl": ("prune=rigl", "schedule.interval=4it", "ema=0.9"),
    "lottery": ("prune=lottery", "prune.rounds=2", "seed=1"),
    "diverged": ("prune=gmp", "schedule.interval=4it", "optimizer.lr=1e9"),
}
REST = {"test_top1_at_best_val", "sparsity_ok", "init_hash", "collapsed_layers"}
"""Columns that some kinds of runs do not tell, beside those that none tells."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("made")
    found = {}
    for kind, argv in KINDS.items():
        assert main(["train", *TINY, *argv, f"results_dir={results / kind}"]) == (kind == "diverged")
        found[kind] = sorted((results / kind).glob("*-*"))[-1]
    return found


@pytest.fixture(scope="module")
def datasets():
    return Datasets()


@pytest.fixture
def run(made, tmp_path):
    def copied(kind):
        shutil.copytree(made[kind], tmp_path / made[kind].name, dirs_exist_ok=True)
        return tmp_path / made[kind].name

    return copied


def findings(path, datasets):
    found = audit(path, datasets, Extent(evaluations=True)).found
    return {f.column for f in found if f.kind == CLAIM}, {f.column for f in found if f.kind == UNCHECKED}


def plausible(text, others=()):
    """Other values that the same column might have."""
    different = [other for other in others if other not in (text, "")]
    if text in ("True", "False"):
        return ["False" if text == "True" else "True"]
    try:
        number = float(text)
    except ValueError:
        return different[:1] or [f"{text[:-1]}{'0' if text[-1:] != '0' else '1'}" if text else "1"]
    near = str(int(number) + 1) if text.lstrip("-").isdigit() else str(number * 0.98 + 0.003)
    return [near, *different[:1]]


def edited(path, row, column, value):
    rows = read_csv(path)
    rows[row] = {**rows[row], column: value}
    write_csv(path, list(rows[0]), rows)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_touched_holds(kind, made, datasets):
    claims, unchecked = findings(made[kind], datasets)
    assert not claims
    assert unchecked <= {*CANNOT_BE_CHECKED, *REST, *(f"config.yaml {name}" for name in ELSEWHERE)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_of_the_summary_is_checked_or_named(kind, made, run, datasets):
    path = run(kind)
    before = (path / "summary.csv").read_text()
    (row,) = read_csv(path / "summary.csv")
    others = [read_csv(other / "summary.csv")[0] for other in made.values()]
    for column, text in row.items():
        for value in plausible(text, [other.get(column, "") for other in others]):
            edited(path / "summary.csv", 0, column, value)
            claims, unchecked = findings(path, datasets)
            assert claims or column in unchecked, (column, text, value)
            (path / "summary.csv").write_text(before)


@pytest.mark.parametrize(
    ("name", "columns"), [("metrics.csv", METRICS_COLUMNS), ("layers.csv", LAYERS_COLUMNS)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_column_of_the_tables_is_checked_or_named(kind, name, columns, run, datasets):
    path = run(kind)
    before = (path / name).read_text()
    rows = read_csv(path / name)
    for column in columns:
        number = 0 if column != "sparsity" else -1
        edited(path / name, number, column, plausible(rows[number][column])[0])
        claims, unchecked = findings(path, datasets)
        assert claims or f"{name} {column}" in unchecked, (column, rows[number][column])
        (path / name).write_text(before)


@pytest.mark.parametrize("kind", ["dpf", "lottery", "diverged"])
def test_rows_that_are_missing_added_or_in_another_order_are_found(kind, run, datasets):
    path = run(kind)
    rows = read_csv(path / "metrics.csv")
    for other in (rows[1:], rows[:-1], [*rows, rows[-1]], rows[::-1], [rows[0], *rows]):
        if other != rows:
            write_csv(path / "metrics.csv", list(rows[0]), other)
            assert findings(path, datasets)[0], other


@pytest.mark.parametrize("kind", ["dpf", "lottery"])
def test_every_part_of_run_json_is_checked_or_named(kind, run, datasets):
    path = run(kind) / "run.json"
    before = path.read_text()
    for name, value in json.loads(before).items():
        if isinstance(value, bool):
            other = not value
        elif isinstance(value, (int, float)):
            other = value + 1
        elif isinstance(value, dict):
            key = next(key for key, one in value.items() if isinstance(one, str))
            other = {**value, key: f"{value[key]}x"}
        else:
            other = f"{value}x" if isinstance(value, str) else ["0123456789"]
        path.write_text(json.dumps({**json.loads(before), name: other}))
        claims, unchecked = findings(path.parent, datasets)
        assert claims or f"run.json {name}" in unchecked, (name, value, other)


def leaves(node, place=()):
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        if isinstance(value, (dict, list)) and value:
            yield from leaves(value, (*place, key))
        else:
            yield (*place, key), value


@pytest.mark.parametrize("kind", ["dense", "dpf", "lottery"])
def test_every_setting_of_the_config_is_checked(kind, run, datasets):
    path = run(kind) / "config.yaml"
    before = path.read_text()
    for place, value in leaves(yaml.safe_load(before)):
        config = yaml.safe_load(before)
        node = config
        for key in place[:-1]:
            node = node[key]
        if isinstance(value, bool):
            node[place[-1]] = not value
        elif isinstance(value, (int, float)):
            node[place[-1]] = value + 1
        else:
            node[place[-1]] = "0.6" if place[-1] != "_target_" else "sparsebench.pruning.schedules.Linear"
        path.write_text(yaml.safe_dump(config))
        claims, unchecked = findings(path.parent, datasets)
        assert claims or f"config.yaml {place[0]}" in unchecked, (place, value)


def test_the_weights_of_another_run_are_found(made, run, datasets, tmp_path):
    path, other = run("dpf"), tmp_path / "other"
    argv = [*TINY, *KINDS["dpf"], "seed=3", f"results_dir={other}"]
    assert main(["train", *argv]) == 0
    (theirs,) = other.glob("*-*")
    shutil.copy(theirs / "model.safetensors", path / "model.safetensors")
    assert "weights_hash" in findings(path, datasets)[0]


@pytest.mark.parametrize("kind", ["dense", "rigl"])
def test_every_tensor_of_the_weights_is_checked(kind, run, datasets):
    path = run(kind) / "model.safetensors"
    state = load_file(path)
    for name, tensor in state.items():
        save_file({**state, name: tensor * 1.01}, path)
        assert "weights_hash" in findings(path.parent, datasets)[0], name
