"""The handwritten digits bundled with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sparsebench.data.arrays import Content, ImageDataset, Split, stratified
from sparsebench.errors import require_int
from sparsebench.paths import find_source

TEST_FRACTION = 0.2
TEST_SEED = 0  # not an argument: the test split is part of the data set's definition


@dataclass(kw_only=True, eq=False, repr=False)
class Digits(ImageDataset):
    """1,797 grey 8x8 images of handwritten digits in 10 classes, bundled with scikit-learn.

    There is no official test split of these images: a stratified fifth (359 images), drawn with a fixed seed, is
    ``test``. Pixels 0..16 are stored as round(255 x / 16), so that their scale is [0, 1] as for other images. The
    mean and standard deviation in conf/dataset/digits.yaml are those of the 1,438 images outside ``test``.

    Args:
        channels: The grey image so many times: 3 for networks for colour images. The other arguments are those of
            `ImageDataset`; a mirrored digit is no longer itself.

    References:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998, doi 10.24432/C50P49.
    """

    note = "digits is a small data set for trying things out: its accuracies are not comparable with published ones"

    channels: int = 1

    def read(self) -> Content:
        """The images, split into those of training and the test images."""
        require_int("channels", self.channels, least=1)
        images, labels = bundled_digits()
        pixels = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8)  # [N, 8, 8]
        everything = Split(pixels.unsqueeze(1).repeat(1, self.channels, 1, 1), torch.from_numpy(labels))
        size = round(TEST_FRACTION * len(everything))
        in_test = torch.zeros(len(everything), dtype=torch.bool)
        in_test[stratified(everything.labels, size, TEST_SEED)] = True
        self.mean, self.std = self.mean * self.channels, self.std * self.channels
        return Content(
            "digits",
            10,
            everything.take((~in_test).nonzero().squeeze(1)),
            everything.take(in_test.nonzero().squeeze(1)),
        )


def bundled_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images, float64 [1797, 8, 8] with pixels 0 to 16, and labels, int64 [1797], as in scikit-learn's load_digits.

    Read from scikit-learn's file, because importing scikit-learn takes two seconds.
    """
    package = find_source("sklearn")
    path = package / "datasets" / "data" / "digits.csv.gz" if package else None
    if path is None or not path.is_file():  # another layout, or no files: scikit-learn knows where they are
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images, digits.target.astype(np.int64)
    table = np.loadtxt(path, delimiter=",", dtype=np.int64)  # 64 pixels and the label per row
    return table[:, :-1].reshape(-1, 8, 8).astype(np.float64), table[:, -1].copy()
