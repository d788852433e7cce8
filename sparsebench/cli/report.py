"""``sparsebench report``: results as an HTML page and figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import printable

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def run(options: Namespace) -> int:
    """Write the report on RESULTS, and print its path.

    Raises:
        SettingError: RESULTS holds no results, or FOLDER cannot be created.
        RunError: Runs could not be read; the report is on the others.
    """
    import shlex

    from sparsebench.cli.left_out import LeftOut
    from sparsebench.report.write import PAGE, write

    source: Path = options.results
    beside = source.with_name(f"{source.stem}-report") if source.is_file() else source / "report"
    output: Path = options.output or beside
    left_out, command = LeftOut(), shlex.join(["sparsebench", "report", str(source)])
    results, studies = write(source, output, command, left_out, left_out.note)
    summary_parts = [f"{studies} theory stud{'y' if studies == 1 else 'ies'}"] if studies else []
    if results is not None:
        valid = int(results.frame["counts"].sum())
        summary_parts.append(f"{valid} of {len(results.frame)} runs are valid")
        summary_parts += [f"{results.unfinished} unfinished"] if results.unfinished else []
    print(", ".join(summary_parts), file=sys.stderr)
    print(printable(output / PAGE))
    left_out.check()
    return 0


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "results", type=Path, metavar="RESULTS", help="run folder, folder of runs or theory studies, or CSV"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="output folder (default: RESULTS/report, or <name>-report next to a CSV)",
    )


COMMAND = Subcommand(
    name="report",
    help="an HTML page and figures of results",
    section=Section.RESULTS,
    order=1,
    description="Writes a self-contained page with figures and a table of runs, and each figure as PNG, SVG and "
    "PDF with its data as CSV. From a CSV, without the run folders, there are no figures of single runs.",
    examples=("sparsebench report results/runs",),
    files=True,
    arguments=arguments,
    run=run,
)
