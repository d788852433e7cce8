"""The hashes of a run: equal in two processes, and different where what they are of differs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sparsebench.cli import main
from sparsebench.config.open import compose_config
from sparsebench.files import read_csv, write_csv
from sparsebench.records.schema import REPEATABILITY_TABLE, names
from sparsebench.runs.build import build_run
from sparsebench.runs.hashes.initial import init_hash
from sparsebench.runs.hashes.order import order_hash
from sparsebench.runs.hashes.splits import split_hash
from sparsebench.runs.hashes.weights import weights_hash
from tests.support.imagenet_tree import Maker

TINY = (
    "model=mlp",
    "model.hidden=[8]",
    "dataset.train_samples=64",
    "batch_size=32",
    "epochs=2",
    "device=cpu",
)
HASHES = ("init_hash", "split_hash", "order_hash", "weights_hash")


def trained(folder, *argv):
    assert main(["train", *TINY, f"results_dir={folder}", *argv]) == 0
    (summary,) = folder.glob("*/summary.csv")
    return read_csv(summary)[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("base"), "prune=snip")


def test_two_processes_give_equal_hashes(base, tmp_path):
    argv = [*TINY, "prune=snip", f"results_dir={tmp_path}"]
    subprocess.run([sys.executable, "-m", "sparsebench", "train", *argv], check=True, capture_output=True)
    (summary,) = tmp_path.glob("*/summary.csv")
    (row,) = read_csv(summary)
    assert tuple(row)[-len(names(REPEATABILITY_TABLE)) :] == names(REPEATABILITY_TABLE)
    for column in (*HASHES, "numerics"):
        assert row[column] == base[column] != "", column
    assert all(len(row[column]) == 16 for column in HASHES)
    assert weights_hash(load_file(summary.parent / "model.safetensors")) == row["weights_hash"]


@pytest.mark.parametrize(
    ("argv", "differing"),
    [
        (("seed=1",), {"init_hash", "order_hash", "weights_hash"}),
        (("dataset.split_seed=1",), {"init_hash", "split_hash", "weights_hash"}),  # SNIP looks at the images
        (("batch_size=16",), {"init_hash", "order_hash", "weights_hash"}),
        (("optimizer.lr=0.01",), {"weights_hash"}),
        (("sparsity=0.5",), {"init_hash", "weights_hash"}),
        (("deterministic=true",), set()),
    ],
)
def test_each_differs_with_what_it_is_of(base, tmp_path, argv, differing):
    row = trained(tmp_path, "prune=snip", *argv)
    assert {column for column in HASHES if row[column] != base[column]} == differing
    assert (row["numerics"] != base["numerics"]) == (argv == ("deterministic=true",))


def test_weights_are_hashed_by_name_type_shape_and_value():
    state = {"b": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "a": torch.tensor(3)}
    base = weights_hash(state)
    assert weights_hash(dict(reversed(state.items()))) == base
    assert weights_hash({**state, "b": state["b"].t().contiguous().t()}) == base  # another layout in memory
    others = [
        {**state, "b": state["b"].view(4)}, {**state, "b": state["b"].double()}, {**state, "b": -state["b"]},
        {"c": state["b"], "a": state["a"]}, {"b": state["b"]}, {**state, "a": torch.tensor(3, dtype=torch.int32)},
        {**state, "b": state["b"].bfloat16()}, {**state, "e": torch.empty(0)},
    ]  # fmt: skip
    assert len({weights_hash(other) for other in others} | {base}) == len(others) + 1
    model = nn.Conv2d(3, 4, 3)
    kept = weights_hash(model.state_dict())
    assert weights_hash(model.to(memory_format=torch.channels_last).state_dict()) == kept
    masks = {"weight": torch.ones(2, dtype=torch.bool)}
    assert init_hash(state, masks) != init_hash(state, {"weight": ~masks["weight"]}) != init_hash(state, {})


def test_order_is_that_of_the_loader_with_its_crops_and_flips():
    def order(*argv):
        return order_hash(build_run(compose_config([*TINY, "prune=dense", *argv])[0]).data)

    base = order()
    others = [order("seed=1"), order("batch_size=16"), order("dataset.pad=3"), order("dataset.flip=true"),
              order("dataset.train_samples=65")]  # fmt: skip
    assert order("epochs=5", "channels_last=true") == base
    assert len({base, *others}) == 6


def test_images_on_disk_are_hashed_by_their_list(tmp_path):
    maker = Maker(None, sides=(20, 30))
    for number in range(24):
        maker.write(tmp_path / "images" / f"class{number % 2}" / f"{number:02}.jpg", number % 2)

    def made(*argv):
        words = [
            "dataset=imagefolder",
            "dataset.name=few",
            f"data_root={tmp_path / 'images'}",
            "batch_size=2",
            "workers=0",
        ]
        components = build_run(compose_config([*words, "model=mlp", "prune=dense", "device=cpu", *argv])[0])
        return split_hash(components.dataset), order_hash(components.data)

    splits, order = made()
    assert made() == (splits, order)
    assert made("seed=1")[0] == splits and made("seed=1")[1] != order
    first = next((tmp_path / "images").rglob("*.jpg"))
    first.rename(first.with_name("00_renamed.jpg"))
    assert made()[0] != splits


def test_an_edited_hash_and_edited_weights_are_found(base, tmp_path, capsys):
    trained(tmp_path, "prune=snip")
    (folder,) = tmp_path.glob("*-*")
    (row,) = read_csv(folder / "summary.csv")
    write_csv(folder / "summary.csv", [*row], [{**row, "init_hash": "0" * 16, "weights_hash": "1" * 16}])
    capsys.readouterr()
    assert main(["audit", str(folder), "--format", "json", "--no-accuracy"]) == 1
    found = {f["column"]: f["found"] for f in json.loads(capsys.readouterr().out) if f["kind"] == "claim"}
    assert found == {"init_hash": f"{row['init_hash']} (run.json)", "weights_hash": row["weights_hash"]}
    write_csv(folder / "summary.csv", [*row], [row])
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if "bias" in name)
    save_file({**state, name: state[name] + 1e-6}, folder / "model.safetensors")
    assert main(["audit", str(folder), "--format", "json", "--no-accuracy"]) == 1
    assert "weights_hash" in capsys.readouterr().out
