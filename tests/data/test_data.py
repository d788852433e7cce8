from __future__ import annotations

import hashlib
import http.server
import inspect
import io
import itertools
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml

from sparsebench.data import digits
from sparsebench.data.arrays import ArrayDataset, Content, ImageDataset, Split, stratified
from sparsebench.data.cifar import CIFAR10, CIFAR100
from sparsebench.data.cifar_files import LAYOUT_10, LAYOUT_100, Layout, find, read
from sparsebench.data.digits import Digits
from sparsebench.data.loader import TrainLoader, batches
from sparsebench.errors import SettingError
from tests.support import ROOT

CLASSES = {"digits": Digits, "cifar10": CIFAR10, "cifar100": CIFAR100}
SMALL_10 = replace(LAYOUT_10, train_images=20, test_images=30)
SMALL_100 = replace(LAYOUT_100, train_images=200, test_images=100)


def settings(name: str, **changed) -> dict:
    """The arguments in conf/dataset/<name>.yaml."""
    arguments = yaml.safe_load((ROOT / f"conf/dataset/{name}.yaml").read_text())
    del arguments["_target_"], arguments["recipe"]
    return {**arguments, **changed}


def random_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, *shape), dtype=torch.uint8, generator=random)


def tiny(count: int = 40, shape: tuple[int, int, int] = (3, 4, 5), device="cpu", **changed) -> ImageDataset:
    """Random images: the label of each is its position modulo ten."""
    train = Split(random_images(count, shape), torch.arange(count) % 10)
    test = Split(random_images(20, shape, seed=1), torch.arange(20) % 10)
    arguments = {"val_fraction": 0.25, "split_seed": 0, "train_samples": None, "pad": 1, "flip": True}
    arguments |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}
    return ArrayDataset(content=Content("tiny", 10, train, test), **{**arguments, **changed}, device=device)


def raw(inputs: torch.Tensor, dataset: ImageDataset) -> torch.Tensor:
    """Pixels, from what `TrainLoader` made of them."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
    return ((inputs * std + mean) * 255).round().to(torch.uint8)


def counts(split: Split) -> list[int]:
    return torch.bincount(split.labels).tolist()


def as_set(*splits: Split) -> list[bytes]:
    return sorted(image.numpy().tobytes() for split in splits for image in split.images)


# Splits


@pytest.mark.parametrize("size", [0, 1, 7, 50, 99, 100])
def test_stratified_gives_each_class_its_share_within_one(size):
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 19 + [3])
    drawn = stratified(labels, size, seed=3)
    assert len(drawn.unique()) == size
    assert drawn.tolist() == sorted(drawn.tolist())
    for index, count in enumerate([50, 30, 19, 1]):
        assert abs((labels[drawn] == index).sum().item() - size * count / 100) < 1


def test_stratified_draw_is_pinned_and_changes_with_the_seed():
    labels = torch.arange(40) % 2
    assert stratified(labels, 6, seed=0).tolist() == [2, 3, 23, 36, 37, 38]
    assert stratified(labels, 6, seed=1).tolist() != stratified(labels, 6, seed=0).tolist()


def test_splits_are_disjoint_whole_and_the_same_every_time():
    one, two = Digits(**settings("digits")), Digits(**settings("digits"))
    assert (len(one.train), len(one.val), len(one.test)) == (1294, 144, 359)
    assert one.input_shape == (1, 8, 8) and one.num_classes == 10 and one.name == "digits"
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(one, split).images, getattr(two, split).images)
        assert torch.equal(getattr(one, split).labels, getattr(two, split).labels)
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().images * 255 / 16).round().to(torch.uint8)
    everything = Split(pixels, torch.from_numpy(load_digits().target))
    assert as_set(one.train, one.val, one.test) == as_set(everything)
    for split, share in ((one.train, 1294 / 1797), (one.val, 144 / 1797), (one.test, 359 / 1797)):
        assert all(abs(a - share * b) < 2 for a, b in zip(counts(split), counts(everything), strict=True))


def test_split_seed_moves_train_and_val_but_never_test():
    one, two = Digits(**settings("digits")), Digits(**settings("digits", split_seed=1))
    assert not torch.equal(one.val.images, two.val.images)
    assert as_set(one.train, one.val) == as_set(two.train, two.val)
    assert torch.equal(one.test.images, two.test.images)


def test_train_samples_keeps_stratified_training_images_and_leaves_val_alone():
    whole, few = Digits(**settings("digits")), Digits(**settings("digits", train_samples=100))
    assert len(few.train) == 100
    assert set(counts(few.train)) <= {9, 10, 11}
    assert set(as_set(few.train)) <= set(as_set(whole.train))
    assert torch.equal(whole.val.images, few.val.images) and torch.equal(whole.test.images, few.test.images)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("val_fraction", value) for value in (0, 1, -0.1, 1.5, 1e-9, 1 - 1e-9, "half", True, None)),
        *(("split_seed", value) for value in (-1, 2**32, 0.5, None)),
        *(("train_samples", value) for value in (0, 9, 31, -1, 12.5, "all")),
        *(("pad", value) for value in (-1, 0.5, None)),
        ("mean", [0.5]),
        ("std", [0.5, 0.5]),
        ("std", [0.5, 0.5, 0.0]),
    ],
)
def test_unusable_setting_is_refused_by_name(setting, value):
    with pytest.raises(SettingError, match=rf"^{setting}[=:]"):
        tiny(**{setting: value})


def test_digits_can_repeat_their_grey_channel():
    grey, three = Digits(**settings("digits")), Digits(**settings("digits", channels=3))
    assert three.input_shape == (3, 8, 8) and three.mean == grey.mean * 3
    assert all(torch.equal(three.test.images[:, i], grey.test.images[:, 0]) for i in range(3))


def test_digits_statistics_are_those_of_the_images_outside_test():
    digits = Digits(**settings("digits"))
    pixels = torch.cat([digits.train.images, digits.val.images]).double() / 255
    assert digits.mean[0] == pytest.approx(pixels.mean().item(), abs=1e-4)
    assert digits.std[0] == pytest.approx(pixels.std().item(), abs=1e-4)


@pytest.mark.parametrize("name", CLASSES)
def test_yaml_keys_are_the_arguments_of_the_class(name):
    config = yaml.safe_load((ROOT / f"conf/dataset/{name}.yaml").read_text())
    assert config["_target_"].rpartition(".")[2] == CLASSES[name].__name__
    assert set(config.pop("recipe")) == {"epochs", "batch_size", "lr", "weight_decay"}
    assert {*config, "device"} - {"_target_"} == set(inspect.signature(CLASSES[name]).parameters)
    assert "References:" in CLASSES[name].__doc__


def test_importing_the_package_does_not_import_torch():
    code = "import sys, sparsebench.data; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_importing_the_data_modules_does_not_import_torchvision_or_sklearn():
    code = (
        "import sys, sparsebench.data.cifar, sparsebench.data.digits, sparsebench.data.loader;"
        "sys.exit('torchvision' in sys.modules or 'sklearn' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# Batches


def naive_crop(image: torch.Tensor, pad: int, row: int, column: int, mirrored: bool) -> torch.Tensor:
    """One augmented image, pixel by pixel from the definition."""
    channels, height, width = image.shape
    result = torch.zeros_like(image)
    for channel, y, x in itertools.product(range(channels), range(height), range(width)):
        source_y, source_x = y + row - pad, (width - 1 - x if mirrored else x) + column - pad
        if 0 <= source_y < height and 0 <= source_x < width:
            result[channel, y, x] = image[channel, source_y, source_x]
    return result


def all_crops(dataset: ImageDataset) -> dict[bytes, tuple[int, int, int, bool]]:
    """What every training image may become, and how."""
    offsets = range(2 * dataset.pad + 1)
    ways = itertools.product(range(len(dataset.train)), offsets, offsets, (False, True))
    return {naive_crop(dataset.train.images[w[0]], dataset.pad, *w[1:]).numpy().tobytes(): w for w in ways}


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_hold_crops_of_the_definition_each_image_once_an_epoch(channels_last):
    dataset = tiny()  # 30 training images, 18 crops of each
    ways = all_crops(dataset)
    assert len(ways) == 30 * 18
    loader = TrainLoader(dataset, batch_size=8, seed=5, channels_last=channels_last)
    assert loader.steps_per_epoch == 4
    used = []
    for epoch in range(30):
        of_epoch = []
        for position in range(4):
            inputs, targets = loader.batch(epoch * 4 + position)
            assert inputs.shape == (8 if position < 3 else 6, 3, 4, 5) and inputs.dtype == torch.float32
            found = [ways[image.contiguous().numpy().tobytes()] for image in raw(inputs, dataset)]
            assert targets.tolist() == dataset.train.labels[[way[0] for way in found]].tolist()
            of_epoch += found
        assert sorted(way[0] for way in of_epoch) == list(range(30))
        used += of_epoch
    # 900 draws: every offset 300 times on average, every mirroring 450 times.
    assert all(
        240 < sum(way[place] == offset for way in used) < 360 for place in (1, 2) for offset in range(3)
    )
    assert 390 < sum(way[3] for way in used) < 510
    assert len({way[1:] for way in used}) == 18
    assert used[:30] != used[30:60]


def test_crop_and_mirroring_of_one_image_by_hand():
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    upper_left = torch.tensor([[0, 0], [0, 1]], dtype=torch.uint8)
    assert torch.equal(naive_crop(image[None], 1, 0, 0, False)[0], upper_left)
    assert torch.equal(naive_crop(image[None], 1, 0, 0, True)[0], upper_left.flip(-1))
    images = image.expand(20, 1, 2, 2).contiguous()
    split = Split(images, torch.arange(20) % 10)
    arguments = {"val_fraction": 0.5, "split_seed": 0, "train_samples": None, "pad": 1, "flip": True}
    dataset = ArrayDataset(content=Content("hand", 10, split, split), **arguments, mean=[0], std=[1])
    seen = {
        tuple((inputs[0, 0] * 255).round().int().flatten().tolist())
        for inputs, _ in map(TrainLoader(dataset, 1, seed=0).batch, range(300))
    }
    plain = {  # the nine windows of the image in a frame of black, row by row
        (0, 0, 0, 1), (0, 0, 1, 2), (0, 0, 2, 0),
        (0, 1, 0, 3), (1, 2, 3, 4), (2, 0, 4, 0),
        (0, 3, 0, 0), (3, 4, 0, 0), (4, 0, 0, 0),
    }  # fmt: skip
    assert seen == plain | {(b, a, d, c) for a, b, c, d in plain}


@pytest.mark.parametrize("channels_last", [False, True])
def test_without_augmentation_training_images_are_only_normalised(channels_last):
    dataset = tiny(pad=0, flip=False)
    inputs, targets = TrainLoader(dataset, 30, seed=0, channels_last=channels_last).batch(0)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
    expected = (dataset.train.images / 255 - mean) / std
    order = [way.tobytes() for way in raw(inputs, dataset).contiguous().numpy()]
    index = [[image.tobytes() for image in dataset.train.images.numpy()].index(image) for image in order]
    torch.testing.assert_close(inputs.contiguous(), expected[index], rtol=1e-6, atol=1e-6)
    assert torch.equal(targets, dataset.train.labels[index])
    assert index != list(range(30))


def test_augmentation_does_not_change_the_order_of_images():
    plain, augmented = (TrainLoader(tiny(pad=p, flip=f), 7, seed=2) for p, f in ((0, False), (1, True)))
    for step in range(9):
        assert torch.equal(plain.batch(step)[1], augmented.batch(step)[1])


def test_batch_is_a_function_of_seed_and_step_alone():
    dataset = tiny()
    loader = TrainLoader(dataset, 8, seed=1)
    forward = [loader.batch(step) for step in range(12)]
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for step in (11, 0, 5, 5, 3, 10, 4):
        inputs, targets = loader.batch(step)
        assert torch.equal(inputs, forward[step][0]) and torch.equal(targets, forward[step][1])
    fresh, targets = TrainLoader(dataset, 8, seed=1).batch(7)
    assert torch.equal(fresh, forward[7][0]) and torch.equal(targets, forward[7][1])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(99)
    assert torch.equal(TrainLoader(dataset, 8, seed=1).batch(7)[0], forward[7][0])
    for other in (2, 1 + 2**32):  # torch's own generator would not tell the second one from seed 1
        assert not torch.equal(TrainLoader(dataset, 8, seed=other).batch(7)[0], forward[7][0])


def test_a_batch_given_out_is_never_written_again():
    loader = TrainLoader(tiny(), 8, seed=1)
    inputs, targets = loader.batch(0)
    copies = inputs.clone(), targets.clone()
    for step in range(1, 9):
        loader.batch(step)[0].zero_()
    assert torch.equal(inputs, copies[0]) and torch.equal(targets, copies[1])
    inputs.zero_()
    assert torch.equal(loader.batch(0)[0], copies[0])


def test_channels_last_has_the_same_values_and_another_memory_format():
    dataset = tiny(shape=(3, 8, 8))
    plain, last = TrainLoader(dataset, 8, seed=0), TrainLoader(dataset, 8, seed=0, channels_last=True)
    for step in range(4):
        one, two = plain.batch(step)[0], last.batch(step)[0]
        assert torch.equal(one, two)
        assert one.is_contiguous() and two.is_contiguous(memory_format=torch.channels_last)
    one, two = (next(batches(dataset, "test", 8, channels_last=last))[0] for last in (False, True))
    assert torch.equal(one, two) and two.is_contiguous(memory_format=torch.channels_last)


def test_number_of_threads_does_not_change_a_batch():
    dataset = tiny(count=400, shape=(3, 32, 32), pad=4)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(TrainLoader(dataset, 128, seed=0).batch(1)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [
        (8, False, [8, 8, 8, 6]),
        (8, True, [8, 8, 8]),
        (10, False, [10, 10, 10]),
        (29, False, [29]),  # one image would be left, which batch normalisation cannot train on
        (100, False, [30]),
        (1, False, [1] * 30),
    ],
)
def test_last_batch_of_an_epoch(batch_size, drop_last, sizes):
    loader = TrainLoader(tiny(), batch_size, seed=0, drop_last=drop_last)
    assert loader.steps_per_epoch == len(sizes)
    assert [len(loader.batch(step)[1]) for step in range(len(sizes))] == sizes
    assert len(loader.batch(len(sizes))[1]) == sizes[0]


@pytest.mark.parametrize(
    ("setting", "arguments"),
    [
        ("batch_size", {"batch_size": 0, "seed": 0}),
        ("batch_size", {"batch_size": 2.5, "seed": 0}),
        ("batch_size", {"batch_size": 31, "seed": 0, "drop_last": True}),
        ("seed", {"batch_size": 8, "seed": -1}),
        ("seed", {"batch_size": 8, "seed": "zero"}),
    ],
)
def test_loader_refuses_unusable_settings(setting, arguments):
    with pytest.raises(SettingError, match=rf"^{setting}[=:]"):
        TrainLoader(tiny(), **arguments)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_batches_give_a_split_in_order_normalised_and_otherwise_as_it_is(split):
    dataset = tiny()
    given = list(batches(dataset, split, batch_size=7))
    assert all(len(targets) == 7 for _, targets in given[:-1])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
    expected = getattr(dataset, split)
    inputs, targets = torch.cat([pair[0] for pair in given]), torch.cat([pair[1] for pair in given])
    torch.testing.assert_close(inputs, (expected.images / 255 - mean) / std, rtol=1e-6, atol=1e-6)
    assert torch.equal(targets, expected.labels) and targets.dtype == torch.int64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_batches_of_the_cpu():
    one, two = (TrainLoader(tiny(device=device), 8, seed=0) for device in ("cpu", "cuda"))
    for step in range(8):
        torch.testing.assert_close(two.batch(step)[0].cpu(), one.batch(step)[0], rtol=1e-6, atol=1e-6)
        assert torch.equal(two.batch(step)[1].cpu(), one.batch(step)[1])


# Files


class Python2Pickler(pickle._Pickler):
    """Writes bytes, text and flags as Python 2 did, which made the official files."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(b"T" + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    def save_text(self, value):
        self.save_bytes(value.encode("ascii"))

    def save_flag(self, value):
        self.save_long(int(value))

    dispatch[bytes], dispatch[str], dispatch[bool] = save_bytes, save_text, save_flag


def python2(value: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core", b"numpy.core")


def contents(layout: Layout, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random pixels [N, 3072] and labels [N, label_bytes] of each file."""
    random = np.random.RandomState(seed)
    sizes = dict.fromkeys(layout.train_files, layout.train_images) | {layout.test_file: layout.test_images}
    made = {}
    for name, count in sizes.items():
        fine = random.permutation(np.arange(count) % layout.num_classes)
        labels = np.stack([fine // 5, fine][-layout.label_bytes :], axis=1)
        made[name] = random.randint(0, 256, (count, 3072)).astype(np.uint8), labels
    return made


def write_binary(parent: Path, layout: Layout) -> Path:
    folder = parent / layout.binary_folder
    folder.mkdir(parents=True)
    for name, (pixels, labels) in contents(layout).items():
        (folder / f"{name}.bin").write_bytes(
            np.concatenate([labels.astype(np.uint8), pixels], axis=1).tobytes()
        )
    return folder


def write_python(parent: Path, layout: Layout, dump=python2) -> Path:
    folder = parent / layout.python_folder
    folder.mkdir(parents=True)
    for name, (pixels, labels) in contents(layout).items():
        batch = {"batch_label": "a batch", "data": pixels, layout.label_key: labels[:, -1].tolist()}
        if layout.label_bytes == 2:
            batch["coarse_labels"] = labels[:, 0].tolist()
        (folder / name).write_bytes(dump(batch))
    return folder


def check(splits: tuple[Split, Split], layout: Layout) -> None:
    files = contents(layout)
    for split, names in zip(splits, (layout.train_files, (layout.test_file,)), strict=True):
        images = np.concatenate([files[name][0] for name in names]).reshape(-1, 3, 32, 32)
        assert np.array_equal(split.images.numpy(), images) and split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        assert np.array_equal(split.labels.numpy(), np.concatenate([files[name][1][:, -1] for name in names]))
        assert split.labels.dtype == torch.int64


@pytest.mark.parametrize("layout", [SMALL_10, SMALL_100], ids=["cifar10", "cifar100"])
@pytest.mark.parametrize(
    "write",
    [
        write_binary,
        write_python,
        lambda parent, layout: write_python(parent, layout, lambda batch: pickle.dumps(batch, protocol=2)),
        lambda parent, layout: write_python(parent, layout, lambda batch: pickle.dumps(batch, protocol=4)),
    ],
    ids=["binary", "python2", "python3", "python3-protocol4"],
)
def test_every_version_reads_to_the_arrays_it_was_made_of(tmp_path, layout, write):
    check(read(write(tmp_path, layout), layout), layout)


@pytest.mark.parametrize("inside", ["", "cifar10"])
@pytest.mark.parametrize("write", [write_binary, write_python])
def test_data_is_found_in_the_root_and_in_its_own_folder_below(tmp_path, monkeypatch, inside, write):
    monkeypatch.setattr(CIFAR10, "layout", SMALL_10)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find(tmp_path / "root", SMALL_10) is None
    folder = write(tmp_path / "root" / inside, SMALL_10)
    assert find(tmp_path / "root", SMALL_10) == folder
    dataset = CIFAR10(**settings("cifar10", data_root="~/root"))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (90, 10, 30)
    assert counts(dataset.val) == [1] * 10
    assert dataset.input_shape == (3, 32, 32) and dataset.num_classes == 10 and dataset.name == "cifar10"


def test_cifar100_uses_the_fine_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR100, "layout", SMALL_100)
    write_binary(tmp_path, SMALL_100)
    dataset = CIFAR100(**settings("cifar100", data_root=str(tmp_path), val_fraction=0.5))
    assert counts(dataset.train) == counts(dataset.val) == counts(dataset.test) == [1] * 100


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def with_wrong_label(path: Path) -> None:
    if path.suffix == ".bin":
        data = bytearray(path.read_bytes())
        data[3073 * 7] = 10
        path.write_bytes(data)
    else:
        batch = {"data": np.zeros((20, 3072), np.uint8), "labels": [10] * 20}
        path.write_bytes(python2(batch))


def with_too_few_images(path: Path) -> None:
    if path.suffix == ".bin":
        path.write_bytes(path.read_bytes()[: 3073 * 19])
    else:
        path.write_bytes(python2({"data": np.zeros((19, 3072), np.uint8), "labels": [0] * 19}))


@pytest.mark.parametrize("damage", [truncated, emptied, with_wrong_label, with_too_few_images, Path.unlink])
@pytest.mark.parametrize("write", [write_binary, write_python])
def test_damaged_file_is_named_in_one_line(tmp_path, monkeypatch, write, damage):
    monkeypatch.setattr(CIFAR10, "layout", SMALL_10)
    folder = write(tmp_path, SMALL_10)
    path = next(folder.glob("data_batch_3*"))
    damage(path)
    with pytest.raises(SettingError) as caught:
        CIFAR10(**settings("cifar10", data_root=str(tmp_path)))
    message = str(caught.value)
    assert message.startswith(f"data_root={path}: ") and "\n" not in message and LAYOUT_10.url in message


@pytest.mark.parametrize(
    "batch",
    [
        {"labels": [0] * 20},
        {"data": np.zeros((20, 3072), np.float32), "labels": [0] * 20},
        {"data": np.zeros((20, 3072), np.uint8), "labels": [0] * 19},
        {"data": np.zeros((20, 3072), np.uint8), "labels": ["a"] * 20},
        {"data": [0], "labels": [0] * 20},
        [1, 2],
    ],
)
def test_pickle_of_something_else_is_refused(tmp_path, batch):
    folder = write_python(tmp_path, SMALL_10)
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(SettingError, match="test_batch"):
        read(folder, SMALL_10)


class Trap:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_pickle_that_calls_a_function_is_refused_and_does_not_run(tmp_path):
    folder = write_python(tmp_path, SMALL_10)
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": Trap(tmp_path / "sprung")}))
    with pytest.raises(SettingError, match=r"refers to posix\.mkdir|refers to nt\.mkdir"):
        read(folder, SMALL_10)
    assert not (tmp_path / "sprung").exists()


def test_missing_data_without_network_ends_in_one_line(tmp_path, monkeypatch, capfd):
    with socket.socket() as unused:  # a port where nobody answers
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "not yet there"
    for cls, name in ((CIFAR10, "cifar10"), (CIFAR100, "cifar100")):
        with pytest.raises(SettingError) as caught:
            cls(**settings(name, data_root=str(root)))
        message = str(caught.value)
        assert message.startswith(f"data_root={root}: ") and "\n" not in message
        assert "refused" in message and cls.layout.url in message
        assert str(root / name / cls.layout.binary_folder) in message
    assert capfd.readouterr() == ("", "")
    assert socket.getdefaulttimeout() is None
    assert list(root.iterdir()) == []


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server on this machine: its folder and its address."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# Older torchvision unpacks without naming a filter, of which Python 3.12 and 3.13 warn.
@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter extracted tar:DeprecationWarning")
def test_download_is_unpacked_into_the_root_and_then_read_without_network(tmp_path, monkeypatch, capfd, site):
    from torchvision import datasets

    monkeypatch.setattr(CIFAR10, "layout", SMALL_10)
    folder, address = site
    archive = folder / "published.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(write_python(tmp_path / "made", SMALL_10), arcname=SMALL_10.python_folder)
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}/{archive.name}")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    root = tmp_path / "root"
    first = CIFAR10(**settings("cifar10", data_root=str(root)))
    assert [path.name for path in root.iterdir()] == [SMALL_10.python_folder]
    check(read(root / SMALL_10.python_folder, SMALL_10), SMALL_10)
    archive.unlink()
    second = CIFAR10(**settings("cifar10", data_root=str(root)))
    assert torch.equal(first.train.images, second.train.images)

    archive.write_bytes(b"cut off")
    with pytest.raises(SettingError, match="download failed: File not found or corrupted"):
        CIFAR10(**settings("cifar10", data_root=str(tmp_path / "another root")))
    assert capfd.readouterr() == ("", "")


def test_data_root_that_cannot_be_written_ends_in_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SettingError, match=r"^data_root="):
        CIFAR10(**settings("cifar10", data_root=str(tmp_path / "file")))


ROOTS = ("~/.cache/sparsebench", "~/.cache/cifar10")


def real_cifar10() -> str | None:
    roots = (os.environ.get("SPARSEBENCH_DATA"), *ROOTS)
    return next((root for root in roots if root and find(Path(root).expanduser(), LAYOUT_10)), None)


@pytest.mark.cifar10
@pytest.mark.skipif(real_cifar10() is None, reason=f"no CIFAR-10 in SPARSEBENCH_DATA, {', '.join(ROOTS)}")
def test_real_cifar10_has_its_published_size_and_statistics():
    dataset = CIFAR10(**settings("cifar10", data_root=real_cifar10()))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (45_000, 5_000, 10_000)
    assert counts(dataset.train) == [4_500] * 10
    assert counts(dataset.val) == [500] * 10
    assert counts(dataset.test) == [1_000] * 10
    pixels = torch.cat([dataset.train.images, dataset.val.images]).float().div_(255)
    std, mean = torch.std_mean(pixels, dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor(dataset.mean), rtol=0, atol=1e-4)
    torch.testing.assert_close(std, torch.tensor(dataset.std), rtol=0, atol=1e-4)
    inputs, targets = TrainLoader(dataset, 128, seed=0).batch(1000)
    assert inputs.shape == (128, 3, 32, 32) and inputs.isfinite().all() and targets.max() < 10


def test_digits_are_those_of_scikit_learn_with_and_without_its_file(monkeypatch):
    from sklearn.datasets import load_digits

    theirs = load_digits()
    for found in (digits.find_source, lambda name: None):  # read from the file, and by scikit-learn
        monkeypatch.setattr(digits, "find_source", found)
        images, labels = digits.bundled_digits()
        assert images.dtype == theirs.images.dtype and (images == theirs.images).all()
        assert labels.dtype == "int64" and (labels == theirs.target).all()
