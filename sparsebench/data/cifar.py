"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from sparsebench.data.arrays import ImageDataset
from sparsebench.data.cifar_files import LAYOUT_10, LAYOUT_100, Layout, find, read
from sparsebench.paths import expanded


class _CIFAR(ImageDataset):
    layout: ClassVar[Layout]

    def __init__(
        self,
        *,
        data_root: str,
        val_fraction: float,
        split_seed: int,
        train_samples: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        pad: int,
        flip: bool,
        device: torch.device | str = "cpu",
    ) -> None:
        root = expanded(data_root)
        folder = find(root, self.layout)
        if folder is None:
            from sparsebench.data.download import download  # imported here: torchvision is slow to import

            folder = download(root, self.layout)
        train, test = read(folder, self.layout)
        super().__init__(
            self.layout.name,
            self.layout.num_classes,
            train,
            test,
            val_fraction=val_fraction,
            split_seed=split_seed,
            train_samples=train_samples,
            mean=mean,
            std=std,
            pad=pad,
            flip=flip,
            device=device,
        )


class CIFAR10(_CIFAR):
    """60,000 colour 32x32 photographs in 10 classes, 10,000 of them for test.

    Read from the authors' binary or python version in ``data_root`` or ``data_root``/cifar10, or else downloaded
    there by torchvision.

    Args:
        data_root: Folder that holds cifar-10-batches-bin or cifar-10-batches-py; ``~`` is the home folder.
        val_fraction: See `ImageDataset`, also for the following arguments.
        split_seed: Seed of the split of the training images into ``train`` and ``val``.
        train_samples: Number of training images to keep.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        pad: Padding of the random crop; 4 is standard.
        flip: Whether to flip training images horizontally.
        device: Device of the images.

    Raises:
        SettingError: The images are missing and cannot be downloaded, or a file is corrupt.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report,
        University of Toronto, 2009. Crop and flip: He, Zhang, Ren and Sun, "Deep Residual Learning for
        Image Recognition", CVPR 2016, arXiv 1512.03385, section 4.2.
    """

    layout = LAYOUT_10


class CIFAR100(_CIFAR):
    """60,000 colour 32x32 photographs in 100 (fine) classes, 10,000 of them for test.

    Read from the authors' binary or python version in ``data_root`` or ``data_root``/cifar100, or else downloaded
    there by torchvision.

    Args:
        data_root: Folder that holds cifar-100-binary or cifar-100-python; ``~`` is the home folder.
        val_fraction: See `ImageDataset`, also for the following arguments.
        split_seed: Seed of the split of the training images into ``train`` and ``val``.
        train_samples: Number of training images to keep.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        pad: Padding of the random crop; 4 is standard.
        flip: Whether to flip training images horizontally.
        device: Device of the images.

    Raises:
        SettingError: The images are missing and cannot be downloaded, or a file is corrupt.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report,
        University of Toronto, 2009.
    """

    layout = LAYOUT_100
