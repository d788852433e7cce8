"""``sparsebench audit``: verify the results of finished runs against their weights, config and data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.cli.subcommand import number as finite_number
from sparsebench.errors import SettingError, printable
from sparsebench.paths import expanded

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from sparsebench.cli.left_out import LeftOut
    from sparsebench.config.trusted import Trust
    from sparsebench.runs.audit.findings import Finding
    from sparsebench.runs.audit.one_run import Audited

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
    from sparsebench.files import write_output
    from sparsebench.runs.audit.accuracies import Tolerances
    from sparsebench.runs.audit.across import check_across
    from sparsebench.runs.audit.findings import CLAIM
    from sparsebench.runs.audit.one_run import Extent, audit
    from sparsebench.runs.reopen import Datasets

    _check(options)
    not_read = LeftOut()
    folders, left_out = _folders(options.paths, not_read)
    datasets = Datasets(
        expanded(options.data_root, "--data-root") if options.data_root else None,
        trust_of(options, options.paths),
    )
    tolerances = (
        Tolerances() if options.tolerance is None else Tolerances(options.tolerance, options.tolerance)
    )
    if options.tolerance is None:
        tolerances = Tolerances(elsewhere=ELSEWHERE)
    extent = Extent(not options.no_accuracy, options.evaluations, tolerances)
    progress = tqdm(folders, desc="audit", unit="run", disable=not sys.stderr.isatty())
    audited = [audit(path, datasets, extent) for path in progress]
    found = [finding for one in audited for finding in one.found] + check_across(audited)
    if options.retrain:
        found = _with_retrained(found, _retrain(audited, options))
    failed = [finding for finding in found if finding.kind == CLAIM]
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


def trust_of(options: Namespace, paths: Sequence[Path]) -> Trust:
    """What the user has typed on the command line, and so trusts.

    Raises:
        SettingError: A folder of ``--config-dir`` is missing.
    """
    from sparsebench.config.trusted import Trust

    for folder in options.config_dir or ():
        if not folder.is_dir():
            raise SettingError("config-dir", folder, "a folder with config groups, such as prune/")
    data_root = [expanded(options.data_root)] if options.data_root else []
    config_dirs = tuple(folder.resolve() for folder in options.config_dir or ())
    return Trust(config_dirs, (*paths, *data_root), options.trust)


def add_trust_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that say what may be built and opened for a stranger's run."""
    parser.add_argument(
        "--data-root", type=Path, metavar="FOLDER", help="folder of the data sets on this machine"
    )
    parser.add_argument(
        "--config-dir",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="folder of configs whose classes may be built, as for train; one that a run names is not used",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="build any class and open any file that a run names: executes code that its author chose",
    )


def _check(options: Namespace) -> None:
    from sparsebench.files import check_output

    if options.tolerance is not None and not options.tolerance >= 0:
        raise SettingError("tolerance", options.tolerance, "percentage points, 0 or more")
    check_output(options.output)
    if options.sample is not None and not (options.retrain and options.sample > 0):
        raise SettingError("sample", options.sample, "a number of runs above 0, together with --retrain")


def _retrain(audited: Sequence[Audited], options: Namespace) -> list[Finding]:
    """Make runs again, all or a random sample of them."""
    import random

    from tqdm import tqdm

    from sparsebench.runs.audit.retrain import Retraining

    runs = [one.run for one in audited if one.run is not None]
    if options.sample is not None and options.sample < len(runs):
        runs = random.SystemRandom().sample(runs, options.sample)
    found: list[Finding] = []
    with Retraining(
        expanded(options.data_root, "--data-root") if options.data_root else None, options.evaluations
    ) as again:
        for one in tqdm(runs, desc="retrain", unit="run", disable=not sys.stderr.isatty()):
            found += again.check(one)
    return found


def _with_retrained(found: Sequence[Finding], retrained: Sequence[Finding]) -> list[Finding]:
    """All findings, without the columns that were not checked because only making the run again could check them."""
    from sparsebench.runs.audit.findings import NOTE, UNCHECKED

    again = {finding.run for finding in retrained if finding.kind == NOTE}

    def checked_now(one: Finding) -> bool:
        return one.kind == UNCHECKED and one.run in again and one.found.endswith("--retrain compares it")

    return [*(one for one in found if not checked_now(one)), *retrained]


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
    from sparsebench.runs.audit.findings import Finding

    columns = list(Finding.__dataclass_fields__)
    if form == "table":
        return "".join(f"{line}\n" for line in _lines(found))
    frame = pd.DataFrame([asdict(f) for f in found], columns=columns)
    return exact(frame, form)


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    """A line for each finding; what was not checked for one reason in several runs is one line at the end."""
    from sparsebench.runs.audit.findings import NOTE, UNCHECKED

    unchecked: dict[tuple[str, str], int] = {}
    for finding in found:
        if finding.kind == UNCHECKED:
            key = finding.found, finding.column
            unchecked[key] = unchecked.get(key, 0) + 1
        elif finding.kind == NOTE:
            yield printable(f"{finding.run}  note: {finding.column}={finding.claimed}: {finding.found}")
        else:
            yield printable(
                f"{finding.run}  {finding.column}: claimed {finding.claimed}, found {finding.found}"
            )
    reasons: dict[tuple[str, int], list[str]] = {}
    for (why, column), runs_with in unchecked.items():
        reasons.setdefault((why, runs_with), []).append(column)
    for (why, runs_with), columns in reasons.items():
        runs = f"{runs_with} run{'s' * (runs_with != 1)}"
        yield printable(f"not checked in {runs}: {', '.join(columns)}: {why}")


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="FOLDER", help="a run folder, or a folder of runs"
    )
    parser.add_argument("--no-accuracy", action="store_true", help="skip the evaluation of accuracies (fast)")
    parser.add_argument(
        "--evaluations", action="store_true", help="compute the columns of evaluate=... again too"
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="make every run again from its command, with its numerics, in a temporary folder, and compare "
        "everything but times",
    )
    parser.add_argument(
        "--sample", type=int, metavar="N", help="with --retrain: only so many of the runs, chosen at random"
    )
    parser.add_argument(
        "--tolerance",
        type=finite_number,
        metavar="POINTS",
        help="percentage points by which accuracies may differ (default: 0 on the run's kind of device with its "
        f"version of PyTorch, {ELSEWHERE} elsewhere)",
    )
    add_trust_arguments(parser)
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE instead of printing")


COMMAND = Subcommand(
    name="audit",
    help="verify finished runs against their weights, config and data",
    section=Section.RESULTS,
    order=2,
    description="Verifies finished runs: recounts zeros, costs and layers of model.safetensors, evaluates accuracies "
    "again, recomputes the hashes of the config, the weights, the data and the initialisation, compares metrics.csv "
    "with the schedules, the config with the command, the files of a run with each other, and runs with each other. "
    "Lists every claim that does not hold, and at the end every column that was not checked, and why: times, the "
    "machine, and what is of weights that are not kept, which --retrain compares. Builds no class and opens no file "
    "that only a run names.",
    examples=("sparsebench audit results/runs", "sparsebench audit results/runs --retrain --sample 3"),
    files=True,
    arguments=arguments,
    run=run,
)
