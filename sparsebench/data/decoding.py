"""Decode, crop, resize and augment image files with torchvision's uint8 kernels.

One of the modules of ``sparsebench.data`` that import torchvision.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from sparsebench.errors import SettingError, one_of, require_int

try:  # torchvision plans to drop its decoders; until then they are faster than Pillow's, with equal pixels
    from torchvision.io import ImageReadMode, decode_image
except ImportError:
    decode_image = None

AUGMENTS: dict[str, Callable[[int], v2.Transform]] = {
    "rand": lambda magnitude: v2.RandAugment(2, magnitude),
    "trivial": lambda magnitude: v2.TrivialAugmentWide(),
    "auto": lambda magnitude: v2.AutoAugment(),
}
JPEG = [0xFF, 0xD8, 0xFF]
RATIO = (math.log(3 / 4), math.log(4 / 3))
TRIES = 10


def decode(content: Tensor) -> Tensor:
    """Decode an image file, uint8 [bytes], to RGB, uint8 [3, H, W]; grey and CMYK images are converted.

    JPEG is decoded by torchvision if possible; everything else by Pillow, which also explains errors.

    Raises:
        ValueError: The bytes are not a valid image.
    """
    if decode_image is not None and content[:3].tolist() == JPEG:
        try:
            return decode_image(content, mode=ImageReadMode.RGB)
        except RuntimeError:
            pass
    return decode_with_pillow(content)


def decode_with_pillow(content: Tensor) -> Tensor:
    """Like :func:`decode`, without torchvision."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's metadata
            with Image.open(io.BytesIO(content.numpy().tobytes())) as opened:
                pixels = np.array(opened.convert("RGB"))
                # Pixel-interleaved in memory, like torchvision's.
                return torch.from_numpy(pixels).permute(2, 0, 1)
    except Exception as error:  # a corrupt file can raise anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side, then crop the centre.

    Args:
        resize: Length of the shorter side, in pixels.
        size: Side of the square crop.
    """

    resize: int
    size: int

    def __call__(self, image: Tensor) -> Tensor:
        """Transform ``image``, uint8 [3, H, W], to uint8 [3, size, size]; deterministic."""
        short = min(image.shape[1:])
        if short != self.resize:
            image = functional.resize(image, [self.resize], antialias=True)
        return functional.center_crop(image, [self.size, self.size])


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop, then optionally horizontal flip, augmentation and random erasing.

    The crop covers at least ``scale`` of the image's area with an aspect ratio in [3/4, 4/3]; after ten draws that do
    not fit, it is the largest centred one. It is drawn and resized like torchvision's ``RandomResizedCrop``.

    Args:
        size: Side of the square.
        scale: Smallest fraction of the image's area.
        flip: Whether images are flipped horizontally with probability 1/2.
        augment: ``rand`` (RandAugment, two operations), ``trivial`` (TrivialAugmentWide), ``auto`` (AutoAugment's
            ImageNet policy) or None.
        magnitude: Magnitude of RandAugment, 0 to 30.
        erase: Probability of erasing a random rectangle (RandomErasing).
        fill: Colour of erased pixels, in [0, 1]: the data set's mean, so zero after normalisation, to the nearest
            raw pixel.

    Raises:
        SettingError: A value is out of range.

    References:
        Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, arXiv 1409.4842, section 6 (the crop). Cubuk, Zoph,
        Shlens and Le, "RandAugment", NeurIPS 2020, arXiv 1909.13719. Müller and Hutter, "TrivialAugment", ICCV 2021,
        arXiv 2103.10158. Cubuk et al., "AutoAugment", CVPR 2019, arXiv 1805.09501. Zhong et al., "Random Erasing Data
        Augmentation", AAAI 2020, arXiv 1708.04896.
    """

    size: int
    scale: float
    flip: bool
    augment: str | None
    magnitude: int
    erase: float
    fill: tuple[float, ...]

    def __post_init__(self) -> None:
        if isinstance(self.scale, bool) or not 0 < self.scale <= 1:
            raise SettingError("scale", self.scale, "a fraction of the area in (0, 1], for example 0.08")
        if self.augment is not None and self.augment not in AUGMENTS:
            raise SettingError("augment", self.augment, f"null, or {one_of(AUGMENTS, self.augment)}")
        require_int("magnitude", self.magnitude, least=0, most=30)
        if isinstance(self.erase, bool) or not 0 <= self.erase <= 1:
            raise SettingError("erase", self.erase, "a probability in [0, 1]")

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Transform ``image``, uint8 [3, H, W], to uint8 [3, size, size]; a pure function of image and seed."""
        # Seed only the CPU's default generator, which torchvision uses; torch.manual_seed would also seed the GPUs.
        before = torch.random.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            return self._draw(image)
        finally:
            torch.random.set_rng_state(before)

    def _draw(self, image: Tensor) -> Tensor:
        top, left, height, width = self._rectangle(*image.shape[1:])
        part = image[:, top : top + height, left : left + width]
        view = functional.resize(part, [self.size, self.size], antialias=True)
        if self.flip and torch.rand(()) < 0.5:
            view = functional.horizontal_flip(view)
        if self.augment is not None:
            view = AUGMENTS[self.augment](self.magnitude)(view)
        if self.erase:
            view = v2.RandomErasing(self.erase, value=[round(255 * x) for x in self.fill])(view)
        return view

    def _rectangle(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of the crop."""
        areas = (height * width * torch.empty(TRIES).uniform_(self.scale, 1)).tolist()
        ratios = torch.empty(TRIES).uniform_(*RATIO).exp().tolist()
        for area, ratio in zip(areas, ratios, strict=True):
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ()))
                return top, left, h, w
        w = min(width, max(round(height * 4 / 3), 1))
        h = min(height, max(round(width * 4 / 3), 1))
        return (height - h) // 2, (width - w) // 2, h, w
