"""Signals that ask a run to stop: noted when they come, acted on between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75, "SIGUSR2": 75}
"""
Signal -> exit status of a command that was asked to stop and has saved what it did: Ctrl-C; ``kill``, ``scancel`` and
preemption; Slurm's ``--signal`` (submitit's is USR2), for which 75 (``EX_TEMPFAIL``) says: put it back into the queue.
"""


class Interrupted(SystemExit):
    """A run that was asked to stop and has saved its state; no error, and nothing that a sweep goes on after.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number).name
        super().__init__(STATUS[self.signal])

    def __str__(self) -> str:
        return self.signal


class StopSignals:
    """While it is entered, signals that ask to stop are only noted.

    A launcher that has a handler of its own for a signal (submitit puts the job back into the queue) is called at
    :meth:`act`. A second Ctrl-C stops at once. In another thread than the main one nothing is changed.

    Attributes:
        pending: Number of the signal that came last and was not acted on; 0 for none.
    """

    def __init__(self) -> None:
        self.pending = 0
        self._previous_handlers: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in STATUS):
                if signal.getsignal(number) != signal.SIG_IGN:  # as of a job in a shell's background
                    self._previous_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous_handlers = {}

    def act(self, number: int | None = None) -> None:
        """Do what the signal asks for, now that everything is saved. Returns if its sender wanted nothing more.

        Args:
            number: Of the signal; the pending one by default.

        Raises:
            Interrupted: The run has to stop.
        """
        number, self.pending = number or self.pending, 0
        handler = self._previous_handlers.get(number)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, None)  # submitit's: it ends the process, or wants to go on
            return
        raise Interrupted(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.pending == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.pending = number
