"""``sparsebench merge``: merge results of several clusters into one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import RunError, SettingError, one_of

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from sparsebench.cli.left_out import LeftOut

PREFER = ("FIRST", "LAST")


def run(args: Namespace) -> int:
    """Copy finished runs into one folder.

    Returns:
        The exit status, 0.

    Raises:
        SettingError: A folder does not exist or has no finished runs, or runs were made more than once with other
            numerics and ``--prefer`` is missing.
        RunError: A run is in two of them with different results, is running at the target, or cannot be read.
    """
    from sparsebench.cli.left_out import LeftOut
    from sparsebench.records.merge import merge

    if args.prefer not in (None, *PREFER):
        raise SettingError("--prefer", args.prefer, one_of(PREFER, args.prefer))
    if args.output.exists() and not args.output.is_dir():
        raise SettingError("output", args.output, "a folder; a file with this name exists")
    left_out = LeftOut()
    found = [run for source in args.sources for run in _finished(source, left_out)]
    conflicts = merge(found, args.output, args.dry_run, args.prefer, left_out)
    if conflicts:
        raise RunError(
            f"{len(conflicts)} runs have different results; left unchanged: {'; '.join(conflicts)}"
        )
    left_out.check()
    return 0


def _finished(source: Path, left_out: LeftOut) -> list[Path]:
    from sparsebench.records.run_folder import finished_runs

    if not source.is_dir():
        raise SettingError("RESULTS", source, "a folder of results")
    if not (found := finished_runs(source, left_out)):
        raise SettingError("RESULTS", source, "a folder with finished runs in it")
    return found


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("sources", nargs="+", type=Path, metavar="RESULTS", help="folder of results")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RESULTS", help="output folder")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument(
        "--prefer",
        metavar="FIRST|LAST",
        help="of a run that was made more than once with other numerics (threads, device, PyTorch), keep the first "
        "result (that of the output folder, if it has one) or the last; the row of the other goes to repeats.csv",
    )


COMMAND = Subcommand(
    name="merge",
    help="merge the runs of several folders",
    section=Section.FOLLOW,
    order=3,
    description="Copies the finished runs of several folders into one. Runs that are there with equal results are "
    "skipped; runs with different results are listed, and the exit status is 1; nothing is overwritten. Results of one "
    "run with the same numerics have to be equal to the bit; of those with other numerics --prefer keeps one.",
    files=True,
    arguments=arguments,
    run=run,
)
