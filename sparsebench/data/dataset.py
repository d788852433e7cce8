"""Protocols of data sets: three splits, training batches, evaluation batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

SplitName = Literal["train", "val", "test"]


class Images(Protocol):
    """Images as used in evaluation, and their labels."""

    @property
    def labels(self) -> Tensor:
        """Class indices, int64 [N]."""

    def __len__(self) -> int:
        """Number of images."""

    def take(self, indices: Tensor) -> Images:
        """The images at ``indices``."""

    def chunks(self, size: int) -> Iterator[Tensor]:
        """The raw, unaugmented images in order, ``size`` at a time, uint8 [n, C, H, W]."""

    def identifying_parts(self) -> Iterator[tuple[str, bytes]]:
        """(name, content) of what tells these images from others, in their order; hashed. Reads no image from disk."""


class Loader(Protocol):
    """Training batches by step."""

    steps_per_epoch: int

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """A rank's slice of the inputs and targets of ``step``; a pure function of seed and step."""

    def size(self, step: int) -> int:
        """Global batch size of ``step``."""

    def plan(self, epoch: int) -> Tensor:
        """What decides the order and augmentation of an epoch, int64 on the CPU."""

    def state_dict(self) -> dict[str, Any]:
        """State of the data set; batches do not depend on it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""


@runtime_checkable
class FixedStorageLoader(Loader, Protocol):
    """A loader whose batches are made on the device from fixed storage, so that making them can be recorded."""

    def seek(self, step: int, rank: int = 0, world_size: int = 1) -> int:
        """Make the batch of ``step`` the one that :meth:`gather` returns; the number of its samples for this rank."""

    def gather(self, samples: int) -> tuple[Tensor, Tensor]:
        """The batch of the last :meth:`seek`: the same operators on the same storage for equal ``samples``."""


class Dataset(Protocol):
    """Images in three splits; ``val`` is taken from the official training images, ``test`` is the official one.

    ``input_shape`` and ``train_shape`` are the shapes [C, H, W] of images in evaluation and in training.
    """

    name: str
    note: str
    num_classes: int
    input_shape: tuple[int, int, int]
    train_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def train(self) -> Images:
        """The training split."""

    @property
    def val(self) -> Images:
        """The validation split, for all choices."""

    @property
    def test(self) -> Images:
        """The test split, for reporting only."""

    def loader(self, batch_size: int, seed: int, *, channels_last: bool = False) -> Loader:
        """Training batches by step."""

    def batches(
        self,
        split: SplitName,
        batch_size: int,
        *,
        channels_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All of a split once, in order, normalised, not augmented, on the device.

        With several ranks, each gets the batches rank, rank + world_size, ...
        """

    def summary(self) -> dict[str, Any]:
        """Columns for the result row."""
