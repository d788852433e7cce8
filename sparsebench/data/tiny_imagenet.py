"""Tiny ImageNet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsebench.data import listing
from sparsebench.data.arrays import Content, ImageDataset, Split
from sparsebench.data.listing import ImageSource
from sparsebench.errors import SettingError
from sparsebench.paths import expanded

SIDE = 64  # pixels


@dataclass(kw_only=True, eq=False, repr=False)
class TinyImageNet(ImageDataset):
    """110,000 colour photographs of 64x64 pixels in 200 classes, 10,000 of them for test.

    Kept in memory: decoded once at the start of a run (1.35 GB), then handled like CIFAR. The official test labels are
    not published, so the validation images are the test set.

    Args:
        data_root: Folder that holds tiny-imagenet-200 as unpacked, or is it. The other arguments are those of
            `ImageDataset`.

    Raises:
        SettingError: The images are missing, or one is unreadable.

    References:
        Le and Yang, "Tiny ImageNet Visual Recognition Challenge", CS 231N report, Stanford University, 2015.
    """

    data_root: str

    def read(self) -> Content:
        """All images, decoded."""
        root = expanded(self.data_root, "data_root")
        candidate_folders = [
            parent / folder
            for parent in (root, root / "tiny_imagenet")
            for folder in ("", "tiny-imagenet-200")
        ]
        folder = next(listing.folders_containing(candidate_folders, "train", "val"), None)
        if folder is None:
            looked = ", ".join(map(str, candidate_folders))
            raise SettingError(
                "data_root", root, f"a folder that holds tiny-imagenet-200 (looked in {looked})"
            )
        found = listing.tiny_imagenet(folder)
        assert found.test is not None
        return Content(
            "tiny_imagenet",
            len(found.classes),
            Split(_decoded(found.train), found.train_labels),
            Split(_decoded(found.test), found.test_labels),
        )


def _decoded(source: ImageSource) -> Tensor:
    """All images of ``source``, uint8 [N, 3, 64, 64]."""
    from sparsebench.data.decoding import decode  # imported here: torchvision is slow to import

    images = torch.empty(len(source), 3, SIDE, SIDE, dtype=torch.uint8)

    def read(index: int) -> None:
        try:
            image = decode(source.read(index))
            if image.shape[1:] != (SIDE, SIDE):
                raise ValueError(
                    f"{image.shape[2]}x{image.shape[1]} pixels where there should be {SIDE}x{SIDE}"
                )
        except (OSError, ValueError) as error:
            raise SettingError("data_root", source.name(index), f"a valid image: {error}") from error
        images[index] = image

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(len(source))):
            pass
    return images
