from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import transforms

from sparsebench.cli import main
from sparsebench.data.decoding import EvalTransform as CentreView
from sparsebench.data.decoding import TrainTransform, decode, decode_with_pillow
from sparsebench.data.folder import ImageFolder
from sparsebench.data.streaming import available_workers
from sparsebench.data.tiny_imagenet import TinyImageNet
from sparsebench.errors import RunError, SettingError
from sparsebench.training.flops import count_layers
from tests.support import imagenet_tree
from tests.support.datasets import SETTINGS, imagenet
from tests.support.processes import finish, kill_when, result

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="session")
def tree(tmp_path_factory, cifar10_root) -> Path:
    """Four classes with 8 images each for training, 3 for test; sorted."""
    root = tmp_path_factory.mktemp("imagenet")
    return imagenet_tree.imagenet(root, classes=4, train=8, val=3, cifar10_root=cifar10_root)


def batches(loader, steps):
    return [loader.batch(step) for step in steps]


def same(one, two):
    return all(torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("layout", ["devkit", "archive", "kaggle"])
def test_flat_validation_images_get_the_classes_of_sorted_ones(tmp_path, layout):
    drawn = {"classes": 3, "train": 4, "val": 3, "sides": (30, 40)}
    flat = imagenet(imagenet_tree.imagenet(tmp_path / layout, layout=layout, **drawn))
    # The same files, sorted by what the generator knows: images of test differ in order only.
    sorted_ = imagenet(imagenet_tree.imagenet(tmp_path / "sorted", layout="sorted", **drawn))
    by_name = {sorted_.test.source.name(i).split("/")[1]: int(sorted_.test.labels[i]) for i in range(9)}
    assert {flat.test.source.name(i): int(flat.test.labels[i]) for i in range(9)} == by_name


def test_val_comes_out_of_train_and_the_official_validation_images_are_the_test_set(tree):
    dataset = imagenet(tree)
    names = {
        s: [dataset.__dict__[s].source.name(i) for i in dataset.__dict__[s].indices]
        for s in ("train", "val", "test")
    }
    assert [len(names[s]) for s in ("train", "val", "test")] == [24, 8, 12]
    assert not set(names["train"]) & set(names["val"])
    assert (
        dataset.val.labels.bincount().tolist() == [2] * 4
        and dataset.test.labels.bincount().tolist() == [3] * 4
    )
    for split in ("train", "val", "test"):
        wnids = [imagenet_tree.wnid(int(label)) for label in dataset.__dict__[split].labels]
        assert [name.split("/")[0] for name in names[split]] == wnids
    assert imagenet(tree, split_seed=1).val.indices.tolist() != dataset.val.indices.tolist()
    few = imagenet(tree, train_samples=4).train
    assert few.labels.tolist() == [0, 1, 2, 3] and set(few.indices.tolist()) <= set(
        dataset.train.indices.tolist()
    )


def test_less_than_all_of_imagenet_is_not_called_imagenet(tree):
    dataset = imagenet(tree)
    assert dataset.name == "imagenet_subset" and "4 classes with 32 and 12 images" in dataset.note


def test_batches_do_not_depend_on_the_number_of_workers_or_on_where_the_loader_starts(tree):
    steps = range(8)  # over two ends of epochs of 3 batches
    one = batches(imagenet(tree).loader(9, seed=1), steps)
    two = imagenet(tree, workers=2).loader(9, seed=1)
    assert same(batches(two, steps), one)
    assert same(batches(two, range(4, 8)), one[4:])  # back, as after a probe, with workers that are ahead
    assert same([imagenet(tree, workers=1).loader(9, seed=1).batch(5)], one[5:6])
    assert not same([imagenet(tree).loader(9, seed=2).batch(0)], one[:1])
    assert [len(targets) for _, targets in one[:3]] == [9, 9, 6]


def test_large_batches_are_read_in_parts_by_several_workers(tree, monkeypatch):
    from sparsebench.data import streaming

    one = batches(imagenet(tree).loader(11, seed=1), range(5))
    whole = [images for images, _ in imagenet(tree).batches("test", 12)]
    monkeypatch.setattr(streaming, "CHUNK", 4)
    for workers in (0, 2):
        dataset = imagenet(tree, workers=workers)
        assert same(batches(dataset.loader(11, seed=1), range(5)), one)
        assert torch.equal(torch.cat([images for images, _ in dataset.batches("test", 7)]), whole[0])


def test_every_image_once_an_epoch_and_a_new_view_each_time(tree):
    loader = imagenet(tree, flip=False).loader(8, seed=0)
    epochs = [torch.cat([loader.positions(step) for step in range(3 * e, 3 * e + 3)]) for e in range(2)]
    assert all(epoch.sort().values.tolist() == list(range(24)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    fixed = imagenet(tree, train_samples=4)
    first, second = (fixed.loader(4, seed=0).batch(step) for step in (0, 1))
    assert sorted(first[1].tolist()) == sorted(second[1].tolist()) == [0, 1, 2, 3]
    order = first[1].argsort(), second[1].argsort()
    assert not any(torch.equal(a, b) for a, b in zip(first[0][order[0]], second[0][order[1]], strict=True))


def test_a_rank_reads_its_rows_only_and_all_ranks_together_the_batch(tree):
    whole = imagenet(tree, repeats=2).loader(9, seed=0)
    expected = [whole.batch(step) for step in range(4)]
    assert [whole.size(step) for step in range(4)] == [9, 9, 6, 9]
    loaders = [imagenet(tree, repeats=2, workers=n).loader(9, seed=0) for n in (0, 1, 0)]
    for step in range(4):
        parts = [loader.batch(step, rank, 3) for rank, loader in enumerate(loaders)]
        assert [len(targets) for _, targets in parts] == ([2] * 3 if step == 2 else [3] * 3)
        assert all(
            torch.equal(torch.cat(given), e)
            for given, e in zip(zip(*parts, strict=True), expected[step], strict=True)
        )
    last = imagenet(tree).loader(9, seed=0).batch(2, 5, 6)  # too few images for six ranks
    assert last[0].shape == (0, 3, 24, 24) and len(last[1]) == 0
    evaluated = [list(imagenet(tree).batches("test", 5, rank=rank, world_size=2)) for rank in range(2)]
    order = [evaluated[0][0], evaluated[1][0], evaluated[0][1]]
    assert same(order, list(imagenet(tree).batches("test", 5)))
    assert available_workers(10**6) == 1 <= available_workers()


def test_reading_changes_no_global_generator(tree):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    dataset = imagenet(tree, augment="rand")
    dataset.loader(8, seed=0).batch(0)
    list(dataset.batches("val", 4))
    imagenet(tree, workers=1).loader(8, seed=0).batch(0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("augment", [None, "rand", "trivial", "auto"])
def test_augmentations_are_functions_of_image_and_seed(tree, augment):
    dataset = imagenet(tree, augment=augment, erase=0.5)
    image = decode(dataset.train.source.read(0))
    views = [dataset.train_transform(image, seed) for seed in (3, 3, 4)]
    assert views[0].shape == (3, 24, 24) and views[0].dtype == torch.uint8
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


def test_repeated_augmentation_shows_fewer_images_in_as_many_views(tree):
    loader = imagenet(tree, repeats=3).loader(6, seed=0)
    assert loader.steps_per_epoch == 4
    seen = torch.cat([loader.positions(step) for step in range(4)])
    assert seen.bincount().sort().values.tolist()[-8:] == [3] * 8 and len(seen) == 24
    inputs, targets = loader.batch(0)
    assert targets[0] == targets[1] == targets[2]
    assert not torch.equal(inputs[0], inputs[1]) and not torch.equal(inputs[1], inputs[2])


def test_evaluation_is_resized_and_cut_out_as_torchvision_does_with_pillow(tree):
    dataset = imagenet(tree)
    published = transforms.Compose(
        [transforms.Resize(32), transforms.CenterCrop(24), transforms.PILToTensor()]
    )
    (raw,) = dataset.test.chunks(100)
    assert raw.shape == (12, 3, 24, 24)
    for position in range(12):
        path = tree / "val" / dataset.test.source.name(position)
        difference = raw[position].int() - published(Image.open(path).convert("RGB")).int()
        assert difference.abs().max() <= 2  # rounding, in the decoder and between two passes of resizing
    inputs, targets = next(dataset.batches("test", 12))
    expected = (raw.double() / 255 - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    assert torch.allclose(inputs.double(), expected, atol=1e-6) and torch.equal(targets, dataset.test.labels)


def test_crops_are_distributed_as_torchvisions(tree):
    view = TrainTransform(24, 0.08, False, None, 9, 0.0, (0.5, 0.5, 0.5))
    image = torch.empty(3, 100, 150)
    torch.manual_seed(0)
    ours = torch.tensor([view._rectangle(100, 150) for _ in range(4000)], dtype=torch.float64)
    draw = transforms.RandomResizedCrop.get_params
    theirs = torch.tensor([draw(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(4000)], dtype=torch.float64)
    error = 4 * (ours.var(0) + theirs.var(0)).div(4000).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < error).all()
    assert (ours[:, 0] + ours[:, 2]).max() <= 100 and (ours[:, 1] + ours[:, 3]).max() <= 150
    assert view._rectangle(10, 1000) == (
        0,
        493,
        10,
        13,
    )  # no rectangle of 8 % fits: the largest in the middle


def test_images_that_are_not_rgb_are_converted(tmp_path):
    original = Image.effect_mandelbrot((60, 50), (-2, -1.5, 1, 1.5), 50)
    for mode, ending in (
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("P", "png"),
        ("RGBA", "png"),
        ("RGB", "bmp"),
        ("L", "gif"),
    ):
        path = tmp_path / f"{mode}.{ending}"
        original.convert(mode).save(path)
        image = decode(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8))
        assert image.shape == (3, 50, 60) and image.dtype == torch.uint8
        expected = torch.frombuffer(bytearray(original.tobytes()), dtype=torch.uint8).view(50, 60)
        assert (image.float() - expected).abs().mean() < 4, mode
    shutil.copy(tmp_path / "P.png", tmp_path / "really_a_png.JPEG")  # ImageNet has one
    content = torch.frombuffer(bytearray((tmp_path / "really_a_png.JPEG").read_bytes()), dtype=torch.uint8)
    assert decode(content).shape == (3, 50, 60)


def test_both_decoders_see_the_same_pixels(tree):
    dataset = imagenet(tree)
    for index in range(10):
        content = dataset.train.source.read(index)
        assert torch.equal(decode(content), decode_with_pillow(content))


def damaged(tree, tmp_path, *paths):
    root = shutil.copytree(tree, tmp_path / "damaged")
    for number, path in enumerate(paths):
        content = (root / path).read_bytes()
        (root / path).write_bytes([content[: len(content) // 2], b"", b"no image at all"][number % 3])
    return root


def test_unreadable_images_are_one_colour_named_once_and_counted(tree, tmp_path, capsys):
    names = [
        f"train/{imagenet_tree.wnid(c)}/{imagenet_tree.wnid(c)}_{i}.JPEG" for c, i in ((0, 0), (1, 5), (3, 2))
    ]
    dataset = imagenet(damaged(tree, tmp_path, *names), val_fraction=0.125)
    loader = dataset.loader(8, seed=0)
    for step in range(8):  # two epochs
        inputs, _ = loader.batch(step)
        for row, place in enumerate(loader.positions(step).tolist()):
            bad = "train/" + dataset.train.source.name(int(dataset.train.indices[place])) in names
            assert (inputs[row].abs().max() < 0.01) == bad  # the mean colour, to the nearest raw pixel
    list(dataset.batches("val", 8))
    told = capsys.readouterr().err.splitlines()
    assert (
        sorted(line.split(": ")[1].split(":")[-1] for line in told)
        == sorted(n.split("/", 1)[1] for n in names)
        or len(told) == 3
    )
    assert dataset.summary() == {"unreadable_images": 3}
    resumed = imagenet(tree)
    resumed.loader(8, seed=0).load_state_dict(loader.state_dict())
    assert resumed.summary() == {"unreadable_images": 3}


def test_a_disk_that_is_gone_ends_the_run(tree, tmp_path):
    root = shutil.copytree(tree, tmp_path / "gone")
    dataset = imagenet(root)
    shutil.rmtree(root / "train")
    with pytest.raises(RunError, match=r"^\d+ images are unreadable, the last one train:n\d+/.*No such file"):
        dataset.loader(24, seed=0).batch(0)


def test_a_worker_that_dies_ends_the_run_in_one_line(tree):
    import os
    import signal

    loader = imagenet(tree, workers=1).loader(4, seed=0)
    loader.batch(0)
    (worker,) = loader._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with pytest.raises(RunError, match=r"^images could not be read: .*try a smaller workers=N"):
        batches(loader, range(1, 30))


@pytest.mark.parametrize(
    ("changed", "setting", "hint"),
    [
        ({"size": 0}, "size", "at least 1"), ({"size": 24.5}, "size", "at least 1"),
        ({"test_resize": 20}, "test_resize", "test_size, 24"), ({"scale": 0}, "scale", "(0, 1]"),
        ({"augment": "random"}, "augment", "did you mean 'rand'"), ({"magnitude": 31}, "magnitude", "30"),
        ({"erase": 2}, "erase", "[0, 1]"), ({"repeats": 0}, "repeats", "at least 1"), ({"workers": -1}, "workers", "0"),
        ({"mean": [0.5]}, "mean", "3 channels"), ({"std": [1, 1, 0]}, "std", "3 channels"),
        ({"val_fraction": 0.0}, "val_fraction", "(0, 1)"), ({"train_samples": 1}, "train_samples", "4"),
        ({"packed": 256}, "packed", "sparsebench data pack"), ({"packed": 0}, "packed", "at least 1"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(tree, changed, setting, hint):
    with pytest.raises(SettingError) as refused:
        imagenet(tree, **changed)
    assert refused.value.setting == setting and hint in str(refused.value)


def test_what_is_missing_is_named_with_the_places_looked_at(tree, tmp_path):
    with pytest.raises(SettingError, match=rf"train and val \(looked in {tmp_path}, {tmp_path}/imagenet, "):
        imagenet(tmp_path)
    root = shutil.copytree(tree, tmp_path / "imagenet")
    assert imagenet(tmp_path).num_classes == 4  # in data_root/imagenet too
    shutil.rmtree(root / "val" / imagenet_tree.wnid(2))
    with pytest.raises(
        SettingError, match=r"val/n00001438|val/n\d+: expected a folder with images of this class"
    ):
        imagenet(root)
    (root / "val" / "other").mkdir()
    with pytest.raises(SettingError, match=r"val/other: expected a class that is also in"):
        imagenet(root)
    for folder in (root / "val").iterdir():
        shutil.rmtree(folder)
    with pytest.raises(SettingError, match="expected images, in class folders or flat"):
        imagenet(root)
    imagenet_tree.Maker(None).write(root / "val" / "ILSVRC2012_val_00000001.JPEG", 0)
    with pytest.raises(
        SettingError, match=r"ILSVRC2012_devkit_t12, unpacked or as .tar.gz, or LOC_val_solution.csv"
    ):
        imagenet(root)
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"no archive")
    with pytest.raises(SettingError, match=r"devkit_t12.tar.gz: expected a valid archive"):
        imagenet(root)


def folder(root, **changed):
    return ImageFolder(data_root=str(root), **{**SETTINGS, "name": "flowers", **changed})


def test_any_folder_of_classes(tree, tmp_path):
    both = folder(tree)
    assert (both.name, both.note, len(both.test)) == ("flowers", "", 12)
    alone = folder(tree / "train")
    assert [len(s) for s in (alone.train, alone.val, alone.test)] == [19, 7, 6] and "a fifth" in alone.note
    parts = [set(s.indices.tolist()) for s in (alone.train, alone.val, alone.test)]
    assert len(set.union(*parts)) == 32
    for root, hint in ((tree / "nowhere", "an existing folder"), (tmp_path, "at least two folders")):
        with pytest.raises(SettingError, match=hint):
            folder(root)
    with pytest.raises(SettingError, match=r"^name="):
        folder(tree, name="")


def test_tiny_imagenet_is_kept_in_memory(tmp_path):
    base = imagenet_tree.tiny(tmp_path, classes=3, train=10, val=2)
    settings = {
        "val_fraction": 0.1,
        "split_seed": 0,
        "train_samples": None,
        "mean": MEAN,
        "std": STD,
        "pad": 4,
        "flip": True,
    }
    dataset = TinyImageNet(data_root=str(tmp_path), **settings)
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [
        27,
        3,
        6,
    ] and dataset.num_classes == 3
    assert dataset.test.labels.tolist() == [0, 1, 2, 0, 1, 2] and dataset.train.images.shape[1:] == (
        3,
        64,
        64,
    )
    first = decode(
        torch.frombuffer(bytearray((base / "val/images/val_0.JPEG").read_bytes()), dtype=torch.uint8)
    )
    assert torch.equal(dataset.test.images[0], first)
    (base / "val/images/val_3.JPEG").write_bytes(b"")
    with pytest.raises(SettingError, match=r"val_3.JPEG: expected a valid image"):
        TinyImageNet(data_root=str(base), **settings)
    with pytest.raises(SettingError, match="tiny-imagenet-200"):
        TinyImageNet(data_root=str(tmp_path / "nowhere"), **settings)


def test_the_shorter_side_is_resized_and_the_centre_kept():
    image = torch.arange(40 * 60, dtype=torch.float32).div(10).to(torch.uint8).view(1, 40, 60).repeat(3, 1, 1)
    assert torch.equal(CentreView(40, 30)(image), image[:, 5:35, 15:45])
    assert CentreView(20, 20)(image).shape == (3, 20, 20)


WORDS = (
    "dataset=imagenet", "model=resnet", "model.variant=a", "model.depth=8", "dataset.size=16", "dataset.test_size=16",
    "dataset.test_resize=20", "dataset.val_fraction=0.25", "batch_size=5", "epochs=3", "schedule.interval=2it",
)  # fmt: skip


def test_a_training_on_files_from_the_command_line_and_its_evaluations(tree, tmp_path, capsys):
    argv = [*WORDS, f"data_root={tree}", f"results_dir={tmp_path}", "prune=dpf", "sparsity=0.9", "workers=1"]
    evaluations = "evaluate=[calibration,per_class,bn_recalibration,prunability]"
    assert main(["train", *argv, evaluations, "evaluate.prunability.samples=8"]) == 0
    assert main(["audit", str(tmp_path), "--data-root", str(tree)]) == 0
    out = capsys.readouterr().out
    assert "results are called imagenet_subset" in out and "sparsity   0.9000" in out
    (found,) = [result(tmp_path)]
    assert found["summary"]["unreadable_images"] == "0" and found["summary"]["dataset"] == "imagenet_subset"


@pytest.mark.slow
@pytest.mark.nightly
def test_two_ranks_train_on_files_as_one_process_does_and_count_unreadable_images_together(tree, tmp_path):
    import ranks

    first = f"{imagenet_tree.wnid(0)}/{imagenet_tree.wnid(0)}_0.JPEG"
    root = damaged(tree, tmp_path, f"train/{first}")
    jobs = [
        [*WORDS, f"data_root={root}", f"prune={method}", "sparsity=0.9", "batch_size=8", *more]
        for method, more in (
            ("dpf", ["workers=1", "model=mlp"]),
            ("dense", ["ema=0.9", "workers=0", "model=mlp"]),
        )
    ]
    jobs = [
        [word for word in argv if not word.startswith("model.") and word != "model=resnet"] for argv in jobs
    ]
    found = {}
    for name, count, more in (("one", 1, ["device=cpu"]), ("two", 2, ["device=ddp", "device.timeout=60"])):
        told = [[*argv, *more, f"results_dir={tmp_path / name}"] for argv in jobs]
        statuses = ranks.run(tmp_path / f"jobs-{name}", told, count)
        assert [status for status, *_ in statuses] == [[0, 0]] * count, statuses
        found[name] = [result(tmp_path / name, f"*-{method}-*") for method in ("dpf", "dense")]
    for one, two in zip(found["one"], found["two"], strict=True):
        assert two["summary"]["unreadable_images"] == one["summary"]["unreadable_images"] == "1"
        assert two["summary"]["sparsity_ok"] == "True"
        assert float(two["summary"]["test_loss"]) == pytest.approx(
            float(one["summary"]["test_loss"]), rel=1e-3
        )


@pytest.mark.slow
@pytest.mark.nightly
def test_kill_minus_9_inside_an_epoch_and_the_result_is_the_uninterrupted_one(tree, tmp_path):
    root = damaged(tree, tmp_path, f"val/{imagenet_tree.wnid(1)}/" + sorted(
        p.name for p in (tree / "val" / imagenet_tree.wnid(1)).iterdir())[0])  # fmt: skip
    argv = (
        *WORDS,
        f"data_root={root}",
        "prune=dpf",
        "sparsity=0.9",
        "epochs=12",
        "save_every=3it",
        "dataset.augment=rand",
    )
    finish(tmp_path / "uninterrupted", *argv, "workers=0")
    broken = tmp_path / "broken"
    kill_when(broken, (*argv, "workers=2"), lambda f: (f / "checkpoint.pt").exists(), delay=0.02)
    kill_when(broken, (*argv, "workers=1"), lambda f: (f / "checkpoint.previous.pt").exists(), delay=0.1)
    finish(broken, *argv, "workers=2")
    expected, found = result(tmp_path / "uninterrupted"), result(broken)
    assert found == expected and expected["summary"]["unreadable_images"] == "1"


def test_resnet_50_is_what_model_resnet_means_on_imagenet(hydra_config):
    from sparsebench.config.build import build

    cfg, _ = hydra_config("dataset=imagenet", "model=resnet")
    with torch.device("meta"):
        model = build(cfg.model, "model", input_shape=(3, 224, 224), num_classes=1000)
    assert (model.name, sum(p.numel() for p in model.parameters())) == ("resnet50", 25_557_032)
    assert model.layer2[0].conv2.stride == (2, 2) and model.layer2[0].conv1.stride == (1, 1)  # v1.5
    assert sum(layer.macs for layer in count_layers(model, (3, 224, 224))) == 4_089_184_256


def test_training_is_counted_at_its_size_and_inference_at_that_of_evaluation(tree, hydra_config):
    from sparsebench.runs.build import build_run
    from sparsebench.runs.result import training_layers

    argv = (
        "dataset=imagenet", "model=resnet", "model.depth=18", f"data_root={tree}", "dataset.val_fraction=0.25",
        "batch_size=4", "prune=dense", "dataset.test_resize=64", "dataset.test_size=64", "dataset.size=32",
    )  # fmt: skip
    made = build_run(hydra_config(*argv)[0])
    inference, training = (
        sum(layer.macs for layer in layers)
        for layers in (made.layers, training_layers(made.model, made.dataset, made.layers))
    )
    fc = 512 * 4
    assert (inference - fc) == 4 * (training - fc)
    plain = [word for word in argv if not word.startswith("model")]
    vit = build_run(hydra_config(*plain, "model=torchvision", "model.name=vit_b_32")[0])
    with pytest.raises(
        SettingError, match=r"^dataset.size=32: expected 64, the size used in evaluation, because vit_b_32"
    ):
        training_layers(vit.model, vit.dataset, vit.layers)


@pytest.mark.parametrize(
    ("recipe", "peak", "factors"),
    [  # epoch -> factor of the peak, as published; 310 steps of 4,096, 1,238 of 1,024 or 4,954 of 256 images an epoch
        ("dpf_imagenet", 0.4, {29: 1, 31: 0.1, 59: 0.1, 61: 0.01, 79: 0.01, 81: 0.001}),
        ("rigl_imagenet", 1.6, {29: 1, 31: 0.1, 69: 0.1, 71: 0.01, 89: 0.01, 91: 0.001}),
        ("acdc_imagenet", 0.256, {5: 1, 99.9: 0}),
        ("torchvision", 0.5, {5: 1, 599.9: 0}),
    ],
)
def test_published_learning_rates(hydra_config, recipe, peak, factors):
    from sparsebench.clock import Clock
    from sparsebench.config.build import build
    from sparsebench.config.open import validate

    cfg, choices = hydra_config("dataset=imagenet", "model=resnet", f"recipe={recipe}")
    validate(cfg, choices)
    steps = 1_268_355 // cfg.batch_size + 1
    schedule = build(cfg.lr_schedule, "lr_schedule", clock=Clock(steps * cfg.epochs, steps))
    assert cfg.optimizer.lr == peak and schedule.factor(0) < 0.01
    for epoch, factor in factors.items():
        assert schedule.factor(int(epoch * steps)) == pytest.approx(factor, rel=0.02, abs=1e-4)
    if recipe == "rigl_imagenet":
        assert abs(steps * cfg.epochs - 32_000) < 100
        assert abs(float(cfg.ramp_end) * steps * cfg.epochs - 25_000) < 100
