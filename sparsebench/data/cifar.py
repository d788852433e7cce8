"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsebench.data.arrays import Content, ImageDataset
from sparsebench.data.cifar_files import LAYOUT_10, LAYOUT_100, Layout, find, read
from sparsebench.paths import expanded


@dataclass(kw_only=True, eq=False, repr=False)
class _CIFAR(ImageDataset):
    layout: ClassVar[Layout]

    data_root: str

    def read(self) -> Content:
        root = expanded(self.data_root, "data_root")
        folder = find(root, self.layout)
        if folder is None:
            from sparsebench.data.download import download  # imported here: torchvision is slow to import

            folder = download(root, self.layout)
        return Content(self.layout.name, self.layout.num_classes, *read(folder, self.layout))


@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR10(_CIFAR):
    """60,000 colour 32x32 photographs in 10 classes, 10,000 of them for test.

    Read from the authors' binary or python version in ``data_root`` or ``data_root``/cifar10, or else downloaded
    there by torchvision.

    Args:
        data_root: Folder that holds cifar-10-batches-bin or cifar-10-batches-py; ``~`` is the home folder. The
            other arguments are those of `ImageDataset`.

    Raises:
        SettingError: The images are missing and cannot be downloaded, or a file is corrupt.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report,
        University of Toronto, 2009. Crop and flip: He, Zhang, Ren and Sun, "Deep Residual Learning for
        Image Recognition", CVPR 2016, arXiv 1512.03385, section 4.2.
    """

    layout = LAYOUT_10


@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR100(_CIFAR):
    """60,000 colour 32x32 photographs in 100 (fine) classes, 10,000 of them for test.

    Read from the authors' binary or python version in ``data_root`` or ``data_root``/cifar100, or else downloaded
    there by torchvision.

    Args:
        data_root: Folder that holds cifar-100-binary or cifar-100-python; ``~`` is the home folder. The
            other arguments are those of `ImageDataset`.

    Raises:
        SettingError: The images are missing and cannot be downloaded, or a file is corrupt.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report,
        University of Toronto, 2009.
    """

    layout = LAYOUT_100
