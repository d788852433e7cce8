"""Folders in the shape of ImageNet: JPEG files of varied sizes, made of smaller real images."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SIDES = (96, 180)  # of the shorter side, from and to; ImageNet's are about (300, 500)


def wnid(number: int) -> str:
    """A WordNet ID."""
    return f"n{1440764 + 37 * number:08}"


def photographs(cifar10_root: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Small real images, uint8 [N, H, W, 3], and their labels: CIFAR-10's test images if they are here, else digits."""
    if cifar10_root is not None:
        from sparsebench.data.cifar_files import LAYOUT_10, find, read

        split = read(find(cifar10_root, LAYOUT_10), LAYOUT_10)[1]
        return split.images.permute(0, 2, 3, 1).contiguous().numpy(), split.labels.numpy()
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * 255 / 16).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3), digits.target


class Maker:
    """Draws photographs of one of ten classes, as files of varied size and shape."""

    def __init__(
        self, cifar10_root: Path | None, seed: int = 0, sides: tuple[int, int] = SIDES, noise: int = 0
    ):
        images, labels = photographs(cifar10_root)
        self.by_class = [images[labels == c] for c in range(10)]
        self.random, self.sides, self.noise = np.random.default_rng(seed), sides, noise

    def write(self, path: Path, number: int, mode: str = "RGB", quality: int = 90) -> None:
        """A JPEG file of class ``number``; classes above 9 look like one below."""
        path.parent.mkdir(parents=True, exist_ok=True)
        pool = self.by_class[number % 10]
        short = int(self.random.integers(*self.sides))
        long = int(short * self.random.uniform(1, 1.6))
        size = (long, short) if self.random.random() < 0.75 else (short, long)
        pixels = np.asarray(
            Image.fromarray(pool[self.random.integers(len(pool))]).resize(size, Image.Resampling.BICUBIC)
        )
        if self.noise:  # texture: without it files are far smaller than photographs
            texture = self.random.integers(-self.noise, self.noise + 1, pixels.shape[:2])[..., None]
            pixels = (pixels.astype(np.int16) + texture).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(path, "JPEG", quality=quality)


def imagenet(
    root: Path, classes: int = 10, train: int = 12, val: int = 3, layout: str = "sorted",
    cifar10_root: Path | None = None, **drawn,
) -> Path:  # fmt: skip
    """train/<wnid>/*.JPEG with ``train`` files a class, and val/ with ``val`` a class.

    Args:
        layout: Of val: ``sorted`` in class folders; flat with the development kit unpacked (``devkit``), as an archive
            (``archive``), or with Kaggle's file (``kaggle``).
        drawn: More for `Maker`.
    """
    maker = Maker(cifar10_root, **drawn)
    for number in range(classes):
        for image in range(train):
            maker.write(root / "train" / wnid(number) / f"{wnid(number)}_{image}.JPEG", number)
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(classes), val))
    for position, number in enumerate(order.tolist(), 1):
        folder = root / "val" / (wnid(number) if layout == "sorted" else "")
        maker.write(folder / f"ILSVRC2012_val_{position:08}.JPEG", number)
    if layout in ("devkit", "archive"):
        devkit(root, order, classes, layout == "archive")
    if layout == "kaggle":
        rows = [f"ILSVRC2012_val_{p:08},{wnid(n)} 1 2 3 4 \n" for p, n in enumerate(order.tolist(), 1)]
        (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
    return root


def devkit(root: Path, order: np.ndarray, classes: int, archive: bool) -> None:
    """The ground truth by the kit's own class numbers, which are not in the order of the WordNet IDs."""
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    own = {number: classes - number for number in range(classes)}  # 1-based, the other way round
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("argv", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = [(own[n], wnid(n), f"class {n}", "", 0) for n in range(classes)]
    synsets.append((classes + 1, "n00001740", "entity", "", 2))  # inner nodes come after the leaves
    savemat(data / "meta.mat", {"synsets": np.array(synsets, dtype=fields).reshape(-1, 1)})
    truth = "".join(f"{own[number]}\n" for number in order.tolist())
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    if archive:
        with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
            tar.add(data.parent, "ILSVRC2012_devkit_t12")
        for path in data.iterdir():
            path.unlink()
        data.rmdir()
        data.parent.rmdir()


def tiny(
    root: Path, classes: int = 4, train: int = 10, val: int = 3, cifar10_root: Path | None = None
) -> Path:
    """tiny-imagenet-200 as it is published."""
    maker, base = Maker(cifar10_root, sides=(64, 65)), root / "tiny-imagenet-200"
    base.mkdir(parents=True)
    rows = []

    def write(path: Path, number: int) -> None:
        maker.write(path, number)
        Image.open(path).resize((64, 64)).save(path, "JPEG")

    for number in range(classes):
        for image in range(train):
            write(base / "train" / wnid(number) / "images" / f"{wnid(number)}_{image}.JPEG", number)
    for position in range(classes * val):
        name = f"val_{position}.JPEG"
        write(base / "val" / "images" / name, position % classes)
        rows.append(f"{name}\t{wnid(position % classes)}\t0\t0\t62\t62\n")
    (base / "val" / "val_annotations.txt").write_text("".join(rows))
    return base
