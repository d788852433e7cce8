"""Training steps that are recorded once and replayed: a CUDA graph is the loop's step, recorded."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

Result = TypeVar("Result")

WARM_UP = 3
"""Ordinary steps of a program before it is recorded: they create what stays (momentum, dense copies), and a GPU's
libraries choose their kernels in them."""

KEPT = 6
"""Programs that are kept; the one not used for longest is dropped. Each holds the memory of a step."""


class Recorded(NamedTuple, Generic[Result]):
    """A recorded step.

    Attributes:
        result: What the step returned; replaying writes to the same storage.
        replay: Runs its operators again.
    """

    result: Result
    replay: Callable[[], object]


Record = Callable[[Callable[[], Result]], Recorded[Result]]
"""Runs a step once and returns it recorded; a step that cannot be recorded raises, and has then changed no tensor."""


class Recorder(Generic[Result]):
    """Runs steps: those of a program ordinarily at first, then recorded once and replayed.

    A step's *program* names what it does: equal programs promise the same operators, on the same storage, with the same
    numbers. A step without a program (``None``) always runs ordinarily.

    Args:
        record: Records a step; ``None`` never records.
        failed: Called with a one-line reason if a step cannot be recorded; afterwards all steps run ordinarily.
    """

    def __init__(self, record: Record[Result] | None, failed: Callable[[str], None]) -> None:
        self._record, self._failed = record, failed
        self._seen: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, Recorded[Result]] = {}
        self.replayed = 0

    @property
    def active(self) -> bool:
        """Whether steps may be recorded."""
        return self._record is not None

    def ready(self, program: Hashable | None) -> bool:
        """Whether the next step of ``program`` is recorded or replayed; call once a step."""
        if self._record is None or program is None:
            return False
        seen = self._seen[program] = self._seen.get(program, 0) + 1
        return seen > WARM_UP

    def run(self, program: Hashable, step: Callable[[], Result]) -> Result:
        """Replay ``program``, or run ``step`` and record it as that."""
        recorded = self._recorded.pop(program, None)
        if recorded is not None:
            recorded.replay()
        elif self._record is not None:
            try:
                recorded = self._record(step)
            except RuntimeError as error:  # what PyTorch raises for an operator that cannot be recorded
                self._record, self._recorded = None, {}
                self._failed(" ".join(str(error).split()) or type(error).__name__)
        if recorded is None:
            return step()
        while len(self._recorded) >= KEPT:
            self._recorded.pop(next(iter(self._recorded)))
        self._recorded[program] = recorded  # the most recently used is last
        self.replayed += 1
        return recorded.result
