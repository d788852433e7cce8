"""``sparsebench merge``: merge results of several clusters into one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import RunError, SettingError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def run(args: Namespace) -> int:
    """Copy finished runs into one folder.

    Returns:
        The exit status, 0.

    Raises:
        SettingError: A folder does not exist or has no finished runs.
        RunError: A run is in two of them with different results, or is running at the target.
    """
    from sparsebench.records.merge import merge

    found = [run for source in args.sources for run in _finished(source)]
    conflicts = merge(found, args.output, args.dry_run)
    if conflicts:
        raise RunError(
            f"{len(conflicts)} runs have different results; left unchanged: {'; '.join(conflicts)}"
        )
    return 0


def _finished(source: Path) -> list[Path]:
    from sparsebench.records.run_folder import finished_runs

    if not source.is_dir():
        raise SettingError("RESULTS", source, "a folder of results")
    if not (found := finished_runs(source)):
        raise SettingError("RESULTS", source, "a folder with finished runs in it")
    return found


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("sources", nargs="+", type=Path, metavar="RESULTS", help="folder of results")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RESULTS", help="output folder")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")


COMMAND = Subcommand(
    name="merge",
    help="merge the runs of several folders",
    section=Section.FOLLOW,
    order=3,
    description="Copies the finished runs of several folders into one. Runs that are there with equal results are "
    "skipped; runs with different results are listed, and the exit status is 1; nothing is overwritten.",
    files=True,
    arguments=arguments,
    run=run,
)
