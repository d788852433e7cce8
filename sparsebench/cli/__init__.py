"""One module a subcommand (its ``COMMAND``), and ``main``, which finds them and chooses among them."""

from sparsebench.cli.main import main

__all__ = ["main"]
