"""One module per subcommand (its ``COMMAND``), and ``main``, which finds and dispatches them."""

from sparsebench.cli.main import main

__all__ = ["main"]
