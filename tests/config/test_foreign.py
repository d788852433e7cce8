"""The id of a run changes with code and files that do not come with the package, and with nothing else about them."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from sparsebench.cli import main
from sparsebench.config import foreign
from sparsebench.config.compose import IDENTITY_GROUPS
from sparsebench.config.contents import content_hash, listing_hash
from sparsebench.config.identity import id_of, identity, match, run_id

TINY = ("dataset.train_samples=50", "epochs=1", "device=cpu", "prune=dense")

MODEL = """
from torch import nn
from my_parts.layers import hidden
import my_parts.width as width

def network(input_shape, num_classes):
    pixels = input_shape[0] * input_shape[1] * input_shape[2]
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden()), nn.ReLU(), nn.Linear(hidden(), num_classes))
    model.name = "mine"
    return model
"""

FILES = {
    "my_models.py": MODEL,
    "my_parts/__init__.py": "",
    "my_parts/layers.py": "from .width import WIDTH\n\ndef hidden():\n    return WIDTH\n",
    "my_parts/width.py": "WIDTH = 8\n",
    "my_parts/unrelated.py": "x = 1\n",
    "conf/model/mine.yaml": "_target_: my_models.network\n",
}


def write(folder, files=FILES):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = write(tmp_path / "project")
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture(autouse=True)
def fresh():
    """Modules and sources are read anew: a user's next command is another process."""
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("my_models", "my_parts")]:
        del sys.modules[name]


def train(project, results, *more, model="mine"):
    fresh_modules = [name for name in sys.modules if name.split(".")[0] in ("my_models", "my_parts")]
    for name in fresh_modules:
        del sys.modules[name]
    argv = [
        "train",
        f"--config-dir={project / 'conf'}",
        f"model={model}",
        *TINY,
        f"results_dir={results}",
        *more,
    ]
    return main(argv)


def runs(results):
    return {path.name for path in results.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize(
    ("name", "counts"),
    [("my_models.py", True), ("my_parts/__init__.py", True), ("my_parts/layers.py", True),
     ("my_parts/width.py", True), ("my_parts/unrelated.py", False), ("conf/model/other.yaml", False)],
)  # fmt: skip
def test_an_edited_file_is_another_run_if_the_model_is_made_of_it(project, tmp_path, name, counts, capsys):
    results = tmp_path / "results"
    assert train(project, results) == 0
    assert train(project, results) == 0
    assert "already finished" in capsys.readouterr().out and len(runs(results)) == 1
    with open(project / name, "a") as file:
        file.write("# edited\n")
    assert train(project, results) == 0
    assert len(runs(results)) == 1 + counts
    (folder, *_) = sorted(results.glob("[!.]*"))
    origin = json.loads((folder / "run.json").read_text())
    assert origin["config_dirs"] == [str(project / "conf")] and origin["identity"]["code"].keys() == {
        "my_models"
    }
    assert f"--config-dir={project / 'conf'}" in origin["command"]


def test_the_same_code_elsewhere_is_the_same_run(project, tmp_path, monkeypatch, capsys):
    assert train(project, tmp_path / "results") == 0
    moved = shutil.copytree(project, tmp_path / "moved")
    monkeypatch.setattr(sys, "path", [str(moved), *(p for p in sys.path if p != str(project))])
    assert train(moved, tmp_path / "results") == 0
    assert "already finished" in capsys.readouterr().out and len(runs(tmp_path / "results")) == 1


def test_a_default_of_an_option_of_another_folder_is_part_of_the_run(project, tmp_path, capsys):
    write(project, {"conf/model/wide.yaml": "_target_: my_models.network\nwidth: 1\n"})
    with open(project / "my_models.py", "a") as file:
        file.write("\nplain = network\ndef network(input_shape, num_classes, width=1):")
        file.write("\n    return plain(input_shape, num_classes)\n")
    assert train(project, tmp_path / "results", model="wide") == 0
    write(project, {"conf/model/wide.yaml": "_target_: my_models.network\nwidth: 2\n"})
    assert train(project, tmp_path / "results", model="wide") == 0
    assert len(runs(tmp_path / "results")) == 2 and "already finished" not in capsys.readouterr().out


def test_a_released_distribution_counts_by_its_version(tmp_path, monkeypatch):
    site = write(tmp_path / "site", {
        "released_models.py": "def network(): pass\n",
        "released_models-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: released-models\nVersion: 1.2\n",
        "released_models-1.2.dist-info/top_level.txt": "released_models\n",
        "released_models-1.2.dist-info/RECORD": "released_models.py,,\n",
    })  # fmt: skip
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(foreign, "_site_packages", lambda: (site,))
    foreign._distributions.cache_clear()
    assert foreign.code_of("released_models.network") == {"released_models": "1.2"}
    with open(site / "released_models.py", "a") as file:
        file.write("# patched\n")
    assert foreign.code_of("released_models.network") == {"released_models": "1.2"}
    foreign._distributions.cache_clear()
    monkeypatch.setattr(foreign, "_site_packages", lambda: ())  # as an editable installation: a folder
    edited = foreign.code_of("released_models.network")
    assert list(edited) == ["released_models"] and len(edited["released_models"]) == foreign.DIGITS


@pytest.mark.parametrize(
    "name", ["sparsebench.pruning.schedules.Cubic", "torch.optim.SGD", "collections.OrderedDict"]
)
def test_the_package_pytorch_and_python_are_recorded_and_not_counted(name):
    assert foreign.code_of(name) == {}


@pytest.mark.parametrize("group", [*IDENTITY_GROUPS, "device"])
def test_a_class_that_is_not_the_options_own_is_another_run(hydra_config, group):
    cfg, choices = hydra_config("prune=gmp")
    before, own = run_id(cfg, choices), cfg[group]._target_
    other = {"prune": "sparsebench.pruning.methods.dpf.DPF"}.get(group, f"{own}Other")
    cfg[group]._target_ = other
    found = identity(cfg, choices)
    assert found["targets"] == {f"{group}._target_": other} and id_of(found) != before
    cfg[group]._target_ = own
    assert run_id(cfg, choices) == before


def test_a_nested_class_counts_too(hydra_config):
    cfg, choices = hydra_config("prune=gmp", "+model.extra=[{_target_: torch.nn.ReLU}]")
    assert identity(cfg, choices)["targets"] == {"model.extra.0._target_": "torch.nn.ReLU"}


def test_an_old_name_of_the_options_own_class_is_the_same_run(hydra_config):
    cfg, choices = hydra_config()
    before = run_id(cfg, choices)
    cfg.lr_schedule._target_ = cfg.lr_schedule._target_.replace(".optim.", ".")
    assert cfg.lr_schedule._target_ == "sparsebench.lr_schedules.Multistep" and run_id(cfg, choices) == before


def test_a_file_counts_by_its_content_wherever_it_is(hydra_config, tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "elsewhere" / "b.csv"
    first.write_text("layer,sparsity\nfc,0.5\n")
    second.parent.mkdir()
    shutil.copy(first, second)

    def found(path):
        cfg, choices = hydra_config("prune=gmp", "allocation=from_file", f"allocation.path={path}")
        return identity(cfg, choices), cfg

    here, there = found(first)[0], found(second)[0]
    assert here == there and here["files"] == {"allocation.path": content_hash(first)}
    assert "allocation.path" not in here["changed"]
    second.write_text("layer,sparsity\nfc,0.6\n")
    assert id_of(found(second)[0]) != id_of(here)
    # An earlier version knew the run by the path, and it is found by that.
    by_path = {k: v for k, v in here.items() if k != "files"}
    by_path["changed"] = {**here["changed"], "allocation.path": str(first)}
    assert match(here, found(first)[1], {id_of(by_path)}.__contains__) == by_path
    assert match(here, found(first)[1], lambda run: False) == here


def test_a_folder_counts_by_names_and_sizes_and_a_run_by_its_weights(tmp_path):
    write(tmp_path / "a", {"x/1.bin": "one", "y.bin": "two", ".hidden/z": "no"})
    write(tmp_path / "b", {"x/1.bin": "eno", "y.bin": "two"})
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    assert listing_hash(tmp_path / "a", contents=True) != listing_hash(tmp_path / "b", contents=True)
    write(tmp_path / "b", {"y.bin": "three"})
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")
    write(tmp_path / "run", {"model.safetensors": "weights", "log.txt": "1"})
    before = content_hash(tmp_path / "run")
    write(tmp_path / "run", {"log.txt": "12"})
    assert content_hash(tmp_path / "run") == before == content_hash(tmp_path / "run" / "model.safetensors")


def test_the_hash_of_a_large_file_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "weights.bin"
    file.write_bytes(b"a" * (1 << 20))
    first = content_hash(file)
    (kept,) = (tmp_path / "cache" / "sparsebench" / "hashes").iterdir()
    kept.write_text(kept.read_text().replace(first, "remembered"))
    assert content_hash(file) == "remembered"
    file.write_bytes(b"b" * (1 << 20))
    assert content_hash(file) not in (first, "remembered")
    kept.write_text("damaged")
    assert len(content_hash(file)) == 16
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no/such/place")
    assert content_hash(file) == content_hash(file)


def test_data_check_prints_hashes_that_are_equal_where_the_data_are(tmp_path, capsys):
    from PIL import Image

    def tree(name, colour):
        for label in "ab":
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(12):
                Image.new("RGB", (8, 8), (number, colour, 0)).save(tmp_path / name / label / f"{number}.bmp")
        assert (
            main(["data", "check", "imagefolder", "dataset.name=x", f"data_root={tmp_path / name}", "--hash"])
            == 0
        )
        return next(
            line for line in capsys.readouterr().out.splitlines() if line.startswith("names and sizes")
        )

    first, same, other = tree("first", 1), tree("same", 1), tree("other", 2)
    assert first == same != other and first.split(",")[0] == other.split(",")[0]  # sizes are equal
    assert main(["data", "check", "digits", "--hash"]) == 0
    assert "split_hash da5c651ebe30e0b9" in capsys.readouterr().out
