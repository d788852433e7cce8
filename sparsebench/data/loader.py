"""Batches of an in-memory data set, as a pure function of (seed, step), assembled on the device."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparsebench.data.batching import Normalize, derive_seed, rank_slice, steps_per_epoch
from sparsebench.data.dataset import Dataset, Images, SplitName
from sparsebench.errors import require_int
from sparsebench.transfer import send_


class Pixels(Images, Protocol):
    """Images in memory."""

    @property
    def images(self) -> Tensor:
        """Raw pixels, uint8 [N, C, H, W]."""


class InMemory(Dataset, Protocol):
    """A data set whose images are all in memory, on one device."""

    pad: int
    flip: bool

    @property
    def train(self) -> Pixels:
        """The training split."""

    @property
    def val(self) -> Pixels:
        """The validation split, for all choices."""

    @property
    def test(self) -> Pixels:
        """The test split, for reporting only."""


class TrainLoader:
    """Shuffled, cropped, flipped and normalised training batches, each a function of its step.

    The order, crops and flips of an epoch are drawn at once from (seed, epoch): a training that resumes at a step
    needs only that step, and the global random state is neither read nor changed. Each image occurs exactly once per
    epoch, and the last batch is smaller if the batch size does not divide the number of images. A last batch of a
    single image, on which batch normalisation cannot train, is dropped (a different image in each epoch).

    The crop is torchvision's ``RandomCrop(size, padding)``: a window of the zero-padded raw image at one of
    (2 pad + 1)² offsets; the flip is ``RandomHorizontalFlip``.

    Args:
        dataset: Its ``train`` split is used, with its ``pad`` and ``flip``.
        batch_size: Images per batch, at least 1.
        seed: Seed of the run, 0 or more.
        channels_last: Whether inputs are channels_last in memory; the values are the same.
        drop_last: Whether an incomplete last batch is dropped.

    Raises:
        SettingError: A value is out of range, or no complete batch is left.
    """

    def __init__(
        self,
        dataset: InMemory,
        batch_size: int,
        seed: int,
        *,
        channels_last: bool = False,
        drop_last: bool = False,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch(len(dataset.train), batch_size, drop_last)
        require_int("seed", seed, least=0)
        self.batch_size, self.seed = batch_size, seed
        self.labels, self.pad, self.flip = dataset.train.labels, dataset.pad, dataset.flip
        self.normalize = Normalize(dataset, channels_last)

        _, height, width = dataset.input_shape
        padded = pad(dataset.train.images, (self.pad,) * 4)  # [N, C, H + 2 pad, W + 2 pad] uint8
        padded = padded.contiguous(memory_format=self.normalize.memory_format)
        # Strided view of all crops of all images, [N, 2 pad + 1, 2 pad + 1, C, H, W], so that cropping is one gather.
        self.crops = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)  # a view
        # Fixed storage on the device, so that :meth:`gather` can be recorded; filled by :meth:`seek`.
        count, device = len(self.labels), self.labels.device
        self._plan = torch.zeros(4, count, dtype=torch.int64, device=device)  # image, row, column, mirrored
        self._first = torch.zeros((), dtype=torch.int64, device=device)  # place of the batch in the plan
        self._places = torch.arange(min(batch_size, count), device=device)
        self._epoch = -1  # no plan yet

    def size(self, step: int) -> int:
        """Images in the batch of ``step``."""
        return min(self.batch_size, len(self.labels) - step % self.steps_per_epoch * self.batch_size)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """The batch of ``step``, counted from 0 over all epochs.

        Args:
            step: The step.
            rank: Rank whose :func:`sparsebench.data.batching.rank_slice` of the batch is returned.
            world_size: Number of ranks.

        Returns:
            Inputs, float32 [B, C, H, W], and targets, int64 [B], on the device of the data set.
        """
        return self.gather(self.seek(step, rank, world_size))

    def seek(self, step: int, rank: int = 0, world_size: int = 1) -> int:
        """Make the batch of ``step`` the one that :meth:`gather` returns; the number of its samples for this rank."""
        epoch, position = divmod(step, self.steps_per_epoch)  # position: batch within the epoch
        if epoch != self._epoch:
            self._plan_epoch(epoch)
        own = rank_slice(self.size(step), rank, world_size)  # within the batch
        self._first.fill_(position * self.batch_size + own.start)
        return own.stop - own.start

    def gather(self, samples: int) -> tuple[Tensor, Tensor]:
        """The batch of the last :meth:`seek`: the same operators on the same storage for equal ``samples``."""
        places = self._places[:samples] + self._first  # b places in the epoch's order
        index, row, column, mirrored = self._plan.index_select(1, places)  # 4 × [b] int64
        images = self.crops[index, row, column]  # [b, C, H, W] uint8, one gather
        if self.flip:
            # Branchless select on bits, many times faster than torch.where on uint8.
            all_or_none = mirrored.to(torch.uint8).mul_(255).view(-1, 1, 1, 1)
            chosen = images.flip(-1).bitwise_xor_(images).bitwise_and_(all_or_none)  # differing bits
            images = chosen.bitwise_xor_(images)  # flipped, or unchanged
        return self.normalize(images), self.labels.index_select(0, index)  # [b, C, H, W] float32, [b] int64

    def _plan_epoch(self, epoch: int) -> None:
        """Copy the :meth:`plan` of an epoch to the device without waiting."""
        send_(self._plan, self.plan(epoch))
        self._epoch = epoch

    def plan(self, epoch: int) -> Tensor:
        """The order, crops and flips of an epoch, drawn on the CPU: image, row, column, mirrored; int64 [4, N]."""
        random = torch.Generator().manual_seed(derive_seed(self.seed, epoch))  # CPU: the same on every device
        count = len(self.labels)
        offsets = 2 * self.pad + 1  # per axis
        order = torch.randperm(count, generator=random)  # first: the same with and without augmentation
        rows, columns = torch.randint(offsets, (2, count), generator=random)  # crop offsets, [N] each
        mirrored = torch.randint(2, (count,), generator=random) * self.flip  # [N], 0 or 1
        return torch.stack([order, rows, columns, mirrored])

    def state_dict(self) -> dict[str, Any]:
        """Nothing: batches are functions of their step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def batches(
    dataset: InMemory,
    split: SplitName,
    batch_size: int,
    *,
    channels_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """All batches of a split once, in order, normalised and not augmented.

    Args:
        dataset: The data set.
        split: Which of its splits.
        batch_size: Images a batch; the last one holds what is left.
        channels_last: Whether inputs are channels_last in memory.
        rank: Which of the ``world_size`` that take turns: it gets the batches rank, rank + ranks, ...
        world_size: How many they are.

    Yields:
        Inputs, float32 [B, C, H, W], and targets, int64 [B], on the device of the data set.
    """
    require_int("batch_size", batch_size, least=1)
    chosen = {"train": dataset.train, "val": dataset.val, "test": dataset.test}[split]
    normalize = Normalize(dataset, channels_last)
    parts = zip(chosen.images.split(batch_size), chosen.labels.split(batch_size), strict=True)  # views
    for images, labels in islice(parts, rank, None, world_size):
        yield normalize(images), labels
