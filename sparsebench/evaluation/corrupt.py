"""Corruptions of images as in CIFAR-10-C, as tensor operations: pixels in [0, 1], float32 [N, C, H, W]."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, grid_sample, interpolate, pad

SEVERITIES = (1, 2, 3, 4, 5)

Corruption = Callable[[Tensor, int, Generator], Tensor]


def corrupted(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """``images``, uint8 [N, C, H, W], under a corruption; the same for equal seeds, on every device.

    Args:
        images: Raw pixels.
        kind: One of :data:`CORRUPTIONS`.
        severity: One of :data:`SEVERITIES`; the constants are those of the published CIFAR-10-C.
        seed: Seed of the corruption's random numbers.
    """
    order = list(CORRUPTIONS).index(kind)
    mixed = int(np.random.SeedSequence((seed, order, severity)).generate_state(1)[0])
    generator = torch.Generator().manual_seed(mixed)
    pixels = CORRUPTIONS[kind](images.cpu().float() / 255, severity - 1, generator)
    return pixels.clamp(0, 1).mul(255).to(torch.uint8).to(images.device)  # rounded down, as published


def gaussian_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Sensor noise."""
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[level] * torch.randn(x.shape, generator=generator)


def shot_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Photon-counting noise."""
    photons = (500, 250, 100, 75, 50)[level]
    return torch.poisson(x * photons, generator=generator) / photons


def impulse_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Random black and white values (salt and pepper)."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[level]
    hit, salt = (torch.rand(x.shape, generator=generator) for _ in range(2))
    return torch.where(hit < amount, (salt < 0.5).to(x), x)


def speckle_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Noise that grows with the value."""
    return x + x * (0.06, 0.1, 0.12, 0.16, 0.2)[level] * torch.randn(x.shape, generator=generator)


def gaussian_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Gaussian blur, truncated at four standard deviations."""
    return _blur(x, (0.4, 0.6, 0.7, 0.8, 1.0)[level], 4.0, "replicate")


def defocus_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Blur by a disk whose edge is smoothed over 3x3 pixels."""
    radius, sigma = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[level]
    offsets = torch.arange(-3.0, 4.0)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).float()
    smooth = _gaussian(sigma, 1)
    kernel = conv2d((disk / disk.sum())[None, None], torch.outer(smooth, smooth)[None, None], padding=1)
    return _filter(x, kernel[0, 0], "reflect")


def motion_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """A half-Gaussian trail in a random direction per image, within 45° of the horizontal."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[level]
    angle = (torch.rand(len(x), generator=generator) - 0.5) * (math.pi / 2)
    weights = torch.exp(-(torch.arange(2 * radius + 1.0) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    n, _, height, width = x.shape
    image = torch.arange(n)[:, None, None]
    out = torch.zeros_like(x)
    for i, weight in enumerate(weights):
        rows = (torch.arange(height) + (i * angle.sin()).round().long()[:, None]).clamp(0, height - 1)
        columns = (torch.arange(width) + (i * angle.cos()).round().long()[:, None]).clamp(0, width - 1)
        out += weight * x[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return out


def zoom_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """The mean over several zoom factors."""
    steps = (6, 11, 16, 21, 26)[level]
    size = x.shape[-1]
    total = x.clone()
    for step in range(steps):
        factor = 1 + step / 100
        crop = math.ceil(size / factor)
        top, larger = (size - crop) // 2, round(crop * factor)
        part = x[..., top : top + crop, top : top + crop]
        part = interpolate(part, (larger, larger), mode="bilinear", align_corners=True)
        trim = (larger - size) // 2
        total += part[..., trim : trim + size, trim : trim + size]
    return total / (steps + 1)


def fog(x: Tensor, level: int, generator: Generator) -> Tensor:
    """A random plasma fractal per image."""
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[level]
    brightest = x.amax((1, 2, 3), keepdim=True)
    size = 2 ** math.ceil(math.log2(max(x.shape[-2:])))
    clouds = _plasma(len(x), size, decay, generator)[:, None, : x.shape[-2], : x.shape[-1]]
    return (x + amount * clouds) * brightest / (brightest + amount)


def brightness(x: Tensor, level: int, generator: Generator) -> Tensor:
    """A higher value at the same hue and saturation (HSV)."""
    value = x.amax(1, keepdim=True)
    raised = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[level]).clamp(max=1)
    return torch.where(value > 0, x * raised / value.clamp(min=1e-9), raised)


def contrast(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Reduce the contrast: move values towards each channel's mean."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[level] + mean


def saturate(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Another saturation at the same hue and value (HSV); grey has the hue of red."""
    factor, shift = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[level]
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    before = (value - low) / value.clamp(min=1e-9)
    after = (before * factor + shift).clamp(0, 1)
    grey = torch.cat([value, value * (1 - after), value * (1 - after)], 1)
    return torch.where(before > 0, value - (value - x) * after / before.clamp(min=1e-9), grey)


def pixelate(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Downsample with a box filter, and upsample again."""
    factor = (0.95, 0.9, 0.85, 0.75, 0.65)[level]
    height, width = x.shape[-2:]
    down = _box(height, int(height * factor)), _box(width, int(width * factor))
    up = _box(int(height * factor), height), _box(int(width * factor), width)
    small = (down[0] @ x @ down[1].T).mul(255).round().div(255)  # an image, quantised to 8 bits
    return (up[0] @ small @ up[1].T).mul(255).round().div(255)


def jpeg_compression(x: Tensor, level: int, generator: Generator) -> Tensor:
    """JPEG compression at a low quality."""
    from PIL import Image

    quality = (80, 65, 58, 50, 40)[level]
    images = []
    for image in x.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1):
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1).numpy()).save(file, "JPEG", quality=quality)
        images.append(torch.from_numpy(np.array(Image.open(file))).reshape(image.shape))
    return torch.stack(images).permute(0, 3, 1, 2).float() / 255


def elastic_transform(x: Tensor, level: int, generator: Generator) -> Tensor:
    """A small affine map, then smooth displacements, random per image."""
    n, _, height, width = x.shape
    size = min(height, width)
    amount, sigma, shift = (
        part * size for part in
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[level]
    )  # fmt: skip
    third, centre = size // 3, torch.tensor([width // 2, height // 2])
    corners = centre + third * torch.tensor([[1, 1], [1, -1], [-1, -1]])
    moved = corners + shift * (2 * torch.rand((n, 3, 2), generator=generator) - 1)
    grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1).float()
    ones = torch.ones(n, 3, 1)
    back = torch.linalg.solve(torch.cat([moved, ones], 2), corners.float().expand(n, 3, 2))  # [n, 3, 2]
    places = torch.cat([grid, torch.ones(height, width, 1)], -1).view(1, -1, 3) @ back
    x = _sample(x, places.view(n, height, width, 2))
    if amount == 0:
        return x
    noise = 2 * torch.rand((n, 2, height, width), generator=generator) - 1
    return _sample(x, grid + amount * _blur(noise, sigma, 3.0, "reflect").permute(0, 2, 3, 1))


CORRUPTIONS: dict[str, Corruption] = {
    function.__name__: function
    for function in (
        gaussian_noise, shot_noise, impulse_noise, speckle_noise, gaussian_blur, defocus_blur, motion_blur, zoom_blur,
        fog, brightness, contrast, saturate, pixelate, jpeg_compression, elastic_transform,
    )
}  # fmt: skip
"""Kinds by name; their order seeds the random numbers, so append new ones at the end."""


def _gaussian(sigma: float, radius: int) -> Tensor:
    weights = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def _blur(x: Tensor, sigma: float, truncate: float, border: str) -> Tensor:
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    kernel = _gaussian(sigma, radius)
    radius = min(radius, min(x.shape[-2:]) - 1) if border == "reflect" else radius
    kernel = kernel[len(kernel) // 2 - radius : len(kernel) // 2 + radius + 1]
    return _filter(x, torch.outer(kernel, kernel) / kernel.sum() ** 2, border)


def _filter(x: Tensor, kernel: Tensor, border: str) -> Tensor:
    """Correlate each channel with ``kernel``, whose sides are odd."""
    radius = kernel.shape[0] // 2
    n, channels, height, width = x.shape
    padded = pad(x, (radius,) * 4, mode=border)
    return conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).view(n, channels, height, width)


def _sample(x: Tensor, places: Tensor) -> Tensor:
    """Bilinear values of ``x`` at pixel coordinates (column, row), [N, H, W, 2], mirrored at the border."""
    height, width = x.shape[-2:]
    scaled = 2 * places / torch.tensor([width - 1, height - 1]) - 1
    return grid_sample(x, scaled, mode="bilinear", padding_mode="reflection", align_corners=True)


def _box(size: int, new: int) -> Tensor:
    """Matrix that averages ``size`` pixels into ``new`` ones, weighted by overlap, [new, size]."""
    edges = torch.arange(new + 1, dtype=torch.float64) * size / new
    low, high = edges[:-1, None], edges[1:, None]
    pixel = torch.arange(size, dtype=torch.float64)
    if new >= size:  # nearest neighbour when enlarging
        return ((low + high) / 2 >= pixel).logical_and((low + high) / 2 < pixel + 1).float()
    centres = pixel + 0.5  # the box filter uses pixels whose centre is inside, with equal weight
    inside = ((centres >= low) & (centres < high)).float()
    return inside / inside.sum(1, keepdim=True)


def _plasma(n: int, size: int, decay: float, generator: Generator) -> Tensor:
    """``n`` height maps in [0, 1] by the periodic diamond-square algorithm, [n, size, size]; ``size`` a power of 2."""
    heights = torch.zeros(n, size, size)
    step, wobble = size, 100.0

    def mean(total: Tensor) -> Tensor:
        return total / 4 + wobble * wobble * (2 * torch.rand(total.shape, generator=generator) - 1)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        heights[:, half::step, half::step] = middles = mean(pairs + pairs.roll(-1, 2))
        across = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        down = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        heights[:, ::step, half::step] = mean(across)
        heights[:, half::step, ::step] = mean(down)
        step, wobble = half, wobble / decay
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)
