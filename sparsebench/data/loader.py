"""Batches of an in-memory data set: a pure function of (seed, step), made on the device."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from sparsebench.data.dataset import Dataset, SplitName
from sparsebench.errors import SettingError

if TYPE_CHECKING:
    from sparsebench.data.arrays import ImageDataset


class Normalize:
    """Raw pixels as (x / 255 - mean) / std, in float32 and a memory format.

    Args:
        dataset: Where mean and standard deviation come from.
        channels_last: Whether the results are channels_last in memory.
    """

    def __init__(self, dataset: Dataset, channels_last: bool) -> None:
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.mean, self.std = dataset.mean, dataset.std
        self._spread: dict[tuple[torch.Size, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """``images``, uint8 [N, C, H, W], normalised."""
        kind = (images.shape[1:], images.device)
        if kind not in self._spread:
            self._spread[kind] = self._over(self.mean, *kind), self._over(self.std, *kind)
        mean, std = self._spread[kind]
        inputs = images.to(torch.float32, memory_format=self.memory_format)
        return inputs.sub_(mean).div_(std)

    def _over(self, values: tuple[float, ...], shape: torch.Size, device: torch.device) -> Tensor:
        """A whole image of ``values``, in units of a raw pixel: broadcasting over the channels would be slow."""
        numbers = torch.tensor(values, dtype=torch.float64).mul(255).to(torch.float32)
        image = numbers.view(1, -1, 1, 1).expand(1, *shape).contiguous(memory_format=self.memory_format)
        return image.to(device)


class TrainLoader:
    """Shuffled, cropped, mirrored and normalised training batches, each a function of its step.

    An epoch's order, crops and mirrorings are drawn at once, from (seed, epoch) alone: a training that
    resumes at a step needs nothing but that step, and no global random state is read or changed. Each
    image is drawn exactly once an epoch, and the last batch of an epoch is smaller where the batch size
    does not divide the number of images; where a single image would be left, which batch normalisation
    cannot train on, that batch is dropped (so that epoch misses one image, another one each time).

    The crop is torchvision's ``RandomCrop(size, padding)``: a window of the raw image padded with black,
    at one of (2 pad + 1)² offsets; the mirroring is ``RandomHorizontalFlip``.

    Args:
        dataset: Its ``train`` split is used, with its ``pad`` and ``flip``.
        batch_size: Images a batch, at least 1.
        seed: Seed of the run, 0 or more.
        channels_last: Whether inputs are channels_last in memory; the values are the same.
        drop_last: Whether any incomplete last batch is dropped.

    Raises:
        SettingError: A value is out of its range, or no whole batch is left.

    Example:
        >>> loader = TrainLoader(dataset, batch_size=128, seed=1)  # doctest: +SKIP
        >>> inputs, targets = loader.batch(step=1000)  # doctest: +SKIP
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        seed: int,
        *,
        channels_last: bool = False,
        drop_last: bool = False,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch(len(dataset.train), batch_size, drop_last)
        check_seed(seed)
        self.batch_size, self.seed = batch_size, seed
        self.labels, self.pad, self.flip = dataset.train.labels, dataset.pad, dataset.flip
        self.normalize = Normalize(dataset, channels_last)

        _, height, width = dataset.input_shape
        padded = pad(dataset.train.images, (self.pad,) * 4)
        padded = padded.contiguous(memory_format=self.normalize.memory_format)
        # A view of all crops of all images, [N, 2 pad + 1, 2 pad + 1, C, H, W]: cropping is one gather.
        self.crops = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
        self._epoch = -1

    def size(self, step: int) -> int:
        """Images in the batch of ``step``."""
        return min(self.batch_size, len(self.labels) - step % self.steps_per_epoch * self.batch_size)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
        """The batch of ``step``, counted from 0 over all epochs.

        Args:
            step: The step.
            rank: Whose :func:`share` of it.
            ranks: Among how many it is shared out.

        Returns:
            Inputs, float32 [B, C, H, W], and targets, int64 [B], on the device of the data set.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._plan_epoch(epoch)
        own, start = share(self.size(step), rank, ranks), position * self.batch_size
        part = slice(start + own.start, start + own.stop)
        index, row, column = self._places[:, part]
        images = self.crops[index, row, column]
        if self.flip:
            # torch.where is many times slower on bytes: images ^ (images ^ mirrored) where mirrored, as bits.
            chosen = images.flip(-1).bitwise_xor_(images).bitwise_and_(self._mirrored[part])
            images = chosen.bitwise_xor_(images)
        return self.normalize(images), self._targets[part]

    def _plan_epoch(self, epoch: int) -> None:
        """Draw the order, crops and mirrorings of an epoch on the CPU, and send them over at once."""
        random = torch.Generator().manual_seed(mixed(self.seed, epoch))
        count, offsets = len(self.labels), 2 * self.pad + 1
        order = torch.randperm(count, generator=random)  # first: the same with and without augmentation
        rows, columns = torch.randint(offsets, (2, count), generator=random)
        mirrored = torch.randint(2, (count,), generator=random)
        plan = torch.stack([order, rows, columns, mirrored]).to(self.labels.device)
        self._places = plan[:3]
        self._mirrored = plan[3].to(torch.uint8).mul_(255).view(-1, 1, 1, 1)  # all bits or none
        self._targets = self.labels[plan[0]]
        self._epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: batches are functions of their step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def batches(
    dataset: ImageDataset,
    split: SplitName,
    batch_size: int,
    *,
    channels_last: bool = False,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of a split once, in order, normalised and otherwise as it is.

    Args:
        dataset: The data set.
        split: Which of its splits.
        batch_size: Images a batch; the last one holds what is left.
        channels_last: Whether inputs are channels_last in memory.
        rank: Which of the ``ranks`` that take turns: it gets the batches rank, rank + ranks, ...
        ranks: How many they are.

    Yields:
        Inputs, float32 [B, C, H, W], and targets, int64 [B], on the device of the data set.
    """
    check_batch_size(batch_size)
    chosen = {"train": dataset.train, "val": dataset.val, "test": dataset.test}[split]
    normalize = Normalize(dataset, channels_last)
    parts = zip(chosen.images.split(batch_size), chosen.labels.split(batch_size), strict=True)
    for images, labels in islice(parts, rank, None, ranks):
        yield normalize(images), labels


def share(count: int, rank: int, ranks: int) -> slice:
    """The part of ``count`` samples that is this rank's; parts are as equal as can be.

    Each has two samples or more, for batch normalisation cannot train on one; where they are too few for that, the last
    ranks have none.

    Example:
        >>> [share(7, rank, 2) for rank in range(2)], [share(5, rank, 4) for rank in range(4)]
        ([slice(0, 3, None), slice(3, 7, None)],
         [slice(0, 2, None), slice(2, 5, None), slice(5, 5, None), slice(5, 5, None)])
    """
    working = min(ranks, max(count // 2, 1))
    return slice(count * min(rank, working) // working, count * min(rank + 1, working) // working)


def steps_per_epoch(images: int, batch_size: int, drop_last: bool = False) -> int:
    """Batches of an epoch: an incomplete last one counts, unless it is dropped or holds a single image.

    Raises:
        SettingError: The batch size is none, or no batch is left.
    """
    check_batch_size(batch_size)
    whole, rest = divmod(images, batch_size)
    steps = whole + (rest > 1 and not drop_last)
    if steps == 0:
        raise SettingError("batch_size", batch_size, f"at most the {images} training images")
    return steps


def mixed(*numbers: int) -> int:
    """32 bits that depend on all ``numbers``: torch's CPU generator ignores all higher bits of its seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def check_seed(seed: int) -> None:
    """Refuse what is not a whole number of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingError("seed", seed, "a whole number, 0 or more")


def check_batch_size(batch_size: int) -> None:
    """Refuse what is not a whole number of at least 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise SettingError("batch_size", batch_size, "a whole number of images, at least 1")
