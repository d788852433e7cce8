from __future__ import annotations

import io
import pickle
import shutil
import tarfile

import pytest
import torch
from PIL import Image

from sparsebench.cli import main
from sparsebench.data.decoding import decode
from sparsebench.data.folder import ImageFolder, ImageNet
from sparsebench.data.listing import INDEX
from sparsebench.data.packed import pack, packed, read_index
from sparsebench.errors import SettingError
from tests.support import imagenet_tree
from tests.support.datasets import SETTINGS, imagenet

SIDE = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory, cifar10_root):
    """ImageNet's shape, packed, with a grey image, one that is small already, and one that is none."""
    root = imagenet_tree.imagenet(
        tmp_path_factory.mktemp("packed"), classes=3, train=6, val=2, cifar10_root=cifar10_root
    )
    folder = root / "train" / imagenet_tree.wnid(0)
    maker = imagenet_tree.Maker(cifar10_root, sides=(30, 31))
    maker.write(folder / "a_small.JPEG", 0)
    imagenet_tree.Maker(cifar10_root).write(folder / "b_grey.JPEG", 0, mode="L")
    (folder / "c_bad.JPEG").write_bytes(b"no image")
    assert (
        main(["data", "pack", "imagenet", f"data_root={root}", "--side", str(SIDE), "--quality", "95"]) == 0
    )
    return root


def listings(root):
    return ImageNet.listing(root), ImageNet.listing(root, SIDE)


def test_packed_images_are_the_originals_made_smaller_in_the_same_order(root):
    original, small = listings(root)
    assert small.classes == list(original.classes) and torch.equal(small.train_labels, original.train_labels)
    assert torch.equal(small.test_labels, original.test_labels)
    for index in range(len(original.test)):
        large, shrunk = decode(original.test.read(index)), decode(small.test.read(index))
        assert min(shrunk.shape[1:]) == SIDE
        assert abs(shrunk.shape[2] / shrunk.shape[1] - large.shape[2] / large.shape[1]) < 0.05
        picture = Image.fromarray(large.permute(1, 2, 0).numpy()).resize(
            shrunk.shape[:0:-1], Image.Resampling.LANCZOS
        )
        expected = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(
            *shrunk.shape[1:], 3
        )
        assert (shrunk.permute(1, 2, 0).float() - expected).abs().mean() < 3  # JPEG


def test_small_colour_images_and_unreadable_ones_are_packed_as_they_are(root):
    original, small = listings(root)
    names = [original.train.name(index).split("/")[1] for index in range(3)]
    assert names == ["a_small.JPEG", "b_grey.JPEG", "c_bad.JPEG"]
    assert torch.equal(original.train.read(0), small.train.read(0))
    assert torch.equal(original.train.read(2), small.train.read(2))
    with Image.open(io.BytesIO(small.train.read(1).numpy().tobytes())) as grey:
        assert grey.mode == "RGB" and min(grey.size) == SIDE


def test_a_shard_is_a_plain_archive_and_the_index_knows_where_an_image_lies(root):
    about, tensors = read_index(root / f"packed-{SIDE}")
    assert about["side"] == SIDE and about["unreadable"] == [f"{imagenet_tree.wnid(0)}/c_bad.JPEG"]
    with tarfile.open(root / f"packed-{SIDE}" / "train-00000.tar") as tar:
        members = tar.getmembers()
        images = [m for m in members if m.name.endswith(".jpg")]
        assert [[0, m.offset_data, m.size] for m in images] == tensors["train_places"].tolist()
        labels = [int(tar.extractfile(m).read()) for m in members if m.name.endswith(".cls")]
    assert labels == tensors["train_labels"].tolist()


def test_a_packed_data_set_trains_and_is_another_run(root, tmp_path, hydra_config):
    from sparsebench.config.identity import run_id

    small = imagenet(root, packed=SIDE, workers=2)
    inputs, targets = small.loader(6, seed=0).batch(0)
    assert inputs.shape == (6, 3, 24, 24) and targets.shape == (6,)
    again = pickle.loads(pickle.dumps(small.train.source))  # as workers that are not forked get it
    assert torch.equal(again.read(4), small.train.source.read(4))
    plain, other = (hydra_config("dataset=imagenet", *argv) for argv in ((), (f"dataset.packed={SIDE}",)))
    assert run_id(*plain) != run_id(*other)
    assert run_id(*plain) == run_id(*hydra_config("dataset=imagenet", "workers=7", "data_root=/elsewhere"))


def test_packing_resumes_where_it_was_stopped_and_ends_in_the_same_bytes(root, tmp_path):
    found = ImageNet.listing(root)

    class Stopped(Exception):
        pass

    def stop(_):
        if len(list((tmp_path / "broken").glob("*.tar"))) == 3:
            raise Stopped

    def run(folder, step=lambda _: None):
        return pack(found, folder, SIDE, 90, {"source": "here"}, 2, step, per_shard=5)

    with pytest.raises(Stopped):
        run(tmp_path / "broken", stop)
    first = tmp_path / "broken" / "train-00001.tar"
    first.write_bytes(first.read_bytes()[:-512])  # and one shard was damaged since
    assert not (tmp_path / "broken" / INDEX).exists()
    assert run(tmp_path / "broken")["kept_shards"] == 2
    assert run(tmp_path / "uninterrupted")["kept_shards"] == 0
    names = sorted(path.name for path in (tmp_path / "uninterrupted").iterdir())
    assert names == [
        "index.safetensors",
        "test-00000.tar",
        "test-00001.tar",
        *(f"train-0000{n}.tar" for n in range(5)),
    ]
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == names
    for name in names:
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()
    assert [packed(tmp_path / "broken").train.name(i) for i in (0, 7)] == [
        "train-00000.tar:00000000.jpg",
        "train-00001.tar:00000007.jpg",
    ]


def test_other_settings_or_another_listing_make_new_shards(root, tmp_path):
    found, make = ImageNet.listing(root), {"workers": 1, "step": lambda _: None}
    folder = tmp_path / "shards"
    pack(found, folder, SIDE, 90, {"source": "here"}, **make)
    for changed in ((SIDE, 80, {"source": "here"}), (SIDE, 80, {"source": "there"})):
        assert pack(found, folder, *changed, **make)["kept_shards"] == 0


def test_check_says_what_is_wrong_and_exits_with_1(root, tmp_path, capsys):
    csv = tmp_path / "found.csv"
    assert main(["data", "check", "imagenet", f"data_root={root}", "-o", str(csv)]) == 1
    out = capsys.readouterr().out
    assert "classes: 3, all of ImageNet has 1,000; results will be called imagenet_subset" in out
    assert "train: 21 images, 6 to 9 per class" in out and "test: 6 images, 2 to 2 per class" in out
    assert "converted: 1, first: train:" in out and "1 problems found" in out
    rows = csv.read_text().splitlines()
    assert (
        len(rows) == 3
        and "b_grey.JPEG,converted: L" in rows[1]
        and "c_bad.JPEG,unreadable: cannot identify" in rows[2]
    )
    assert main(["data", "check", "imagenet", f"data_root={root}", "--no-decode"]) == 0
    assert "no problems found; no image was decoded" in capsys.readouterr().out


def test_check_finds_a_changed_byte_in_a_shard(root, tmp_path, capsys):
    copy = shutil.copytree(root / f"packed-{SIDE}", tmp_path / f"packed-{SIDE}")
    argv = ["data", "check", "imagenet", f"data_root={tmp_path}", f"dataset.packed={SIDE}", "--no-decode"]
    assert main(argv) == 0
    shard = copy / "test-00000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    assert main(argv) == 1
    assert "checksum: 1, first: test:test-00000.tar" in capsys.readouterr().out


def test_packing_twice_does_nothing(root, capsys):
    before = (root / f"packed-{SIDE}" / INDEX).stat().st_mtime_ns
    assert main(["data", "pack", "imagenet", f"data_root={root}", "--side", str(SIDE)]) == 0
    assert "already packed" in capsys.readouterr().out
    assert (root / f"packed-{SIDE}" / INDEX).stat().st_mtime_ns == before


def test_a_folder_of_classes_is_packed_beside_them_and_settings_may_stand_anywhere(root, tmp_path, capsys):
    flowers = shutil.copytree(root / "train", tmp_path / "flowers")
    argv = ["imagefolder", f"data_root={flowers}", "--side", "32", "dataset.name=flowers"]
    assert main(["data", "pack", *argv]) == 0
    both = [
        ImageFolder(data_root=str(flowers), name="flowers", **{**SETTINGS, "packed": side})
        for side in (None, 32)
    ]
    assert [dataset.num_classes for dataset in both] == [3, 3]  # the folder of packed images is no class
    assert both[0].val.indices.tolist() == both[1].val.indices.tolist()
    assert (
        main(["data", "check", "imagefolder", "--no-decode", f"data_root={flowers}", "dataset.name=flowers"])
        == 0
    )


def test_what_is_kept_in_memory_is_checked_by_reading_it(capsys):
    assert main(["data", "check", "digits"]) == 0
    assert (
        capsys.readouterr().out
        == "digits: 10 classes, 1,294 train, 144 val, 359 test images; no problems found\n"
    )


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["check", "imagenett"], "did you mean 'imagenet'"),
        (["check", "imagenet", "data_root=/nowhere"], "looked in /nowhere, "),
        (["check", "imagefolder", "data_root=/nowhere"], "dataset.name: expected a value"),
        (["pack", "digits"], "kept in memory"),
        (["pack", "imagenet", "--side", "0"], "--side=0: expected"),
        (["pack", "imagenet", "--quality", "96"], "--quality=96: expected"),
        (["check", "imagenet", "dataset.size=x"], "dataset.size=x: expected an integer"),
    ],
)
def test_bad_words_end_in_one_line(argv, hint, capsys):
    assert main(["data", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sparsebench: error: ") and hint in line


def test_a_broken_index_or_a_missing_shard_is_named(root, tmp_path):
    copy = shutil.copytree(root / f"packed-{SIDE}", tmp_path / f"packed-{SIDE}")
    with pytest.raises(SettingError, match=rf"^packed: expected {SIDE}: .* contains only packed images"):
        ImageNet(data_root=str(tmp_path), **SETTINGS)
    (copy / "test-00000.tar").unlink()
    with pytest.raises(SettingError, match=r"test-00000.tar: expected a shard listed in the index"):
        packed(copy)
    (copy / INDEX).write_bytes(b"x" * 100)
    with pytest.raises(SettingError, match="expected a readable index"):
        packed(copy)
