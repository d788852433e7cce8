"""A method in a package of its own, found through its entry point: a real package, installed by pip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsebench import library
from sparsebench.cli import main
from sparsebench.files import read_csv
from sparsebench.paths import config_dir, find_source, installed_configs
from tests.support import ROOT

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "their-pruning"
version = "3.1"

[project.entry-points."sparsebench.conf"]
theirs = "their_pruning.conf"

[tool.hatch.build.targets.wheel]
packages = ["their_pruning"]
"""
INIT = """\
import os, pathlib
pathlib.Path(os.environ["THEIR_MARK"]).touch()
"""
METHOD = '''\
from sparsebench.pruning.methods.dpf import DPF


class Theirs(DPF):
    """Prunes like DPF, and counts.

    References:
        A. Uthor, "Their Pruning", Some Venue 2031, arXiv 3101.00001.
    """

    def __init__(self, weights, schedule, allocation, score, count_from: int = 0) -> None:
        super().__init__(weights, schedule, allocation, score)
        self.updates = count_from

    def update_masks(self, step, generator=None):
        super().update_masks(step, generator)
        self.updates += 1

    def summary(self):
        return {"mask_updates": self.updates}
'''
YAML = """\
defaults:
  - override /schedule@_global_.schedule: theirs

_target_: their_pruning.method.Theirs
count_from: 5   # of the mask updates
"""
SCHEDULE = """\
_target_: sparsebench.pruning.schedules.Linear
sparsity: ${sparsity}
interval: 2it
"""
TINY = ("model=mlp", "model.hidden=[20]", "device=cpu", "epochs=2", "dataset.train_samples=300")


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed package, as site-packages."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    write(
        source,
        {
            "pyproject.toml": PYPROJECT,
            "their_pruning/__init__.py": INIT,
            "their_pruning/method.py": METHOD,
            "their_pruning/conf/prune/theirs.yaml": YAML,
            "their_pruning/conf/schedule/theirs.yaml": SCHEDULE,
        },
    )
    pip = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(target),
        str(source),
    ]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *pip], check=True)
    return target


@pytest.fixture
def sparsebench(site, tmp_path):
    """(words) -> the finished process of the command line, the package on its path."""

    def run(*argv, path=site):
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(path)]),
            "THEIR_MARK": str(tmp_path / "imported"),
        }  # fmt: skip
        command = [sys.executable, "-m", "sparsebench", *argv]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_list_and_completion_find_it_and_import_nothing_of_it(sparsebench, site, tmp_path):
    listed = sparsebench("list", "--format", "json")
    (theirs,) = [entry for entry in json.loads(listed.stdout)["methods"] if entry["name"] == "theirs"]
    assert theirs["description"] == "Prunes like DPF, and counts."
    assert theirs["reference"] == 'A. Uthor, "Their Pruning", Some Venue 2031'
    assert "  theirs " in sparsebench("list", "schedules").stdout
    for line, candidates in (
        ("sparsebench train prune=th", ["prune=theirs"]),
        ("sparsebench sweep prune=dpf,th", ["prune=dpf,theirs"]),
        ("sparsebench train prune=theirs prune.c", ["prune.count_from="]),
    ):
        assert sparsebench("_complete", line).stdout.split() == candidates
    assert str(site / "their_pruning" / "conf") in sparsebench("--help").stdout
    assert "theirs" in sparsebench("train", "--help").stdout
    assert not (tmp_path / "imported").exists()


@pytest.mark.slow
@pytest.mark.nightly
def test_training_with_it_is_like_training_with_any_other(sparsebench, tmp_path):
    run = ("train", "prune=theirs", *TINY, f"results_dir={tmp_path}/runs")
    done = sparsebench(*run)
    assert done.stderr.count("warning") == 0
    (folder,) = (tmp_path / "runs").glob("*-*")
    (row,) = read_csv(folder / "summary.csv")
    steps = 2 * 5
    assert (row["method"], row["mask_updates"]) == ("theirs", str(5 + steps // 2))
    assert (row["sparsity_ok"], row["status"]) == ("True", "finished")
    assert json.loads((folder / "run.json").read_text())["libraries"]["their-pruning"] == "3.1"
    assert "already finished" in sparsebench(*run).stdout
    assert (
        "already finished" in sparsebench(*run, "prune.count_from=5").stdout
    )  # equal to its default: the same run
    assert "already finished" not in sparsebench(*run, "prune.count_from=6").stdout


@pytest.fixture
def installed_here(site, tmp_path, monkeypatch):
    """The package on the path of this process."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("THEIR_MARK", str(tmp_path / "imported"))
    installed_configs.cache_clear()
    yield
    installed_configs.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_pruning"]:
        del sys.modules[name]


def test_a_wrong_setting_of_it_is_named(installed_here, tmp_path, capsys):
    argv = ("prune=theirs", "prune.count_from=many", *TINY, f"results_dir={tmp_path}/runs")
    assert main(["train", *argv]) == 2
    assert "error: prune.count_from=many: expected an integer" in capsys.readouterr().err


def test_the_library_finds_it(installed_here):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"prune.count_from": 1}
    pruner = library.pruner("theirs", model, optimizer, steps=8, sparsity=0.5, settings=settings)
    for _ in range(8):
        with pruner.training_step():
            model(torch.randn(4, 8)).square().sum().backward()
            if pruner.ready():
                optimizer.step()
    pruner.finish()
    assert (pruner.summary()["mask_updates"], pruner.summary()["sparsity"]) == (5, 0.5)


def test_a_broken_entry_point_is_one_line_and_harms_nobody(sparsebench, site, tmp_path):
    def broken(name, points, files):
        folder = tmp_path / f"site of {name}"
        write(folder, {
            f"{name}-1.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
            f"{name}-1.dist-info/entry_points.txt": f"[sparsebench.conf]\n{points}\n", **files,
        })  # fmt: skip
        return folder

    cases = [
        (
            "gone",
            "gone = gone.conf",
            {},
            "gone: entry point gone = gone.conf of sparsebench.conf names no folder",
        ),
        ("bare", "bare = bare", {"bare/__init__.py": ""}, "has no options: there is no prune/NAME.yaml"),
        ("file", "file = file.conf", {"file/conf.py": ""}, "names no folder"),
        ("odd", "odd = !!", {}, "names no folder"),
        (
            "thief",
            "thief = thief",
            {"thief/prune/dpf.yaml": "a: 1"},
            "another prune=dpf takes precedence",
        ),
    ]
    for name, points, files, message in cases:
        path = f"{broken(name, points, files)}:{site}"
        done = sparsebench("list", "methods", path=path)
        (line,) = done.stderr.splitlines()
        assert line.startswith("sparsebench: warning: ") and message in line
        assert "  theirs " in done.stdout and "  dpf " in done.stdout
        if name in ("gone", "thief"):
            done = sparsebench("train", *TINY, "prune=dpf", "--cfg", "job", path=path)
            assert done.stderr.splitlines() == [line] and "methods.dpf.DPF" in done.stdout


def test_options_that_cannot_be_read_or_imported_spoil_no_list(sparsebench, site, tmp_path):
    folder = tmp_path / "site of bad"
    write(folder, {
        "bad-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: bad\nVersion: 1\n",
        "bad-1.dist-info/entry_points.txt": "[sparsebench.conf]\nbad = bad\n",
        "bad/__init__.py": "raise RuntimeError",
        "bad/wrong.py": "def (",
        "bad/prune/bad_yaml.yaml": "a: [",
        "bad/prune/bad_list.yaml": "- a",
        "bad/prune/bad_code.yaml": "_target_: bad.wrong.Wrong",
    })  # fmt: skip
    done = sparsebench("list", "methods", path=folder)
    assert done.stderr == ""
    assert (
        done.stdout.count("cannot be read") == 2 and "  bad_code" in done.stdout and "  dpf " in done.stdout
    )
    assert sparsebench("_complete", "sparsebench train prune=bad", path=folder).stdout.count("\n") == 3
    assert sparsebench("_complete", "sparsebench train prune=bad_yaml epo", path=folder).stdout == "epochs=\n"


def test_packages_and_modules_are_located_without_importing_them():
    package = ROOT / "sparsebench"
    assert find_source("sparsebench") == package and find_source("sparsebench.pruning") == package / "pruning"
    assert find_source("sparsebench.errors") == package / "errors.py"
    assert find_source("antigravity").name == "antigravity.py" and "antigravity" not in sys.modules
    assert (
        find_source("nosuch.thing")
        is find_source("sparsebench.nosuch")
        is find_source("")
        is find_source("..")
        is None
    )


def test_another_hydra_application_does_not_search_these_configs():
    from hydra._internal.utils import create_config_search_path

    from sparsebench.config import compose as composition

    assert composition.InstalledConfigs in composition.Plugins.instance().discover(
        composition.SearchPathPlugin
    )
    for folder, ours in ((str(config_dir()), True), ("/somewhere", False)):
        paths = [place.path for place in create_config_search_path(folder).get_path()]
        assert (str(config_dir()) in paths) is ours
