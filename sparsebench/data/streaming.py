"""Batches read from disk by worker processes: the same to the bit however many there are, from any step on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from sparsebench.data.batching import Normalize, derive_seed, rank_slice, steps_per_epoch
from sparsebench.data.dataset import Dataset, Images
from sparsebench.data.decoding import EvalTransform, TrainTransform, decode
from sparsebench.data.listing import ImageSource
from sparsebench.errors import RunError, require_int

CHUNK = 64
"""Images that a worker reads at a time: several work at one batch, and shared memory holds about two batches."""

Request = tuple[int, tuple[int, ...]]
"""Index of an image in its source, and what its view is drawn from; nothing for a view that draws nothing."""

Failures = dict[int, str]
"""Index of an unreadable image -> reason."""


@dataclass(frozen=True)
class Reader:
    """What a worker does: reads, decodes and views images, a part of a batch.

    An image that cannot be read or decoded becomes one of a single colour, and is told of beside the others.

    Args:
        source: Where the bytes come from.
        view: Of the decoded image.
        fill: Raw pixel [R, G, B] of an unreadable image.
    """

    source: ImageSource
    view: TrainTransform | EvalTransform
    fill: tuple[int, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.source)

    def __getitems__(self, requests: Sequence[Request]) -> tuple[Tensor, Failures]:
        """Images, uint8 [N, 3, size, size], and what went wrong."""
        failures: Failures = {}
        images = [self._image(index, drawn, failures) for index, drawn in requests]
        return default_collate(images), failures  # in a worker right into shared memory

    def _image(self, index: int, drawn: tuple[int, ...], failures: Failures) -> Tensor:
        try:
            image = decode(self.source.read(index))
        except (OSError, ValueError) as error:
            failures[index] = " ".join(str(error).split())
            size = self.view.size
            return torch.tensor(self.fill, dtype=torch.uint8).view(3, 1, 1).repeat(1, size, size)
        return (
            self.view(image, derive_seed(*drawn))
            if isinstance(self.view, TrainTransform)
            else self.view(image)
        )


def make_dataloader(
    reader: Reader,
    requests: Iterable[Sequence[Request]],
    batch_size: int,
    workers: int,
    device: torch.device,
    persistent: bool,
) -> DataLoader[tuple[Tensor, Failures]]:
    """A loader of parts of batches; an iterator of it can be taken more than once.

    Args:
        reader: What the workers do.
        requests: Of every part of every batch.
        batch_size: Images a batch; twice as many are read ahead.
        workers: Processes; 0 reads in this one.
        device: Where batches are going: pinned memory for a GPU.
        persistent: Whether the workers outlive an iterator.
    """
    ahead = max(-(-2 * batch_size // (CHUNK * workers)), 2) if workers else None
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "This DataLoader will create"
        )  # more workers than cores were asked for
        return DataLoader(
            reader,  # type: ignore[arg-type]  # it has __getitems__, which is what loaders call
            batch_sampler=requests,  # type: ignore[arg-type]  # an iterable of lists; not of integers
            num_workers=workers,
            collate_fn=_identity_collate,  # what __getitems__ gives is a whole batch
            pin_memory=device.type == "cuda",
            prefetch_factor=ahead,
            persistent_workers=persistent and workers > 0,
            generator=torch.Generator(),  # or every iterator would draw from the global one
        )


def _identity_collate(batch: Any) -> Any:
    return batch


def request_chunks(requests: Sequence[Request]) -> list[Sequence[Request]]:
    """What is read at a time of a batch."""
    return [requests[first : first + CHUNK] for first in range(0, len(requests), CHUNK)]


def next_batch(
    iterator: Iterator[tuple[Tensor, Failures]], images: int, device: torch.device
) -> tuple[Tensor, Failures]:
    """The next batch of a loader, of so many images, on ``device``, and what went wrong.

    Raises:
        RunError: A worker died.
    """
    try:
        read = [next(iterator) for _ in range(0, images, CHUNK)]
    except RuntimeError as error:
        reason = next((line for line in str(error).splitlines()[::-1] if line.strip()), type(error).__name__)
        hint = "out of memory or of shared memory (/dev/shm)? fewer workers=N need less"
        raise RunError(f"images could not be read: {reason.strip()} ({hint})") from error
    parts = [part.to(device, non_blocking=True) for part, _ in read]
    failures = {index: reason for _, failed in read for index, reason in failed.items()}
    return (parts[0] if len(parts) == 1 else torch.cat(parts)), failures


def available_workers(world_size: int = 1) -> int:
    """One a core that this process may use, shared by ``world_size`` such processes."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(cores // world_size, 1)


class Files(Images, Protocol):
    """Images on disk."""

    indices: Tensor

    @property
    def reader(self) -> Reader:
        """What reads them for training."""


class OnDisk(Dataset, Protocol):
    """A data set whose images stay on disk."""

    repeats: int
    workers: int | None
    world_size: int
    device: torch.device
    unreadable: dict[str, str]

    @property
    def train(self) -> Files:
        """What is trained on."""

    def record_failures(self, split: Any, failures: Failures) -> None:
        """Name and count images that could not be read."""


class StreamedLoader:
    """Shuffled and augmented training batches of images on disk, each a function of (seed, step).

    An epoch's order is drawn from (seed, epoch), and everything about the view of an image from (seed, epoch, index,
    repetition): workers only compute, so their number changes no bit, and a training that resumes inside an epoch
    starts reading there. Batches are read ahead across the ends of epochs. The last batch of an epoch is as in
    `sparsebench.data.loader.TrainLoader`.

    With ``repeats`` r (repeated augmentation) an epoch has as many images as ever, but only a share 1/r of all,
    each r times in different views, next to one another.

    Args:
        dataset: Its ``train`` split is used.
        batch_size: Images a batch, at least 1.
        seed: Seed of the run, 0 or more.
        channels_last: Whether inputs are channels_last in memory; the values are the same.

    Raises:
        SettingError: A value is out of its range, or no whole batch is left.

    References:
        Hoffer et al., "Augment your batch", CVPR 2020, arXiv 1901.09335, and Berman et al., "MultiGrain", 2019, arXiv
        1902.05509 (repeated augmentation).
    """

    def __init__(
        self,
        dataset: OnDisk,
        batch_size: int,
        seed: int,
        *,
        channels_last: bool = False,
    ) -> None:
        require_int("seed", seed, least=0)
        self.steps_per_epoch = steps_per_epoch(len(dataset.train), batch_size)
        self.dataset, self.batch_size = dataset, batch_size
        self.normalize = Normalize(dataset, channels_last)
        self.labels = dataset.train.labels.cpu()
        self._plan = _Plan(dataset.train.indices, batch_size, self.steps_per_epoch, seed, dataset.repeats)
        self._loader: DataLoader[tuple[Tensor, Failures]] | None = None
        self._iterator: Iterator[tuple[Tensor, Failures]] = iter(())
        self._next = -1

    def size(self, step: int) -> int:
        """Images in the batch of ``step``."""
        return self._plan.size(step)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """The batch of ``step``, counted from 0 over all epochs.

        Args:
            step: The step.
            rank: Whose `sparsebench.data.batching.share` of it: no other images are read.
            world_size: Among how many it is shared out.

        Returns:
            Inputs, float32 [B, C, H, W], and targets, int64 [B], on the device of the data set.

        Raises:
            RunError: Too many images cannot be read, or a worker died.
        """
        if self._loader is None or (rank, world_size) != self._plan.rank:
            self._plan.rank, self._next = (rank, world_size), -1
            workers, device = self.dataset.workers, self.dataset.device
            workers = available_workers(world_size) if workers is None else workers
            self._iterator = iter(())
            own = -(-self.batch_size // world_size)
            self._loader = make_dataloader(
                self.dataset.train.reader, self._plan, own, workers, device, persistent=True
            )
        if step != self._next:
            self._plan.start = step
            self._iterator = iter(self._loader)
        positions = self.positions(step)
        self._next = step + 1
        if not len(positions):
            empty = torch.empty(0, *self.dataset.train_shape, dtype=torch.uint8, device=self.dataset.device)
            return self.normalize(empty), self.labels[positions].to(self.dataset.device)
        images, failures = next_batch(self._iterator, len(positions), self.dataset.device)
        self.dataset.record_failures(self.dataset.train, failures)
        return self.normalize(images), self.labels[positions].to(self.dataset.device, non_blocking=True)

    def positions(self, step: int) -> Tensor:
        """Positions in the ``train`` split of the images of ``step``, or of the rank's share of them, int64 [B]."""
        return self._plan.positions(step)

    def state_dict(self) -> dict[str, Any]:
        """The unreadable images met so far."""
        return {"unreadable": dict(self.dataset.unreadable)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.dataset.unreadable.update(state.get("unreadable", {}))


class _Plan:
    """The requests of every step from ``start`` on, by parts, without an end; what the data loader iterates over.

    It does not know the loader: in a cycle of references, workers are not told to end.
    """

    def __init__(self, indices: Tensor, batch_size: int, steps: int, seed: int, repeats: int) -> None:
        self.start, self.rank = 0, (0, 1)
        self._indices, self._batch_size, self._steps = indices, batch_size, steps
        self._seed, self._repeats = seed, repeats
        self._orders: dict[int, Tensor] = {}

    def __iter__(self) -> Iterator[Sequence[Request]]:
        step = self.start
        while True:
            yield from request_chunks(self.requests(step))
            step += 1

    def size(self, step: int) -> int:
        """Images of ``step``, over all ranks."""
        return min(self._batch_size, len(self._indices) - step % self._steps * self._batch_size)

    def rows(self, step: int) -> slice:
        """The rank's part of the order of the epoch of ``step``."""
        own, start = rank_slice(self.size(step), *self.rank), step % self._steps * self._batch_size
        return slice(start + own.start, start + own.stop)

    def positions(self, step: int) -> Tensor:
        """Positions in the split of the rank's images of ``step``."""
        return self.order(step // self._steps)[self.rows(step)]

    def requests(self, step: int) -> list[Request]:
        """What the workers are asked for."""
        epoch, first = step // self._steps, self.rows(step).start
        return [
            (index, (self._seed, epoch, index, row % self._repeats))
            for row, index in enumerate(self._indices[self.positions(step)].tolist(), first)
        ]

    def order(self, epoch: int) -> Tensor:
        """Positions in the split in the order of ``epoch``; reading ahead needs two epochs at a time."""
        if epoch not in self._orders:
            random = torch.Generator().manual_seed(derive_seed(self._seed, epoch))
            order = torch.randperm(len(self._indices), generator=random)
            if self._repeats > 1:
                order = order[: -(-len(order) // self._repeats)].repeat_interleave(self._repeats)
                order = order[: len(self._indices)]
            self._orders = {e: o for e, o in self._orders.items() if abs(e - epoch) == 1} | {epoch: order}
        return self._orders[epoch]


def read_in_order(
    dataset: OnDisk, reader: Reader, batches: Sequence[Tensor], size: int
) -> Iterator[tuple[Tensor, Failures]]:
    """Raw images of a source, those at each of ``batches``, of at most ``size`` each, on the data set's device."""
    requests: list[list[Request]] = [[(index, ()) for index in batch.tolist()] for batch in batches]
    parts = [part for batch in requests for part in request_chunks(batch)]
    workers = dataset.workers if dataset.workers is not None else available_workers(dataset.world_size)
    loader = make_dataloader(reader, parts, size, min(workers, len(parts)), dataset.device, persistent=False)
    iterator = iter(loader)
    for batch in requests:
        yield next_batch(iterator, len(batch), dataset.device)
