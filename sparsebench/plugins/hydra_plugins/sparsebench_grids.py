"""Where Hydra finds the sweeper: it takes plugins from packages of this namespace only."""

from sparsebench.commands import sweep


class GridSweeper(sweep.GridSweeper):
    """See :class:`sparsebench.commands.sweep.GridSweeper`."""
