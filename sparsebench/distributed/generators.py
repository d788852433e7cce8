"""The default random generators of a process, which several runs in it use in turn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class Generators:
    """PyTorch's, NumPy's and Python's default generators, as one of several runs in a process has left them.

    On a GPU each run has its own state object, because its recorded steps read the state's counter on the device.
    """

    def __init__(self) -> None:
        self._states: tuple[object, object, torch.Tensor] | None = None
        self._cuda: torch.Generator | None = None
        if torch.cuda.is_available():
            torch.cuda.init()  # else there are no generators yet
            self._cuda = torch.cuda.default_generators[torch.cuda.current_device()].clone_state()

    def leave(self) -> None:
        """Remember the generators as they are now."""
        self._states = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def enter(self) -> None:
        """Make the process's generators the remembered ones; those of a new run are as they happen to be."""
        if self._states is not None:
            python, numpy, cpu = self._states
            random.setstate(python)  # type: ignore[arg-type]
            np.random.set_state(numpy)  # type: ignore[arg-type]
            torch.set_rng_state(cpu)
        if self._cuda is not None:
            torch.cuda.default_generators[torch.cuda.current_device()].graphsafe_set_state(self._cuda)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the process's generators are this run's; they stay as they are for whoever comes next."""
        self.enter()
        try:
            yield
        finally:
            self.leave()


@contextmanager
def kept() -> Iterator[None]:
    """Leave the process's generators after the block as they were before it, whoever uses them inside."""
    before = Generators()
    before.leave()
    try:
        yield
    finally:
        before.enter()
