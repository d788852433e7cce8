"""Common parts of the in-memory and the streaming loaders: normalisation, epoch length, rank slices, seeds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparsebench.data.dataset import Dataset
from sparsebench.errors import SettingError, require_int
from sparsebench.transfer import send


class Normalize:
    """Normalises raw pixels to (x / 255 - mean) / std, in float32 and a memory format.

    Args:
        dataset: Provides mean and standard deviation.
        channels_last: Whether results are channels_last in memory.
    """

    def __init__(self, dataset: Dataset, channels_last: bool) -> None:
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.mean, self.std = dataset.mean, dataset.std
        self._spread: dict[tuple[torch.Size, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise ``images``, uint8 [N, C, H, W]."""
        kind = (images.shape[1:], images.device)
        if kind not in self._spread:
            self._spread[kind] = self._over(self.mean, *kind), self._over(self.std, *kind)
        mean, std = self._spread[kind]  # [1, C, H, W] float32, cached per image size
        inputs = images.to(torch.float32, memory_format=self.memory_format)  # [N, C, H, W], the only copy
        return inputs.sub_(mean).div_(std)  # in place: memory bandwidth is the limit

    def _over(self, values: tuple[float, ...], shape: torch.Size, device: torch.device) -> Tensor:
        """Expand per-channel ``values`` to a full image in raw-pixel units; broadcasting channels is slow."""
        numbers = torch.tensor(values, dtype=torch.float64).mul(255).to(torch.float32)
        image = numbers.view(1, -1, 1, 1).expand(1, *shape).contiguous(memory_format=self.memory_format)
        return send(image, device)


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """The slice of ``count`` samples for this rank; slices are as equal as possible.

    Each slice has at least two samples, because batch normalisation cannot train on one; if there are too few, the last
    ranks get none.

    Example:
        >>> [rank_slice(7, rank, 2) for rank in range(2)], [rank_slice(5, rank, 4) for rank in range(4)]
        ([slice(0, 3, None), slice(3, 7, None)],
         [slice(0, 2, None), slice(2, 5, None), slice(5, 5, None), slice(5, 5, None)])
    """
    working = min(world_size, max(count // 2, 1))  # ranks that get at least two samples
    return slice(count * min(rank, working) // working, count * min(rank + 1, working) // working)


def steps_per_epoch(images: int, batch_size: int, drop_last: bool = False) -> int:
    """Number of batches of an epoch, including an incomplete last one unless it is dropped or holds a single image.

    Raises:
        SettingError: The batch size is invalid, or no batch is left.
    """
    require_int("batch_size", batch_size, least=1)
    full, rest = divmod(images, batch_size)
    steps = full + (rest > 1 and not drop_last)
    if steps == 0:
        raise SettingError("batch_size", batch_size, f"at most the {images} training images")
    return steps


def derive_seed(*numbers: int) -> int:
    """Derive a 32-bit seed from ``numbers``; torch's CPU generator ignores higher bits of its seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
