"""The sweeper and launchers where Hydra finds them: it only loads plugins from packages of this namespace.

They are given the subcommands that they call here, so that ``sweeps`` does not depend on ``cli``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparsebench.sweeps import launchers, packed, sweeper


def _compare(tables: Sequence[str]) -> int:
    from sparsebench.cli import compare

    return compare.COMMAND.main(tables)


def _subcommand(name: str) -> Callable[[Sequence[str]], int]:
    from sparsebench.cli import theory, train

    return theory.main if name == "theory" else train.main


class GridSweeper(sweeper.GridSweeper):
    """See :class:`sparsebench.sweeps.sweeper.GridSweeper`."""

    compare = staticmethod(_compare)


class LocalLauncher(launchers.LocalLauncher):
    """See :class:`sparsebench.sweeps.launchers.LocalLauncher`."""


class PackedLauncher(packed.PackedLauncher):
    """See :class:`sparsebench.sweeps.packed.PackedLauncher`."""


class SlurmLauncher(launchers.SlurmLauncher):
    """See :class:`sparsebench.sweeps.launchers.SlurmLauncher`."""

    subcommand = staticmethod(_subcommand)
