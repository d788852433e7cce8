"""The handwritten digits bundled with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparsebench.data.arrays import ImageDataset, Split, stratified
from sparsebench.errors import require_int

TEST_FRACTION = 0.2
TEST_SEED = 0  # not an argument: the test split is part of the data set's definition


class Digits(ImageDataset):
    """1,797 grey 8x8 images of handwritten digits in 10 classes, bundled with scikit-learn.

    There is no official test split of these images: a stratified fifth (359 images), drawn with a fixed seed, is
    ``test``. Pixels 0..16 are stored as round(255 x / 16), so that their scale is [0, 1] as for other images. The
    mean and standard deviation in conf/dataset/digits.yaml are those of the 1,438 images outside ``test``.

    Args:
        val_fraction: See `ImageDataset`, also for the following arguments.
        split_seed: Seed of the split of the training images into ``train`` and ``val``.
        train_samples: Number of training images to keep.
        mean: Mean of the one channel.
        std: Standard deviation of the one channel.
        pad: Padding of the random crop.
        flip: Whether to flip horizontally, which changes the digits.
        channels: Number of copies of the grey channel: 3 for networks for colour images.
        device: Device of the images.

    References:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998, doi 10.24432/C50P49.
    """

    note = "digits is a small data set for trying things out: its accuracies are not comparable with published ones"

    def __init__(
        self,
        *,
        val_fraction: float,
        split_seed: int,
        train_samples: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        pad: int,
        flip: bool,
        channels: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        from sklearn.datasets import (
            load_digits,
        )  # imported here: it takes a second, and only this data set needs it

        require_int("channels", channels, least=1)
        digits = load_digits()
        pixels = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)
        everything = Split(
            pixels.unsqueeze(1).repeat(1, channels, 1, 1), torch.from_numpy(digits.target).long()
        )
        size = round(TEST_FRACTION * len(everything))
        in_test = torch.zeros(len(everything), dtype=torch.bool)
        in_test[stratified(everything.labels, size, TEST_SEED)] = True
        super().__init__(
            "digits",
            10,
            everything.take((~in_test).nonzero().squeeze(1)),
            everything.take(in_test.nonzero().squeeze(1)),
            val_fraction=val_fraction,
            split_seed=split_seed,
            train_samples=train_samples,
            mean=[*mean] * channels,
            std=[*std] * channels,
            pad=pad,
            flip=flip,
            device=device,
        )
