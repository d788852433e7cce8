"""Runs of a sweep that exist, but were made with other settings, code or versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig

from sparsebench.errors import SettingError
from sparsebench.runs.earlier import Differences, Present, differences, present


class OlderRuns:
    """Collects, while a sweep is planned, what its existing runs were made with."""

    def __init__(self) -> None:
        self._made_with: Counter[str] = Counter()
        self._refused: list[tuple[Path, Differences]] = []
        self._again = 0

    @cached_property
    def _present(self) -> Present:
        return present()

    def is_made_anew(self, folders: Sequence[Path], cfg: DictConfig) -> bool:
        """Whether a run is made again although it exists, because ``redo_older`` is on.

        Args:
            folders: Of its trainings; none if it does not exist.
            cfg: Its config.
        """
        if not folders or cfg.overwrite:
            return False
        found = differences(folders[0], cfg, self._present)
        again = bool(cfg.redo_older and found)
        if found.refused and not again:
            self._refused.append((folders[0], found))
        self._again += again
        self._made_with.update(() if again else found.makers)
        return again

    def check(self) -> list[str]:
        """Lines that say what is not made again, and how many are.

        Raises:
            SettingError: Some were made with other settings, or code that has been edited since.
        """
        if self._refused:
            folder, found = self._refused[0]
            try:
                found.refuse(folder)
            except SettingError as error:
                more = f" (the first of {len(self._refused)} such runs)" if len(self._refused) > 1 else ""
                raise SettingError(error.setting, None, f"{error.allowed}{more}") from None
        lines = [
            f"{number} run{'s' * (number > 1)} exist{'s' * (number == 1)} with {what}; --redo-older makes them again"
            for what, number in self._made_with.items()
        ]
        return [*lines, f"{self._again} older runs are made again"] if self._again else lines
