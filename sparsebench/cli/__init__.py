"""One module per subcommand, and ``main``, which dispatches to them."""

from sparsebench.cli.main import main

__all__ = ["main"]
