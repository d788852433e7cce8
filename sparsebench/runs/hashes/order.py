"""``order_hash``: the order and augmentation of the training images."""

from __future__ import annotations

from sparsebench.data.dataset import Loader
from sparsebench.runs.hashes.digest import digest, part


def order_hash(loader: Loader) -> str:
    """Hash of the first epoch as the loader plans it: the plan, the number of steps, and the size of the last batch.

    Of images in memory the plan is the order, and the crop and flip of each image; of images on disk the order, from
    whose seed the views are drawn too. Later epochs come from the same seed. No image is read. Empty for loaders of
    other packages that have no ``plan``.
    """
    if not hasattr(loader, "plan"):
        return ""
    steps = loader.steps_per_epoch
    return digest([part("plan", loader.plan(0)), ("steps", f"{steps} {loader.size(steps - 1)}".encode())])
