"""Data sets kept in memory as tensors, and their split into train, val and test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsebench.data.dataset import SplitName
from sparsebench.data.loader import TrainLoader, batches
from sparsebench.errors import SettingError, require_int


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Args:
        images: Raw pixels, uint8 [N, C, H, W].
        labels: Class indices, int64 [N].
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def take(self, indices: Tensor) -> Split:
        """A copy of the images at ``indices``."""
        return Split(self.images[indices], self.labels[indices])

    def chunks(self, size: int) -> Iterator[Tensor]:
        """The raw images in order, ``size`` at a time, uint8 [n, C, H, W]."""
        yield from self.images.split(size)

    def identifying_parts(self) -> Iterator[tuple[str, bytes]]:
        """The shape and pixels of the images, and their labels."""
        yield f"pixels {tuple(self.images.shape)}", self.images.cpu().contiguous().numpy().tobytes()
        yield "labels", self.labels.cpu().numpy().tobytes()


def stratified(labels: Tensor, size: int, seed: int) -> Tensor:
    """Sorted indices of ``size`` samples, drawn so that each class keeps its fraction of ``labels``.

    Counts that are not integers are rounded by the largest remainder, ties to the lower class. The draw uses
    numpy's legacy generator, whose stream is frozen, so a split is the same on every machine and in every
    version. A smaller ``size`` with the same seed draws from the same order within each class.

    Args:
        labels: Class indices, int64 [N].
        size: Number of samples, in [0, N].
        seed: Seed of the draw.

    Example:
        >>> stratified(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), size=4, seed=0).tolist()
        [2, 3, 4, 6]
    """
    classes = labels.cpu().numpy()
    counts, remainder = np.divmod(size * np.bincount(classes), max(len(classes), 1))
    counts[np.argsort(-remainder, kind="stable")[: size - counts.sum()]] += 1
    random = np.random.RandomState(seed)
    drawn = [random.permutation(np.flatnonzero(classes == c))[:count] for c, count in enumerate(counts)]
    return torch.from_numpy(np.sort(np.concatenate(drawn)))


@dataclass(frozen=True, eq=False)
class Content:
    """The published arrays of a data set.

    Args:
        name: Its name, as in conf/dataset.
        num_classes: Number of classes.
        train: The official training images, which are split into ``train`` and ``val``.
        test: The official test images.
    """

    name: str
    num_classes: int
    train: Split
    test: Split


@dataclass(kw_only=True, eq=False, repr=False)
class ImageDataset(ABC):
    """A data set in memory on one device, split into ``train``, ``val`` and ``test``.

    The validation split is taken from the official training images with ``split_seed``, independent of the seed
    of a run: all methods and all runs use the same images for choices and for reporting. Data sets inherit
    these arguments, and add what they need to :meth:`read` their images.

    Args:
        val_fraction: Fraction of the training images held out as ``val``, stratified, in (0, 1).
        split_seed: Seed of that split.
        train_samples: Number of (stratified) training images to keep after the split; None keeps all.
        mean: Mean of each channel, of pixels scaled to [0, 1].
        std: Standard deviation of each channel, same scale.
        pad: Zero padding on each side of a training image before a random crop; 0 for none.
        flip: Whether training images are flipped horizontally with probability 1/2.
        device: Device of the images.

    Raises:
        SettingError: A value is out of range.
    """

    val_fraction: float
    split_seed: int
    train_samples: int | None
    mean: tuple[float, ...]  # a list will do
    std: tuple[float, ...]
    pad: int
    flip: bool
    device: torch.device | str = "cpu"

    note = ""
    """Remark on results with this data set, printed at the start of a run."""

    @abstractmethod
    def read(self) -> Content:
        """All images; whatever the arguments of the data set itself say of them is in effect when this returns."""

    def __post_init__(self) -> None:
        content = self.read()
        require_int("pad", self.pad, least=0)
        _, channels, height, width = content.train.images.shape
        self.name, self.num_classes = content.name, content.num_classes
        self.input_shape = self.train_shape = (channels, height, width)
        if len(self.mean) != channels:
            raise SettingError("mean", list(self.mean), f"one number for each of {channels} channels")
        if len(self.std) != channels or min(self.std) <= 0:
            raise SettingError("std", list(self.std), f"one positive number for each of {channels} channels")
        self.mean, self.std = tuple(map(float, self.mean)), tuple(map(float, self.std))
        self.flip = bool(self.flip)

        kept, held_out = splits_of(
            content.train.labels, self.num_classes, self.val_fraction, self.split_seed, self.train_samples
        )
        train, val = content.train.take(kept), content.train.take(held_out)
        self.train, self.val, self.test = (
            Split(split.images.to(self.device), split.labels.to(self.device))
            for split in (train, val, content.test)
        )

    def loader(self, batch_size: int, seed: int, *, channels_last: bool = False) -> TrainLoader:
        """Training batches by step."""
        return TrainLoader(self, batch_size, seed, channels_last=channels_last)

    def batches(
        self,
        split: SplitName,
        batch_size: int,
        *,
        channels_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches of a split in order; with several ranks, this rank's."""
        return batches(self, split, batch_size, channels_last=channels_last, rank=rank, world_size=world_size)

    def summary(self) -> dict[str, Any]:
        """No extra columns."""
        return {}


@dataclass(kw_only=True, eq=False, repr=False)
class ArrayDataset(ImageDataset):
    """A data set of images that are at hand.

    Args:
        content: The images; the other arguments are those of `ImageDataset`.
    """

    content: Content

    def read(self) -> Content:
        """The given arrays."""
        return self.content


def splits_of(
    labels: Tensor, num_classes: int, val_fraction: float, split_seed: int, train_samples: int | None
) -> tuple[Tensor, Tensor]:
    """Sorted indices of ``train`` and of ``val`` among the official training images.

    Args:
        labels: Labels of the official training images, int64 [N].
        num_classes: Number of classes.
        val_fraction: Fraction held out as ``val``, stratified, in (0, 1).
        split_seed: Seed of that split.
        train_samples: Number of (stratified) training images to keep after the split; None keeps all.

    Raises:
        SettingError: A value is out of range.
    """
    require_int("split_seed", split_seed, least=0, most=2**32 - 1)
    train, val = _hold_out(labels, val_fraction, split_seed)
    if train_samples is not None:
        require_int("train_samples", train_samples, num_classes, len(train), optional=True)  # one per class
        train = train[stratified(labels[train], train_samples, split_seed)]
    return train, val


def _hold_out(labels: Tensor, val_fraction: float, split_seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the remaining training images, and of the validation images."""
    allowed = "a fraction of the training images in (0, 1), for example 0.1"
    if not isinstance(val_fraction, (int, float)) or not 0 < val_fraction < 1:
        raise SettingError("val_fraction", val_fraction, allowed)
    size = int(val_fraction * len(labels) + 0.5)
    if not 0 < size < len(labels):
        raise SettingError("val_fraction", val_fraction, f"{allowed}, that leaves neither split empty")
    held_out = stratified(labels, size, split_seed)
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero().squeeze(1), held_out
