"""One module a subcommand, and ``main``, which chooses among them."""

from sparsebench.cli.main import main

__all__ = ["main"]
