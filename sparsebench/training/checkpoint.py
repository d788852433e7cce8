"""Checkpoints: written atomically, verified when read, with the previous one kept."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sparsebench.files import atomic

MAGIC = b"sparsebench checkpoint 1\n"


OWNER = "owner"
"""Key of a state under which it says whose it is."""


class Checkpoint:
    """The newest two states of a run in ``folder``.

    A file is a magic line, the SHA-256 of the rest, and the rest as ``torch.save`` writes it.

    Args:
        folder: The run's folder.
        warn: Called with a one-line message about a file that cannot be used.
        name: File name without suffix.
        owner: Whose states are saved: the ``run_id``, which differs between trainings too, and a hash of the ``code``.
            States of another run are not loaded. Those of earlier versions do not say whose they are.
    """

    def __init__(
        self,
        folder: Path,
        warn: Callable[[str], None],
        name: str = "checkpoint",
        owner: Mapping[str, str] | None = None,
    ) -> None:
        self.newest = folder / f"{name}.pt"
        self.previous = folder / f"{name}.previous.pt"
        self.warn, self.owner = warn, dict(owner or {})

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state`` and keep the previous one."""
        buffer = io.BytesIO()
        torch.save({**state, OWNER: self.owner} if self.owner else state, buffer)
        body = buffer.getbuffer()
        with atomic(self.newest) as file:
            file.write(MAGIC + hashlib.sha256(body).digest())
            file.write(body)
            file.flush()
            if self.newest.exists():  # after the new one is written, before it is renamed
                self.newest.replace(self.previous)

    def load(self, misfit: Callable[[dict[str, Any]], str] = lambda state: "") -> dict[str, Any] | None:
        """The newest state that can be used, or ``None``; a file with another one is renamed and reported.

        Args:
            misfit: Says why a state cannot be one of this run; an empty text if it can.
        """
        for path in (self.newest, self.previous):
            if not path.exists():
                continue
            state = _read(path)
            if isinstance(state, dict):
                why = self._not_owned(state) or misfit(state)
                if not why:
                    return {name: value for name, value in state.items() if name != OWNER}
            else:
                why = state
            self.set_aside(path, why)
        return None

    def refuse(self, why: str) -> None:
        """Set aside the file that was loaded last, whose state turned out not to be one of this run."""
        self.set_aside(self.newest if self.newest.exists() else self.previous, why)

    def set_aside(self, path: Path, why: str) -> None:
        """Rename a file that cannot be used, and say why."""
        aside = path.with_name(f"{path.stem}.corrupt{path.suffix}")
        path.replace(aside)
        self.warn(f"{path}: {why}; renamed to {aside.name}, resuming from the previous one")

    def _not_owned(self, state: Mapping[str, Any]) -> str:
        owner = state.get(OWNER)
        if owner is None or not self.owner:
            return ""
        known = owner.get("run_id") if isinstance(owner, dict) else owner
        return "" if known == self.owner["run_id"] else f"checkpoint of another run, {str(known)[:40]}"

    def remove(self) -> None:
        """Delete both files."""
        self.newest.unlink(missing_ok=True)
        self.previous.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | str:
    """The state in a file, or why there is none."""
    content = path.read_bytes()
    digest, body = content[len(MAGIC) : len(MAGIC) + 32], content[len(MAGIC) + 32 :]
    if not content.startswith(MAGIC) or hashlib.sha256(body).digest() != digest:
        return "corrupt checkpoint"
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # a whole file, of something else: its reader can raise anything
        return f"checkpoint that cannot be read ({type(error).__name__})"
    return state if isinstance(state, dict) else f"checkpoint of something else, a {type(state).__name__}"
