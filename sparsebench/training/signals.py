"""Signals that request a stop: recorded when they arrive, acted on between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75, "SIGUSR2": 75}
"""
Signal -> exit status of a command that was stopped after saving its state: Ctrl-C; ``kill``, ``scancel`` and
preemption; Slurm's ``--signal`` (submitit uses USR2), for which 75 (``EX_TEMPFAIL``) means: requeue the job.
"""


class Interrupted(SystemExit):
    """A run was stopped by a signal after saving its state; not an error, and a sweep stops too.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number).name
        super().__init__(STATUS[self.signal])

    def __str__(self) -> str:
        return self.signal


class StopSignals:
    """Context in which stop signals are only recorded.

    A handler that was installed before (submitit's requeues the job) is called by :meth:`act`. A second Ctrl-C stops
    at once. Outside the main thread nothing is changed.

    Attributes:
        pending: Number of the last signal that was not acted on; 0 for none.
    """

    def __init__(self) -> None:
        self.pending = 0
        self._previous_handlers: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in STATUS):
                if signal.getsignal(number) != signal.SIG_IGN:  # ignored, as for a background job of a shell
                    self._previous_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous_handlers = {}

    def act(self, number: int | None = None) -> None:
        """Act on the signal, after everything is saved. Returns if a previous handler handled it.

        Args:
            number: Number of the signal; the pending one by default.

        Raises:
            Interrupted: The run has to stop.
        """
        number, self.pending = number or self.pending, 0
        handler = self._previous_handlers.get(number)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, None)  # submitit's handler ends the process or returns
            return
        raise Interrupted(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.pending == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.pending = number
