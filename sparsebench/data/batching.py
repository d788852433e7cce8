"""What batches in memory and batches read from disk share: pixels, lengths, shares of ranks, and drawn numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparsebench.data.dataset import Dataset
from sparsebench.errors import SettingError, require_int


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


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """The part of ``count`` samples that is this rank's; parts are as equal as can be.

    Each has two samples or more, for batch normalisation cannot train on one; where they are too few for that, the last
    ranks have none.

    Example:
        >>> [share(7, rank, 2) for rank in range(2)], [share(5, rank, 4) for rank in range(4)]
        ([slice(0, 3, None), slice(3, 7, None)],
         [slice(0, 2, None), slice(2, 5, None), slice(5, 5, None), slice(5, 5, None)])
    """
    working = min(world_size, max(count // 2, 1))
    return slice(count * min(rank, working) // working, count * min(rank + 1, working) // working)


def steps_per_epoch(images: int, batch_size: int, drop_last: bool = False) -> int:
    """Batches of an epoch: an incomplete last one counts, unless it is dropped or holds a single image.

    Raises:
        SettingError: The batch size is none, or no batch is left.
    """
    require_int("batch_size", batch_size, least=1)
    full, rest = divmod(images, batch_size)
    steps = full + (rest > 1 and not drop_last)
    if steps == 0:
        raise SettingError("batch_size", batch_size, f"at most the {images} training images")
    return steps


def derive_seed(*numbers: int) -> int:
    """32 bits that depend on all ``numbers``: torch's CPU generator ignores all higher bits of its seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
