"""``sparsebench list``: the available options, read from the configs and the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand, subcommands
from sparsebench.errors import SettingError, one_of, printable
from sparsebench.paths import groups

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from sparsebench.config.catalog import Entry

LABELS = {"prune": "methods", "evaluate": "evaluations", "theory": "theory"}
"""Config group -> label of its options, if that is not the plural of its name."""

OTHERS = ("commands", "figures")
"""Lists found by scanning packages, which are not config groups."""


def labels() -> dict[str, str]:
    """Label of each list -> its config group: methods first, the rest by name."""
    named = {LABELS.get(group, f"{group}s"): group for group in groups()}
    return {label: named[label] for label in sorted(named, key=lambda label: (label != "methods", label))}


def run(args: Namespace) -> int:
    """Print one line per option.

    Raises:
        SettingError: There is no such group.
    """
    found = labels()
    if args.group is not None and args.group not in {*found, *found.values(), *OTHERS}:
        raise SettingError("group", args.group, one_of([*found, *OTHERS], args.group))
    listed = dict(_listed(args.group))
    if args.format == "json":
        import json
        from dataclasses import asdict

        print(json.dumps({label: [asdict(e) for e in made] for label, made in listed.items()}, indent=2))
        return 0
    for number, (label, made) in enumerate(listed.items()):
        if len(listed) > 1:
            print(f"{chr(10) if number else ''}{label}{_usage(label)}")
        width = max((len(entry.name) for entry in made), default=0)
        for entry in made:
            paper = f"  [{entry.reference}]" if entry.reference else ""
            print(printable(f"  {entry.name:<{width}}  {entry.description}{paper}"))
    return 0


def _usage(label: str) -> str:
    """How an option is selected on the command line."""
    if label == "theory":
        return " (study=...)"
    return f" ({labels()[label]}=...)" if label in labels() else ""


def _listed(chosen: str | None) -> Iterator[tuple[str, list[Entry]]]:
    from sparsebench.config.catalog import Entry, entries, modules

    for label, group in labels().items():
        if chosen in (None, label, group):
            yield label, entries(group)
    if chosen in (None, "commands"):
        yield "commands", [Entry(command.name, command.help, "") for command in subcommands().values()]
    if chosen in (None, "figures"):
        yield "figures", modules("sparsebench.report.figures")


def candidates(before: Sequence[str], last: str) -> list[str]:
    """The names of all lists."""
    return [*labels(), *OTHERS]


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("group", nargs="?", help=", ".join([*labels(), *OTHERS]))
    parser.add_argument("--format", choices=("table", "json"), default="table")


COMMAND = Subcommand(
    name="list",
    help="list models, data sets, methods, schedules, ... with their papers",
    section=Section.OTHER,
    order=1,
    description="Lists the available options with their papers.",
    examples=("sparsebench list methods",),
    candidates=candidates,
    arguments=arguments,
    run=run,
)
