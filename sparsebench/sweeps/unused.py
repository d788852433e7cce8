"""Settings of a sweep that only some of its runs use, or have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig

from sparsebench.config.used import refuse, setting_of, unused_overrides
from sparsebench.errors import SettingError


class UnusedInSweep:
    """Leaves out of each job what its options do not use, and says which jobs became one run by that.

    Args:
        typed: The overrides of the command line.
    """

    def __init__(self, typed: Sequence[str]) -> None:
        self.typed = {setting_of(override): override for override in typed}
        self._used: set[str] = set()
        self._why: dict[str, str] = {}
        self._cells: dict[str, int] = {}  # by method
        self._runs: dict[str, set[str]] = {}
        self._left_out: dict[str, list[str]] = {}

    def leave_out(self, job: Sequence[str], cfg: DictConfig, choices: Mapping[str, str | None]) -> list[str]:
        """The overrides of a job that its options use."""
        ignored = unused_overrides(job, cfg, choices)
        self._used |= {setting_of(override) for override in job if override not in ignored}
        self._why |= {setting_of(override): why for override, why in ignored.items()}
        return [override for override in job if override not in ignored]

    def planned(
        self, full: Sequence[str], job: Sequence[str], choices: Mapping[str, str | None], run: str
    ) -> None:
        """Count a job, given the id of its run."""
        method = str(choices["prune"])
        left_out = [
            override for override in full if override not in job and setting_of(override) in self._why
        ]
        if not left_out:
            return
        self._cells[method] = self._cells.get(method, 0) + 1
        self._runs.setdefault(method, set()).add(run)
        names = self._left_out.setdefault(method, [])
        names += [name for name in map(setting_of, left_out) if name not in names]

    def check(self) -> list[str]:
        """A line for every method whose jobs became fewer runs.

        Raises:
            SettingError: No job uses a setting of the command line.
        """
        for setting, override in self.typed.items():
            if setting in self._why and setting not in self._used:
                raise refuse(override, self._why[setting])
        return [
            f"{method} ignores {', '.join(self._left_out[method])}: "
            f"{len(runs)} run{'' if len(runs) == 1 else 's'} instead of {self._cells[method]}"
            for method, runs in self._runs.items()
            if len(runs) < self._cells[method]
        ]


def exists_in_some(
    override: str, there: Mapping[str, Sequence[str]], missing: Mapping[str, Sequence[str]]
) -> SettingError:
    """The error for a setting that only some jobs have.

    Args:
        override: That sets it.
        there: Config group -> options of the jobs that have it.
        missing: The same of a job that does not.
    """
    key, _, value = override.partition("=")
    group = key.split(".")[0]
    have, lack = ",".join(there.get(group, ())), ",".join(missing.get(group, ()))
    if not have:
        return SettingError(key, value, "a setting that all runs of the sweep have, or --where-it-exists")
    return SettingError(
        key,
        value,
        f"a setting that all runs have: it exists for {group}={have} and not for {group}={lack}. Add --where-it-exists "
        f"to set it where it exists, or sweep twice: {group}={have} with {key}, and {group}={lack} without",
    )
