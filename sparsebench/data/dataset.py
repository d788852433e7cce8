"""What every data set is, in memory or on disk: three splits, training batches, evaluation batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

from torch import Tensor

SplitName = Literal["train", "val", "test"]


class Images(Protocol):
    """Some images, as an evaluation sees them, and their labels."""

    @property
    def labels(self) -> Tensor:
        """Class indices, int64 [N]."""

    def __len__(self) -> int:
        """Number of images."""

    def take(self, indices: Tensor) -> Images:
        """The images at ``indices``."""

    def chunks(self, size: int) -> Iterator[Tensor]:
        """The raw images in order, ``size`` at a time, uint8 [n, C, H, W]; not augmented."""


class Loader(Protocol):
    """Training batches by position."""

    steps_per_epoch: int

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """A rank's share of the inputs and targets of ``step``: a pure function of seed and step."""

    def size(self, step: int) -> int:
        """Samples of ``step`` over all ranks."""

    def state_dict(self) -> dict[str, Any]:
        """What has been noticed about the data so far; batches do not depend on it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""


class Dataset(Protocol):
    """Images in three splits; ``val`` comes out of the official training images, ``test`` is the official one.

    ``input_shape`` and ``train_shape`` are [C, H, W] of an image as it is evaluated and as it is trained on.
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
        """What is trained on."""

    @property
    def val(self) -> Images:
        """What every choice is made by."""

    @property
    def test(self) -> Images:
        """What is only reported."""

    def loader(self, batch_size: int, seed: int, *, channels_last: bool = False) -> Loader:
        """Training batches by position."""

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

        Of several ranks one gets the batches rank, rank + ranks, ...
        """

    def summary(self) -> dict[str, Any]:
        """Columns for the result row."""
