"""``sparsebench audit``: verify the results of finished runs against their weights, config and data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand, number
from sparsebench.errors import SettingError, printable
from sparsebench.paths import expanded

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from sparsebench.cli.left_out import LeftOut
    from sparsebench.runs.audit import Finding

ELSEWHERE = 0.1
"""Percentage points by which accuracies may differ if the device or the PyTorch version is not the run's."""


def run(options: Namespace) -> int:
    """Print every claim that does not hold, or write them with ``-o``.

    Returns:
        0 if all claims hold, else 1.

    Raises:
        SettingError: There are no finished runs to check, or FILE is not writable.
    """
    from tqdm import tqdm

    from sparsebench.cli.left_out import LeftOut
    from sparsebench.files import check_output, write_output
    from sparsebench.runs.audit import audit
    from sparsebench.runs.reopen import Datasets

    if options.tolerance is not None and not options.tolerance >= 0:
        raise SettingError("tolerance", options.tolerance, "percentage points, 0 or more")
    check_output(options.output)
    not_read = LeftOut()
    folders, left_out = _folders(options.paths, not_read)
    datasets = Datasets(expanded(options.data_root, "--data-root") if options.data_root else None)
    tolerances = (0.0, ELSEWHERE) if options.tolerance is None else (options.tolerance, options.tolerance)
    found: list[Finding] = []
    for path in tqdm(folders, desc="audit", unit="run", disable=not sys.stderr.isatty()):
        found += audit(path, datasets, not options.no_accuracy, tolerances)
    failed = [finding for finding in found if finding.kind == "claim"]
    accuracy = ", accuracies not evaluated" if options.no_accuracy else ""
    bad = f" in {len({f.run for f in failed})} runs" if failed else ""
    last = f"{len(folders)} runs audited{left_out}{accuracy}, {len(failed)} claims do not hold{bad}"
    text = _text(found, options.format)
    if options.output:
        write_output(options.output, text)
    else:
        sys.stdout.write(text)
    print(last, file=sys.stdout if options.format == "table" or options.output else sys.stderr)
    return 1 if failed or not_read.found else 0


def _folders(paths: Sequence[Path], not_read: LeftOut) -> tuple[list[Path], str]:
    """The finished runs under ``paths``, each once, and a remark on the others."""
    from sparsebench.records.run_folder import finished_runs, unfinished

    found: dict[Path, Path] = {}
    left_out = 0
    for path in paths:
        if not (finished := finished_runs(path, not_read)):
            raise SettingError("path", path, "a folder with finished runs; a table has no models to verify")
        left_out += len(unfinished(path))
        found |= {run.resolve(): run for run in finished}
    return list(found.values()), f" ({left_out} unfinished left out)" if left_out else ""


def _text(found: Sequence[Finding], form: str) -> str:
    from dataclasses import asdict

    import pandas as pd

    from sparsebench.compare.table import exact
    from sparsebench.runs.audit import Finding

    columns = list(Finding.__dataclass_fields__)
    if form == "table":
        return "".join(f"{line}\n" for line in _lines(found))
    frame = pd.DataFrame([asdict(f) for f in found], columns=columns)
    return exact(frame, form)


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    for finding in found:
        if finding.kind == "note":
            line = f"{finding.run}  note: {finding.column}={finding.claimed}: {finding.found}"
        else:
            line = f"{finding.run}  {finding.column}: claimed {finding.claimed}, found {finding.found}"
        yield printable(line)


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="FOLDER", help="a run folder, or a folder of runs"
    )
    parser.add_argument("--no-accuracy", action="store_true", help="skip the evaluation of accuracies (fast)")
    parser.add_argument(
        "--tolerance",
        type=number,
        metavar="POINTS",
        help="percentage points by which accuracies may differ (default: 0 on the run's kind of device with its "
        f"version of PyTorch, {ELSEWHERE} elsewhere)",
    )
    parser.add_argument(
        "--data-root", type=Path, metavar="FOLDER", help="folder of the data sets on this machine"
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE instead of printing")


COMMAND = Subcommand(
    name="audit",
    help="verify finished runs against their weights, config and data",
    section=Section.RESULTS,
    order=2,
    description="Verifies finished runs: recounts zeros, costs and layers of model.safetensors, evaluates accuracies "
    "again, recomputes the hashes of the config, and compares the files of a run with each other. Lists every "
    "claim that does not hold. Times, memory, training FLOPs and kept_zeros cannot be verified after the run.",
    files=True,
    arguments=arguments,
    run=run,
)
