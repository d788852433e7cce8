"""``split_hash``: the images of a run, and which of them are for training, validation and test."""

from __future__ import annotations

from sparsebench.data.dataset import Dataset
from sparsebench.runs.hashes.digest import digest


def split_hash(dataset: Dataset) -> str:
    """Hash of train, val and test, in this order, as the data set has split them.

    Of images in memory, the raw pixels and labels of each split in their order. Of images on disk, the list of all
    files (paths in their order, or places in the shards), and the indices and labels of each split; no image is read.
    Empty for data sets of other packages whose splits have no ``identifying_parts``.
    """
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    if not all(hasattr(split, "identifying_parts") for split in splits.values()):
        return ""
    return digest(
        (f"{name} {what}", content)
        for name, split in splits.items()
        for what, content in split.identifying_parts()
    )
