"""The interface of a subcommand, and the discovery of all of them in this package."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from sparsebench.errors import SettingError, one_of

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


class Section(Enum):
    """Section of the help in which a subcommand is listed, in this order."""

    RUN = "run"
    FOLLOW = "monitor and merge"
    RESULTS = "results"
    OTHER = "data sets, options, shells"


class Subcommand(NamedTuple):  # not a dataclass, which imports inspect: the help would take 10 % longer
    """A subcommand: everything that help, dispatch and completion need.

    It is the object ``COMMAND`` of a module of this package. Such modules import nothing heavy at the top, because all
    of them are imported to print the help; a command imports what it needs when it runs.

    Args:
        name: Name of the subcommand.
        help: One line for the list of commands.
        section: Section of the help.
        run: (options, or overrides if there are no ``arguments``) -> exit status.
        arguments: Adds the arguments to a parser; ``None`` if they are Hydra overrides.
        config: Name of the primary config that is overridden then, a file in conf.
        description: Description in its own help; ``help`` by default.
        examples: Command lines for the help.
        order: Position within the section; equal ones are sorted by name.
        parse: (parser, argv) -> options; the parser's own ``parse_args`` by default.
        candidates: (previous arguments, last one so far) -> completions of the last one if it is not an option.
        files: Whether its arguments are mostly paths, for completion in fish.
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
        """Run the command with the arguments after its name; returns the exit status."""
        if self.arguments is None:
            return self.run(argv)
        for before, word in zip(("", *argv), argv, strict=False):
            if not word or (word.startswith("--") and word.endswith("=")):
                name = word[:-1] or (before if before.startswith("-") else "argument")
                raise SettingError(name, "", "a value that is not empty")
        parser = self.parser()
        try:
            options = self.parse(parser, argv) if self.parse else parser.parse_args(argv)
        except SystemExit as done:  # raised by argparse after printing help
            return int(done.code or 0)
        return self.run(options)

    def parser(self) -> ArgumentParser:
        """Argument parser; commands without ``arguments`` have none."""
        from argparse import ArgumentParser  # imported here: not needed for the list of commands

        class OneLineParser(ArgumentParser):
            """A parser whose errors are those of this program; its subparsers are of this class too."""

            def error(self, message: str) -> NoReturn:
                raise parser_error(message)

        assert self.arguments is not None
        parser = OneLineParser(prog=f"sparsebench {self.name}", description=self.description or self.help)
        self.arguments(parser)
        if self.examples:
            shown = f"example{'s' * (len(self.examples) > 1)}: {'; '.join(self.examples)}"
            parser.epilog = " ".join(filter(None, (parser.epilog, shown)))
        return parser


def number(text: str) -> float:
    """The ``type`` of an argument that is a finite number."""
    if not isfinite(value := float(text)):
        raise ValueError(text)
    return value


def parser_error(message: str) -> SettingError:
    """An error of argparse as one that names the argument, what was given and what is allowed.

    Example:
        >>> print(parser_error("argument --within: invalid float value: 'wide'"))
        --within=wide: expected a number
        >>> print(parser_error("the following arguments are required: PATH"))
        arguments: expected PATH
    """
    name, _, rest = message.removeprefix("argument ").partition(": ")
    name = name.split("/")[-1]
    if match := re.fullmatch(r"invalid (\w+) value: '(.*)'", rest, re.DOTALL):
        noun = {"int": "an integer", "float": "a number"}.get(match[1], f"a {match[1]}")
        return SettingError(name, match[2], noun)
    if match := re.fullmatch(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", rest, re.DOTALL):
        return SettingError(name, match[1], one_of(re.findall(r"[\w.-]+", match[2]), match[1]))
    if message.startswith("the following arguments are required: "):
        return SettingError("arguments", None, rest)
    if message.startswith("unrecognized arguments: "):
        return SettingError(rest, None, "an existing option; see --help")
    return SettingError(name, None, rest) if rest else SettingError("arguments", None, message)


def subcommands() -> dict[str, Subcommand]:
    """All subcommands by name, in the order of the help."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    offered = (getattr(importlib.import_module(f"{__package__}.{name}"), "COMMAND", None) for name in modules)
    places = list(Section)
    found = sorted(
        filter(None, offered),
        key=lambda command: (places.index(command.section), command.order, command.name),
    )
    return {command.name: command for command in found}
