"""What a stranger's run names is neither built nor opened nor resolved, until the user says so."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
import yaml

from sparsebench.cli import main
from sparsebench.config.stored_command import read_command
from sparsebench.config.trusted import Trust, read_config
from sparsebench.errors import SettingError
from sparsebench.files import read_csv, write_csv

TINY = (
    "model=mlp",
    "model.hidden=[16]",
    "device=cpu",
    "epochs=1",
    "dataset.train_samples=96",
    "batch_size=32",
)
GROUPS = (
    "model",
    "dataset",
    "optimizer",
    "lr_schedule",
    "schedule",
    "allocation",
    "score",
    "prune",
    "device",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("made")
    argv = ["prune=dpf", "schedule.interval=1it", f"results_dir={results}"]
    assert main(["train", *TINY, *argv]) == 0
    return next(results.glob("*-*"))


@pytest.fixture
def path(made, tmp_path):
    shutil.copytree(made, tmp_path / "theirs" / made.name)
    return tmp_path / "theirs" / made.name


def change(path, edit):
    config = yaml.safe_load((path / "config.yaml").read_text())
    edit(config)
    (path / "config.yaml").write_text(yaml.safe_dump(config))


def audit(path, capsys, *argv):
    capsys.readouterr()
    status = main(["audit", str(path), "--no-accuracy", *argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def touch(path):
    return {
        "_target_": "pathlib.Path.touch",
        "self": {"_target_": "pathlib.Path", "_args_": [str(path / "executed")]},
    }


def put(*place):
    """Edits that put a node to a place of the config."""

    def edit(config, node):
        for key in place[:-1]:
            config = config[key]
        config[place[-1]] = node

    return edit


PLACES = [
    *((group,) for group in GROUPS),
    *((group, "more") for group in GROUPS),
    ("prune", "gradient"),
    ("device", "precision"),
    ("model", "hidden"),
    ("prunable", "fc"),
    ("sanity", "reinit"),
    ("tracker",),
    ("extend",),
]


@pytest.mark.parametrize("place", PLACES, ids=".".join)
@pytest.mark.parametrize("nested", ["itself", "in a list", "in a mapping"])
def test_no_class_that_a_run_names_is_built_anywhere(place, nested, path, tmp_path, capsys):
    node = touch(tmp_path)
    forms = {"itself": node, "in a list": [node], "in a mapping": {"below": node}}
    node = forms[nested]
    change(path, lambda config: put(*place)(config, node))
    status, out, _ = audit(path, capsys)
    assert place == ("tracker",) or (status == 1 and f"{'.'.join(place)}" in out)
    main(["evaluate", str(path), "evaluate=[calibration]"])
    if place == ("prune", "gradient"):  # from the command, which takes longer
        audit(path, capsys, "--retrain", "--evaluations")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("key", ["_target_", "_args_", "_partial_", "_recursive_", "_convert_", "_other_"])
def test_no_key_that_hydra_follows_is_taken_from_a_run(key, path, capsys):
    change(path, lambda config: config["schedule"].update({key: ["x"]}))
    _, out, _ = audit(path, capsys)
    assert f"note: config.yaml schedule.{key}=a class: not built without --trust" in out


def test_another_class_of_the_same_group_is_found_false(path, capsys):
    target = "sparsebench.pruning.schedules.Linear"
    change(path, lambda config: config["schedule"].update(_target_=target))
    status, out, _ = audit(path, capsys)
    assert status == 1 and f"config.yaml schedule._target_: claimed {target}, found" in out
    assert "not checked in 1 run: run_id" in out  # what needs building is named


def test_choices_are_names_of_options_and_set_nothing(path, capsys, tmp_path):
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(touch(tmp_path)))
    origin = json.loads((path / "run.json").read_text())
    options = [str(tmp_path / "evil"), "../../../evil", "cubic,linear", 3]
    others = [{"schedule._target_": "x"}, {"hydra/launcher": "evil"}, {"hydra": "x"}]
    for choices in (*({"schedule": option} for option in options), *others):
        (path / "run.json").write_text(json.dumps({**origin, "choices": {**origin["choices"], **choices}}))
        change(path, lambda config: config.update(schedule=touch(tmp_path)))
        assert audit(path, capsys)[0] == 1
        assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("where", ["config.yaml", "run.json", "command"])
def test_no_interpolation_is_resolved_or_printed(where, path, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "do-not-print")
    expression = "${oc.env:SECRET}"
    if where == "config.yaml":
        change(path, lambda config: config["dataset"].update(mean=[expression]))
    elif where == "run.json":
        origin = json.loads((path / "run.json").read_text())
        origin["choices"]["model"] = origin["model"] = origin["git_commit"] = expression
        (path / "run.json").write_text(json.dumps(origin))
    else:
        (row,) = read_csv(path / "summary.csv")
        write_csv(
            path / "summary.csv", list(row), [{**row, "command": f"{row['command']} seed={expression}"}]
        )
    for argv in ((), ("--retrain",), ("--trust",)):
        status, out, err = audit(path, capsys, *argv)
        assert status == 1 and "do-not-print" not in out + err


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1]\nb: *a\n",
        "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
        "[" * 100_000,
        "a: " + "{b: " * 50 + "1" + "}" * 50,
        f"a: {'x' * 300_000}",
        "a: !!python/object/apply:os.system [true]\n",
        "a: ${b}\n",
        'a: "\\u0024{b}"\n',
        "- a\n",
        "a: [\n",
    ],
)
def test_a_config_that_is_no_resolved_config_is_refused_at_once(text, path, capsys):
    with pytest.raises(SettingError):
        read_config(text)
    (path / "config.yaml").write_text(text)
    status, out, _ = audit(path, capsys)
    assert status == 1 and "config.yaml: claimed a readable file" in out


def test_files_are_opened_below_what_was_typed_only(made, path, tmp_path, capsys):
    origin = json.loads((path / "run.json").read_text())
    origin["choices"]["allocation"] = "from_file"
    (path / "run.json").write_text(json.dumps(origin))
    outside = tmp_path / "outside.csv"
    shutil.copy(made / "layers.csv", outside)
    os.mkfifo(path / "fifo.csv")
    (path / "link.csv").symlink_to(outside)
    shutil.copy(outside, path / "inside.csv")
    for name, opened in ((outside, False), (path / "fifo.csv", False), (path / "link.csv", False), ("/dev/zero", False),
                         ("https://host/layers.csv", False), (path / "inside.csv", True)):  # fmt: skip
        node = {
            "_target_": "sparsebench.pruning.layer_sparsities.FromFile",
            "path": str(name),
            "sparsity": 0.9,
        }
        change(path, lambda config, node=node: config.update(allocation=node))
        out = audit(path, capsys)[1]
        assert (f"allocation.path={name}: not opened" in out) is not opened, name
    assert Trust(folders=(tmp_path,)).readable(str(outside), path)
    assert Trust(everything=True).readable("/dev/zero", path)


def test_data_are_read_where_the_user_says(path, tmp_path, capsys):
    change(path, lambda config: config.update(data_root="/proc/self/fd/0"))
    assert audit(path, capsys)[0] == 0  # a place, on which nothing depends


@pytest.mark.parametrize(
    "name", ["summary.csv", "metrics.csv", "layers.csv", "run.json", "config.yaml", "model.safetensors"]
)
@pytest.mark.parametrize("damage", ["fifo", "link", "folder", "list", "huge"])
def test_files_of_a_run_are_plain_files_of_its_folder(name, damage, path, made, tmp_path, capsys):
    file = path / name
    content = file.read_bytes()
    file.unlink()
    if damage == "fifo":
        os.mkfifo(file)
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "folder":
        file.mkdir()
    elif damage == "list":
        file.write_text("[1, 2]\n")
    else:
        with open(file, "wb") as out:
            out.truncate(1 << 40)  # takes no place on the disk
    shutil.copytree(made, path.parent / "more" / made.name)
    if not (path / "summary.csv").is_file():
        return  # an unfinished run, which is left out
    status, out, _ = audit(path.parent, capsys)
    assert status == 1 and "2 runs audited" in out  # the other one too
    assert name in out


@pytest.mark.parametrize(
    "command",
    [
        "sparsebench train model=../../x",
        "sparsebench train model=/tmp/x",
        "sparsebench train 'model._target_=os.system'",
        "sparsebench train '+model.more={_target_: os.system}'",
        "sparsebench train 'seed=${oc.env:HOME}'",
        "sparsebench train 'seed=${a.${oc.env:HOME}}'",
        "sparsebench train model@x=mlp",
        "sparsebench train 'model=[mlp, ../x]'",
        "rm -rf x",
        "sparsebench",
        "sparsebench train 'x",
    ],
)
def test_a_command_with_more_than_settings_is_not_composed(command):
    with pytest.raises(SettingError):
        read_command(command, Trust())


def test_what_a_command_says_of_places_and_launchers_is_set_aside():
    words = ["results_dir=/x", "--config-dir=/y", "hydra.searchpath=[file:///z]", "+hydra.sweeper.params.a=1",
             "hydra/launcher=slurm", "tracker=wandb", "tracker.project=x", "launcher=slurm", "--multirun"]  # fmt: skip
    found = read_command(f"sparsebench train seed=1 {' '.join(words)} prune=dpf", Trust())
    assert found.overrides == ("seed=1", "prune=dpf") and list(found.set_aside) == words


METHOD = """\
from pathlib import Path
from sparsebench.pruning.methods.dpf import DPF

Path(__file__).with_name("imported").touch()


class Theirs(DPF):
    pass
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch, capsys):
    """(folder with a config dir and its module, run folder)"""
    (tmp_path / "conf" / "prune").mkdir(parents=True)
    (tmp_path / "conf" / "prune" / "theirs.yaml").write_text("_target_: their_method.Theirs\n")
    (tmp_path / "conf" / "their_method.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path / "conf")
    monkeypatch.delitem(sys.modules, "their_method", raising=False)
    argv = ["prune=theirs", "schedule.interval=1it", f"results_dir={tmp_path / 'runs'}"]
    assert main(["train", f"--config-dir={tmp_path / 'conf'}", *TINY, *argv]) == 0
    (tmp_path / "conf" / "imported").unlink()
    return tmp_path / "conf", next((tmp_path / "runs").glob("*-*"))


def test_a_run_with_a_config_dir_is_audited_as_far_as_nothing_is_built(foreign, capsys):
    conf, path = foreign
    status, out, _ = audit(path, capsys)
    assert status == 0, out
    assert "prune (theirs is no option here" in out
    assert not (conf / "imported").exists()
    for column in ("top1", "run_id", "train_flops", "steps"):
        assert column in out.partition("not checked")[2]
    (row,) = read_csv(path / "summary.csv")
    for column in (
        "nonzero",
        "sparsity",
        "macs",
        "macs_sparse",
        "weights_hash",
        "best_val_top1",
        "kept_zeros",
    ):
        write_csv(path / "summary.csv", list(row), [{**row, column: "1"}])
        assert f"{column}: claimed 1" in audit(path, capsys)[1]
    assert main(["evaluate", str(path), "evaluate=[calibration]"]) == 1
    assert "not built without --trust" in capsys.readouterr().err


def test_a_config_dir_that_is_typed_is_used(foreign, capsys):
    conf, path = foreign
    capsys.readouterr()
    assert main(["audit", str(path), f"--config-dir={conf}"]) == 0
    out = capsys.readouterr().out
    assert "1 runs audited, 0 claims do not hold" in out and "note: run" not in out
    assert "train_flops" not in out and "top1" not in out.replace("val_top1", "").replace("test_top1", "")
    assert main(["evaluate", str(path), "evaluate=[calibration]", f"--config-dir={conf}"]) == 0
    assert main(["audit", str(path), f"--config-dir={conf / 'none'}"]) == 2
    assert "config-dir=" in capsys.readouterr().err


def test_a_class_of_the_command_line_needs_trust(tmp_path, capsys):
    target = "schedule._target_=sparsebench.pruning.schedules.Linear"
    assert (
        main(["train", *TINY, "prune=dpf", "schedule.interval=1it", target, f"results_dir={tmp_path}"]) == 0
    )
    (path,) = tmp_path.glob("*-*")
    _, out, _ = audit(path, capsys)
    assert (
        "schedule._target_" in out
        and "not built without --trust" in out
        and "not checked in 1 run: command" in out
    )
    capsys.readouterr()
    assert main(["audit", str(path), "--trust"]) == 0
    assert "not built" not in capsys.readouterr().out


def test_a_user_without_a_home_audits_a_sound_run(path, capsys, monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda text: text)  # as without a passwd entry
    change(path, lambda config: config.update(data_root="~/data"))
    assert audit(path, capsys)[0] == 0
