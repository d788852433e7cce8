"""Work in steps: it stops after every step until it is advanced again, so that a process can do several in turn."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")

Steps = Generator[object, None, Result]
"""Yields after every step what tells how far the work is, if anything; returns its result."""


def finish(steps: Steps[Result]) -> Result:
    """Do all steps; returns the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
