"""Read CIFAR-10 and CIFAR-100 from the authors' two file formats.

Binary version: records of one label byte (CIFAR-100: coarse, then fine), then 1,024 red, 1,024 green and
1,024 blue bytes, each plane row by row. Python version: pickled dicts of the same planes and labels.
Described at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import _codecs
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sparsebench.data.arrays import Split
from sparsebench.errors import SettingError

IMAGE = (3, 32, 32)  # [C, H, W]
IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """Names and sizes of the files of one data set.

    Args:
        name: Name of the data set.
        num_classes: Number of classes.
        binary_folder: Folder of the binary version; its files end in ``.bin``.
        python_folder: Folder of the python version; the same names without a suffix.
        train_files: Names of the training files.
        test_file: Name of the test file.
        train_images: Images in each training file.
        test_images: Images in the test file.
        label_bytes: Label bytes before each image in the binary version; the last one is used.
        label_key: Key of the labels in the python version.
        url: Archive of the binary version.
    """

    name: str
    num_classes: int
    binary_folder: str
    python_folder: str
    train_files: tuple[str, ...]
    test_file: str
    train_images: int
    test_images: int
    label_bytes: int
    label_key: str
    url: str


LAYOUT_10 = Layout(
    name="cifar10",
    num_classes=10,
    binary_folder="cifar-10-batches-bin",
    python_folder="cifar-10-batches-py",
    train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test_file="test_batch",
    train_images=10_000,
    test_images=10_000,
    label_bytes=1,
    label_key="labels",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
LAYOUT_100 = Layout(
    name="cifar100",
    num_classes=100,
    binary_folder="cifar-100-binary",
    python_folder="cifar-100-python",
    train_files=("train",),
    test_file="test",
    train_images=50_000,
    test_images=10_000,
    label_bytes=2,
    label_key="fine_labels",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
)


def candidate_folders(root: Path, layout: Layout) -> list[Path]:
    """The folders that `find` tries, in order."""
    return [
        parent / folder
        for parent in (root, root / layout.name)
        for folder in (layout.binary_folder, layout.python_folder)
    ]


def find(root: Path, layout: Layout) -> Path | None:
    """The first of the `candidate_folders` that exists."""
    return next((folder for folder in candidate_folders(root, layout) if folder.is_dir()), None)


def read(folder: Path, layout: Layout) -> tuple[Split, Split]:
    """The official training and test images in ``folder``, one of the `candidate_folders`.

    Raises:
        SettingError: A file is missing, has the wrong size, or is corrupt.
    """
    train = [_read_file(folder, name, layout.train_images, layout) for name in layout.train_files]
    return _join(train), _join([_read_file(folder, layout.test_file, layout.test_images, layout)])


def _join(files: list[tuple[np.ndarray, np.ndarray]]) -> Split:
    pixels, labels = (np.concatenate(parts) for parts in zip(*files, strict=True))
    return Split(torch.from_numpy(pixels.reshape(-1, *IMAGE)), torch.from_numpy(labels.astype(np.int64)))


def _read_file(folder: Path, name: str, count: int, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [count, 3072] and labels [count] of one file of either version."""
    binary = folder.name == layout.binary_folder
    path = folder / (f"{name}.bin" if binary else name)
    try:
        pixels, labels = _read_binary(path, count, layout) if binary else _read_pickle(path, count, layout)
        if labels.min() < 0 or labels.max() >= layout.num_classes:
            raise ValueError(f"a label out of range [0, {layout.num_classes})")
    except Exception as error:  # a corrupt pickle can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = f"remove {folder} and unpack {layout.url} instead"
        allowed = f"a valid file of {layout.name}, but: {reason}; {remedy}"
        raise SettingError("data_root", path, allowed) from error
    return pixels, labels


def _read_binary(path: Path, count: int, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [count, 3072] and labels [count] of a file of the binary version."""
    record = layout.label_bytes + IMAGE_BYTES
    found = path.stat().st_size
    if found != count * record:
        raise ValueError(f"{found} bytes where there should be {count * record}")
    records = np.fromfile(path, dtype=np.uint8).reshape(count, record)
    return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1]


def _read_pickle(path: Path, count: int, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [count, 3072] and labels [count] of a file of the python version."""
    with path.open("rb") as file:
        batch = _ArrayUnpickler(file, encoding="bytes").load()
    batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    pixels, labels = batch["data"], np.asarray(batch[layout.label_key])
    if pixels.dtype != np.uint8 or pixels.shape != (count, IMAGE_BYTES):
        raise ValueError(f"{pixels.dtype} images of shape {pixels.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ValueError(f"{labels.dtype} labels of shape {labels.shape}")
    return pixels, labels


def _dtype(kind: str, align: int = 0, copy: int = 0) -> np.dtype:
    """``np.dtype`` with flags that Python 2 pickled as integers, which newer numpy warns about."""
    return np.dtype(kind, align=bool(align), copy=bool(copy))


_OF_AN_ARRAY = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # wherever numpy defines it
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _codecs.encode,  # bytes, as Python 3 pickles them in protocol 2
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds only lists, dicts and numpy arrays, so that a pickle cannot run code."""

    def find_class(self, module: str, name: str) -> object:
        """Resolve only the names in :data:`_OF_AN_ARRAY`."""
        try:
            return _OF_AN_ARRAY[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"a pickle that refers to {module}.{name}") from None
