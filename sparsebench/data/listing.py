"""Index folders of image files in the published layouts: which image has which class."""

from __future__ import annotations

import csv
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sparsebench.errors import SettingError

ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff")
INDEX = "index.safetensors"
"""Index of packed images; the folder that contains it is not a class."""
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE = "LOC_val_solution.csv"


class ImageSource(Protocol):
    """Source of image files; picklable, and cheap to copy into worker processes."""

    def __len__(self) -> int:
        """Number of images."""

    def name(self, index: int) -> str:
        """Name of the image in messages."""

    def read(self, index: int) -> Tensor:
        """The bytes of an image file, uint8 [bytes]; raises OSError if it cannot be read."""

    def listing(self) -> bytes:
        """What lists the images in their order, the same on every machine; hashed."""


class Files:
    """Image files under one folder.

    Paths are stored as one byte string, because a million Python strings would be copied into every worker process.

    Args:
        root: The folder.
        paths: Paths of the images, relative to it.
    """

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self.root = root
        encoded = [os.fsencode(path) for path in paths]
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self._paths = b"".join(encoded)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._ends)

    def name(self, index: int) -> str:
        """Path relative to the root."""
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._paths[start : int(self._ends[index])])

    def read(self, index: int) -> Tensor:
        """The bytes of a file."""
        content = np.fromfile(self.root / self.name(index), dtype=np.uint8)
        return torch.from_numpy(content)

    def listing(self) -> bytes:
        """The relative paths, after their ends."""
        return self._ends.tobytes() + self._paths


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """The images of a data set on disk.

    Args:
        classes: Names of the classes, in the order of their indices.
        train: The official training images.
        train_labels: Class indices, int64 [N].
        test: The official test images; ``None`` where the data set has none.
        test_labels: Class indices, int64 [N].
    """

    classes: Sequence[str]
    train: ImageSource
    train_labels: Tensor
    test: ImageSource | None
    test_labels: Tensor


def images_in(folder: Path) -> list[str]:
    """Sorted names of the image files directly in ``folder``, without hidden files."""
    with os.scandir(folder) as entries:
        return sorted(
            e.name for e in entries if e.name.lower().endswith(ENDINGS) and not e.name.startswith(".")
        )


def folders_in(folder: Path) -> list[str]:
    """Sorted names of the subfolders of ``folder``, without hidden ones and those of packed images."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    return [name for name in names if not (name.startswith("packed-") and (folder / name / INDEX).is_file())]


def by_class(folder: Path, classes: Sequence[str], inside: str = "") -> tuple[Files, Tensor]:
    """The images in ``folder``/class/``inside``, ordered by class, and their labels.

    Raises:
        SettingError: A class has no images.
    """
    paths: list[str] = []
    counts = []
    for name in classes:
        part = Path(name, inside)
        found = images_in(folder / part) if (folder / part).is_dir() else []
        if not found:
            raise SettingError("data_root", folder / part, "a folder with images of this class")
        paths += [str(part / image) for image in found]
        counts.append(len(found))
    return Files(folder, paths), torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))


def classes_of(train: Path) -> list[str]:
    """The class folders of ``train``, sorted.

    Raises:
        SettingError: There are fewer than two.
    """
    classes = folders_in(train)
    if len(classes) < 2:
        raise SettingError(
            "data_root", train, f"at least two folders, one per class, but found {len(classes)}"
        )
    return classes


def train_and_test(train: Path, test: Path) -> ImageIndex:
    """Index two folders with the same class folders.

    Raises:
        SettingError: A class is missing, or has no images; or ``test`` has another class.
    """
    classes = classes_of(train)
    if more := sorted(set(folders_in(test)) - set(classes)):
        raise SettingError("data_root", test / more[0], f"a class that is also in {train}")
    return ImageIndex(classes, *by_class(train, classes), *by_class(test, classes))


def imagenet(train: Path, val: Path, beside: Sequence[Path]) -> ImageIndex:
    """Index ILSVRC 2012: ``val`` in class folders, or flat with the ground truth of the development kit or of Kaggle.

    Args:
        train: Folder of class folders, named by WordNet ID.
        val: Folder of the official validation images, which are the test set here.
        beside: Folders that may contain the development kit, unpacked or not, or Kaggle's LOC_val_solution.csv.

    Raises:
        SettingError: A class, an image or the ground truth is missing.
    """
    if folders_in(val):
        return train_and_test(train, val)
    classes, found = classes_of(train), images_in(val)
    if not found:
        raise SettingError("data_root", val, "images, in class folders or flat")
    truth = _kaggle(beside) or _devkit(found, beside)
    index = {name: number for number, name in enumerate(classes)}
    labels = []
    for image in found:
        wnid = truth.get(Path(image).stem)
        if wnid not in index:
            allowed = f"an image of a class in {train}, but the ground truth is {wnid}"
            raise SettingError("data_root", val / image, allowed)
        labels.append(index[wnid])
    return ImageIndex(classes, *by_class(train, classes), Files(val, found), torch.tensor(labels))


def _kaggle(beside: Sequence[Path]) -> dict[str, str]:
    """Image -> class from Kaggle's file; empty if there is none."""
    for path in (folder / KAGGLE for folder in beside):
        if path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                return {
                    row["ImageId"]: row["PredictionString"].split(" ", 1)[0] for row in csv.DictReader(file)
                }
    return {}


def _devkit(images: Sequence[str], beside: Sequence[Path]) -> Mapping[str, str]:
    """Image -> class from the development kit: one class number per line, in the order of the image names."""
    truth, meta = _kit(beside)
    from scipy.io import loadmat  # imported here: only this layout needs it

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if not row["num_children"]}
        numbers = [int(line) for line in truth.read().split()]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise SettingError("data_root", beside[0], f"a readable development kit: {error}") from error
    if len(numbers) != len(images):
        allowed = f"as many images in val as {TRUTH} has lines, {len(numbers)}, but found {len(images)}"
        raise SettingError("data_root", beside[0], allowed)
    return {Path(image).stem: wnids.get(n, str(n)) for image, n in zip(images, numbers, strict=True)}


def _kit(beside: Sequence[Path]) -> tuple[io.BytesIO, io.BytesIO]:
    """The contents of the ground truth and of meta.mat, from the unpacked kit or its archive."""
    for folder in beside:
        for kit in (folder, folder / "ILSVRC2012_devkit_t12", folder / "devkit"):
            truth, meta = kit / "data" / TRUTH, kit / "data" / "meta.mat"
            if truth.is_file() and meta.is_file():
                return io.BytesIO(truth.read_bytes()), io.BytesIO(meta.read_bytes())
        archive = folder / "ILSVRC2012_devkit_t12.tar.gz"
        if archive.is_file():
            return _unpacked(archive)
    looked = ", ".join(map(str, beside))
    allowed = (
        f"class folders in val, or the ground truth of flat images: ILSVRC2012_devkit_t12, unpacked or as .tar.gz, "
        f"or {KAGGLE} (looked in {looked})"
    )
    raise SettingError("data_root", None, allowed)


def _unpacked(archive: Path) -> tuple[io.BytesIO, io.BytesIO]:
    found: dict[str, io.BytesIO] = {}
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                file = opened.extractfile(member) if member.isfile() else None
                if file is not None and Path(member.name).name in (TRUTH, "meta.mat"):
                    found[Path(member.name).name] = io.BytesIO(file.read())
        return found[TRUTH], found["meta.mat"]
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise SettingError("data_root", archive, f"a valid archive: {error}") from error


def tiny_imagenet(root: Path) -> ImageIndex:
    """Index Tiny ImageNet as published, or with its validation images sorted into class folders.

    Raises:
        SettingError: A class or an image is missing.
    """
    train, val = root / "train", root / "val"
    inside = "images" if (train / classes_of(train)[0] / "images").is_dir() else ""
    classes = classes_of(train)
    trained = by_class(train, classes, inside)
    annotations = val / "val_annotations.txt"
    if not annotations.is_file():
        inside = "images" if (val / classes[0] / "images").is_dir() else ""
        return ImageIndex(classes, *trained, *by_class(val, classes, inside))
    index = {name: number for number, name in enumerate(classes)}
    lines = [line.split("\t") for line in annotations.read_text(encoding="utf-8").splitlines() if line]
    wrong = [line for line in lines if len(line) < 2 or line[1] not in index]
    if wrong:
        raise SettingError("data_root", annotations, f"an image and its class per line, not {wrong[0]}")
    labels = torch.tensor([index[line[1]] for line in lines])
    return ImageIndex(classes, *trained, Files(val / "images", [line[0] for line in lines]), labels)


def folders_containing(candidate_folders: Iterable[Path], *needed: str) -> Iterator[Path]:
    """Those of ``candidate_folders`` that contain all ``needed`` subfolders."""
    return (folder for folder in candidate_folders if all((folder / name).is_dir() for name in needed))
