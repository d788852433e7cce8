"""Batches read from disk by worker processes; identical for any number of workers, from any step."""

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
from sparsebench.transfer import send, send_aside

CHUNK = 64
"""Images that a worker reads at a time, so that several work on one batch and about two batches are in flight."""

Request = tuple[int, tuple[int, ...]]
"""Index of an image in its source, and the numbers that seed its transform; empty for a deterministic one."""

Failures = dict[int, str]
"""Index of an unreadable image -> reason."""


@dataclass(frozen=True)
class Reader:
    """Map-style dataset of the workers: reads, decodes and transforms images, a part of a batch at a time.

    An unreadable image is replaced by a single-coloured one, and reported along with the images.

    Args:
        source: Source of the image files.
        view: Transform of decoded images.
        fill: Raw pixel [R, G, B] of an unreadable image.
    """

    source: ImageSource
    view: TrainTransform | EvalTransform
    fill: tuple[int, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.source)

    def __getitems__(self, requests: Sequence[Request]) -> tuple[Tensor, Failures]:
        """Images, uint8 [N, 3, size, size], and failures."""
        failures: Failures = {}
        images = [self._image(index, drawn, failures) for index, drawn in requests]  # each [3, size, size]
        return default_collate(images), failures  # in a worker directly into shared memory

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
    """A DataLoader of parts of batches, which can be iterated more than once.

    Args:
        reader: The workers' dataset.
        requests: Requests of every part of every batch.
        batch_size: Images per batch; two batches are prefetched.
        workers: Number of processes; 0 reads in this one.
        device: Device of the batches; memory is pinned for a GPU.
        persistent: Whether workers outlive an iterator.
    """
    ahead = max(-(-2 * batch_size // (CHUNK * workers)), 2) if workers else None  # two batches in all
    with warnings.catch_warnings():
        # More workers than cores are allowed.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        return DataLoader(
            reader,  # type: ignore[arg-type]  # DataLoader calls its __getitems__
            batch_sampler=requests,  # type: ignore[arg-type]  # an iterable of lists of requests, not of integers
            num_workers=workers,
            collate_fn=_identity_collate,  # __getitems__ returns a collated batch
            pin_memory=device.type == "cuda",
            prefetch_factor=ahead,
            persistent_workers=persistent and workers > 0,
            generator=torch.Generator(),  # otherwise every iterator would advance the global generator
        )


def _identity_collate(batch: Any) -> Any:
    return batch


def request_chunks(requests: Sequence[Request]) -> list[Sequence[Request]]:
    """Split the requests of a batch into parts of :data:`CHUNK` images."""
    return [requests[first : first + CHUNK] for first in range(0, len(requests), CHUNK)]  # 64 each


def next_batch(
    iterator: Iterator[tuple[Tensor, Failures]], images: int, device: torch.device
) -> tuple[Tensor, Failures]:
    """The next batch of ``images`` images on ``device``, and its failures.

    Raises:
        RunError: A worker died.
    """
    try:
        read = [next(iterator) for _ in range(0, images, CHUNK)]  # in order; waits for the workers
    except RuntimeError as error:
        reason = next((line for line in str(error).splitlines()[::-1] if line.strip()), type(error).__name__)
        hint = "out of memory or of shared memory (/dev/shm)? try a smaller workers=N"
        raise RunError(f"images could not be read: {reason.strip()} ({hint})") from error
    parts = send_aside([part for part, _ in read], device)  # uint8: a quarter of float32
    failures = {index: reason for _, failed in read for index, reason in failed.items()}
    return (parts[0] if len(parts) == 1 else torch.cat(parts)), failures


def available_workers(world_size: int = 1) -> int:
    """Default number of workers: the cores available to this process, divided among ``world_size`` processes."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(cores // world_size, 1)


class Files(Images, Protocol):
    """Images on disk."""

    indices: Tensor

    @property
    def reader(self) -> Reader:
        """Reader for training images."""


class OnDisk(Dataset, Protocol):
    """A data set on disk."""

    repeats: int
    workers: int | None
    world_size: int
    device: torch.device
    unreadable: dict[str, str]

    @property
    def train(self) -> Files:
        """The training split."""

    def record_failures(self, split: Any, failures: Failures) -> None:
        """Report and count unreadable images."""


class StreamedLoader:
    """Shuffled and augmented training batches of images on disk, each a function of (seed, step).

    An epoch's order is drawn from (seed, epoch), and everything about the view of an image from (seed, epoch, index,
    repetition): workers only compute, so their number changes no bit, and a training that resumes inside an epoch
    starts reading there. Batches are read ahead across the ends of epochs. The last batch of an epoch is as in
    `sparsebench.data.loader.TrainLoader`.

    With ``repeats`` r (repeated augmentation) an epoch has as many images as otherwise, but only a fraction 1/r of all,
    each r times in different views, next to one another.

    Args:
        dataset: Its ``train`` split is used.
        batch_size: Images per batch, at least 1.
        seed: Seed of the run, 0 or more.
        channels_last: Whether inputs are channels_last in memory; the values are the same.

    Raises:
        SettingError: A value is out of range, or no complete batch is left.

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
            rank: Rank whose `sparsebench.data.batching.rank_slice` is returned; other images are not read.
            world_size: Number of ranks.

        Returns:
            Inputs, float32 [B, C, H, W], and targets, int64 [B], on the device of the data set.

        Raises:
            RunError: Too many images are unreadable, or a worker died.
        """
        if self._loader is None or (rank, world_size) != self._plan.rank:
            self._plan.rank, self._next = (rank, world_size), -1
            workers, device = self.dataset.workers, self.dataset.device
            workers = available_workers(world_size) if workers is None else workers
            self._iterator = iter(())  # drops prefetched batches
            own = -(-self.batch_size // world_size)  # largest slice of a rank
            self._loader = make_dataloader(
                self.dataset.train.reader, self._plan, own, workers, device, persistent=True
            )
        if step != self._next:
            self._plan.start = step  # read by the sampler's next iterator
            self._iterator = iter(self._loader)  # restarts prefetching at this step
        positions = self.positions(step)  # [b] int64, on the CPU
        self._next = step + 1  # sequential steps continue the iterator
        if not len(positions):
            empty = torch.empty(0, *self.dataset.train_shape, dtype=torch.uint8, device=self.dataset.device)
            return self.normalize(empty), self.labels[positions].to(self.dataset.device)
        images, failures = next_batch(self._iterator, len(positions), self.dataset.device)  # uint8
        self.dataset.record_failures(self.dataset.train, failures)
        return self.normalize(images), send(self.labels[positions], self.dataset.device)

    def positions(self, step: int) -> Tensor:
        """Positions in the ``train`` split of the rank's slice of ``step``, int64 [B]."""
        return self._plan.positions(step)

    def plan(self, epoch: int) -> Tensor:
        """The order of an epoch: positions in the ``train`` split, int64 [N]; views are drawn from it and the seed."""
        return self._plan.order(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The unreadable images found so far."""
        return {"unreadable": dict(self.dataset.unreadable)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        self.dataset.unreadable.update(state.get("unreadable", {}))


class _Plan:
    """Endless iterable of the requests of every step from ``start`` on, in parts; the DataLoader's batch sampler.

    It holds no reference to the loader, because a reference cycle would keep workers from shutting down.
    """

    def __init__(self, indices: Tensor, batch_size: int, steps: int, seed: int, repeats: int) -> None:
        self.start, self.rank = 0, (0, 1)
        self._indices, self._batch_size, self._steps = indices, batch_size, steps
        self._seed, self._repeats = seed, repeats
        self._orders: dict[int, Tensor] = {}

    def __iter__(self) -> Iterator[Sequence[Request]]:
        step = self.start
        while True:
            yield from request_chunks(self.requests(step))  # several workers share one batch
            step += 1  # never ends: prefetching crosses epochs

    def size(self, step: int) -> int:
        """Global batch size of ``step``."""
        return min(self._batch_size, len(self._indices) - step % self._steps * self._batch_size)

    def rows(self, step: int) -> slice:
        """The rank's slice of the epoch's order at ``step``."""
        own = rank_slice(self.size(step), *self.rank)  # within the batch
        start = step % self._steps * self._batch_size  # of the batch within the epoch's order
        return slice(start + own.start, start + own.stop)

    def positions(self, step: int) -> Tensor:
        """Positions in the split of the rank's images of ``step``."""
        return self.order(step // self._steps)[self.rows(step)]

    def requests(self, step: int) -> list[Request]:
        """The requests to the workers for ``step``."""
        epoch, first = step // self._steps, self.rows(step).start
        return [
            (index, (self._seed, epoch, index, row % self._repeats))  # seeds the view, in any worker
            for row, index in enumerate(self._indices[self.positions(step)].tolist(), first)
        ]

    def order(self, epoch: int) -> Tensor:
        """Shuffled positions in the split for ``epoch``; two epochs are cached for prefetching."""
        if epoch not in self._orders:
            random = torch.Generator().manual_seed(derive_seed(self._seed, epoch))  # not the global generator
            order = torch.randperm(len(self._indices), generator=random)  # [N] int64
            if self._repeats > 1:
                order = order[: -(-len(order) // self._repeats)].repeat_interleave(self._repeats)
                order = order[: len(self._indices)]  # N samples per epoch, as without repeats
            self._orders = {e: o for e, o in self._orders.items() if abs(e - epoch) == 1} | {epoch: order}
        return self._orders[epoch]


def read_in_order(
    dataset: OnDisk, reader: Reader, batches: Sequence[Tensor], size: int
) -> Iterator[tuple[Tensor, Failures]]:
    """Raw images of each of ``batches`` (indices into a source, at most ``size`` each), on the data set's device."""
    requests: list[list[Request]] = [[(index, ()) for index in batch.tolist()] for batch in batches]
    parts = [part for batch in requests for part in request_chunks(batch)]
    workers = dataset.workers if dataset.workers is not None else available_workers(dataset.world_size)
    loader = make_dataloader(reader, parts, size, min(workers, len(parts)), dataset.device, persistent=False)
    iterator = iter(loader)
    for batch in requests:
        yield next_batch(iterator, len(batch), dataset.device)
