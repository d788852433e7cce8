"""What a subcommand is, and the search for all of them in this package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


class Section(Enum):
    """Where a subcommand stands in the help, in this order."""

    RUN = "run"
    FOLLOW = "follow and gather"
    RESULTS = "results"
    OTHER = "data sets, options, shells"


class Subcommand(NamedTuple):  # a dataclass would import inspect, and the help take a tenth longer
    """A subcommand: all that help, dispatch and completion know of it.

    It is the object ``COMMAND`` of a module of this package, whose top imports nothing heavy: what a command needs is
    imported when it runs, for every module is imported to print the help.

    Args:
        name: What it is called by.
        help: What it does, in one line.
        section: Where it stands in the help.
        run: (options, or the overrides where there are no ``arguments``) -> exit status.
        arguments: Adds its arguments to a parser; ``None`` where they are Hydra overrides.
        config: The primary config that is overridden then, a file in conf.
        description: Above its arguments in its own help; ``help`` by default.
        examples: Command lines, shown in the help.
        order: Within its section; by name where it is equal.
        parse: (parser, argv) -> options; the parser's own ``parse_args`` by default.
        candidates: (arguments before, last one so far) -> what completion offers for the last, if it is no option.
        files: Whether its arguments are mostly paths: fish has to be told.
    """

    name: str
    help: str
    section: Section
    run: Callable[[Any], int]
    arguments: Callable[[ArgumentParser], None] | None = None
    config: str = ""
    description: str = ""
    examples: Sequence[str] = ()
    order: int = 50
    parse: Callable[[ArgumentParser, Sequence[str]], Namespace] | None = None
    candidates: Callable[[Sequence[str], str], Iterable[str]] | None = None
    files: bool = False

    def main(self, argv: Sequence[str]) -> int:
        """Run it with the arguments that follow its name; returns the exit status."""
        if self.arguments is None:
            return self.run(argv)
        parser = self.parser()
        try:
            options = self.parse(parser, argv) if self.parse else parser.parse_args(argv)
        except SystemExit as done:  # after its help, and at arguments that it refuses
            return int(done.code or 0)
        return self.run(options)

    def parser(self) -> ArgumentParser:
        """Its parser; a command without ``arguments`` has none."""
        from argparse import ArgumentParser  # here: the help of all commands needs it not

        assert self.arguments is not None
        parser = ArgumentParser(prog=f"sparsebench {self.name}", description=self.description or self.help)
        self.arguments(parser)
        if self.examples:
            shown = f"example{'s' * (len(self.examples) > 1)}: {'; '.join(self.examples)}"
            parser.epilog = " ".join(filter(None, (parser.epilog, shown)))
        return parser


def subcommands() -> dict[str, Subcommand]:
    """Every subcommand by its name, in the order of the help."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    offered = (getattr(importlib.import_module(f"{__package__}.{name}"), "COMMAND", None) for name in modules)
    places = list(Section)
    found = sorted(
        filter(None, offered),
        key=lambda command: (places.index(command.section), command.order, command.name),
    )
    return {command.name: command for command in found}
