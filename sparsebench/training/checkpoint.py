"""Checkpoints: written atomically, verified when read, with the previous one kept."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sparsebench.files import atomic

MAGIC = b"sparsebench checkpoint 1\n"


class Checkpoint:
    """The newest two states of a run in ``folder``.

    A file is a magic line, the SHA-256 of the rest, and the rest as ``torch.save`` writes it.

    Args:
        folder: The run's folder.
        warn: Called with a one-line message about a file that cannot be used.
        name: File name without suffix.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None], name: str = "checkpoint") -> None:
        self.newest = folder / f"{name}.pt"
        self.previous = folder / f"{name}.previous.pt"
        self.warn = warn

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state`` and keep the previous one."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        body = buffer.getbuffer()
        with atomic(self.newest) as file:
            file.write(MAGIC + hashlib.sha256(body).digest())
            file.write(body)
            file.flush()
            if self.newest.exists():  # after the new one is written, before it is renamed
                self.newest.replace(self.previous)

    def load(self) -> dict[str, Any] | None:
        """The newest valid state, or ``None``; a corrupt file is renamed and reported."""
        for path in (self.newest, self.previous):
            if not path.exists():
                continue
            content = path.read_bytes()
            digest, body = content[len(MAGIC) : len(MAGIC) + 32], content[len(MAGIC) + 32 :]
            if content.startswith(MAGIC) and hashlib.sha256(body).digest() == digest:
                return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
            aside = path.with_name(f"{path.stem}.corrupt{path.suffix}")
            path.replace(aside)
            self.warn(f"{path}: corrupt checkpoint; renamed to {aside.name}, resuming from the previous one")
        return None

    def remove(self) -> None:
        """Delete both files."""
        self.newest.unlink(missing_ok=True)
        self.previous.unlink(missing_ok=True)
