"""The form of all hashes: 16 hexadecimal digits of a SHA-256 over named parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

DIGITS = 16


def digest(parts: Iterable[tuple[str, bytes]]) -> str:
    """The hash of the parts in their order; each is hashed as its name, the number of its bytes, and its bytes."""
    found = hashlib.sha256()
    for name, content in parts:
        found.update(f"{name}\n{len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()[:DIGITS]


def part(name: str, tensor: Tensor) -> tuple[str, bytes]:
    """A tensor as a part: its name, dtype and shape, and its values in row-major order, little-endian."""
    plain = tensor.detach().cpu().contiguous()
    content = plain.view(-1).view(torch.uint8).numpy().tobytes()  # as bytes: numpy has no bfloat16
    shape = "x".join(map(str, plain.shape))
    return f"{name} {str(plain.dtype).removeprefix('torch.')} {shape}", content
