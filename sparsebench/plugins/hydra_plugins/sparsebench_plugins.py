"""Where Hydra finds the sweeper and the launchers: it takes plugins from packages of this namespace only."""

from sparsebench.commands import launchers, sweep


class GridSweeper(sweep.GridSweeper):
    """See :class:`sparsebench.commands.sweep.GridSweeper`."""


class LocalLauncher(launchers.LocalLauncher):
    """See :class:`sparsebench.commands.launchers.LocalLauncher`."""


class SlurmLauncher(launchers.SlurmLauncher):
    """See :class:`sparsebench.commands.launchers.SlurmLauncher`."""
