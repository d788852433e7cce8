"""What a command leaves out of a folder: named on stderr, and told by the exit status."""

from __future__ import annotations

import sys
from pathlib import Path

from sparsebench.errors import RunError, printable


class LeftOut:
    """The damaged and foreign runs that a command has left out; pass it as ``report`` to what reads folders."""

    def __init__(self) -> None:
        self.found: dict[Path, str] = {}

    def __call__(self, folder: Path, why: str) -> None:
        """Name a folder that is left out, once."""
        if folder not in self.found:
            self.found[folder] = why
            self.note(f"{folder}: left out: {why}")

    def note(self, line: str) -> None:
        """Print a line about something that is not left out."""
        print(f"sparsebench: {printable(line)}", file=sys.stderr)

    def __str__(self) -> str:
        count = len(self.found)
        return f"left out what cannot be read: {count} run{'s' * (count > 1)}" if count else ""

    def check(self) -> None:
        """End the command with exit status 1 if anything was left out.

        Raises:
            RunError: Something was.
        """
        if self.found:
            raise RunError(str(self))
