"""``sparsebench evaluate``: run the evaluations of ``evaluate=...`` on finished runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import DISK_FULL, RunError, SettingError, one_of, printable, reason
from sparsebench.paths import expanded, options

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def run(args: Namespace) -> int:
    """Evaluate every finished run under the given folders; summary.csv and the model stay unchanged.

    Returns:
        0, or 1 if a run could not be evaluated.

    Raises:
        SettingError: There are no finished runs, or a setting is wrong.
    """
    from tqdm import tqdm

    from sparsebench.cli.audit import trust_of
    from sparsebench.cli.left_out import LeftOut
    from sparsebench.config.open import compose_config
    from sparsebench.records.damage import read_row
    from sparsebench.records.run_folder import finished_runs
    from sparsebench.runs.build import eval_batch_size
    from sparsebench.runs.evaluations import apply, build_evaluations, dense_run
    from sparsebench.runs.reopen import Datasets, FinishedRun

    settings = [text for text in args.arguments if text.lstrip("+").split("=")[0].split(".")[0] == "evaluate"]
    paths = [Path(text) for text in args.arguments if text not in settings]
    chosen = build_evaluations(compose_config(settings)[0])
    if not chosen:
        raise SettingError(
            "evaluate", None, f"some of {', '.join(options('evaluate'))}, as in evaluate=[a,b]"
        )
    if not paths:
        raise SettingError("path", None, "a folder with finished runs")
    left_out = LeftOut()
    folders = []
    for path in paths:
        if not path.is_dir() and "=" in str(path):
            raise SettingError(
                str(path), None, f"a folder, or a setting of {one_of(['evaluate'], str(path))}"
            )
        found = finished_runs(path, left_out)
        if not found:
            raise SettingError("path", path, "a folder with finished runs")
        folders += found
    trust = trust_of(args, paths)
    datasets = Datasets(expanded(args.data_root, "--data-root") if args.data_root else None, trust)
    failed = 0
    for path in tqdm(folders, desc="evaluate", unit="run", disable=not sys.stderr.isatty()):
        try:
            read_row(path)
            run = FinishedRun(path, trust)
            if refused := run.refused("model", "dataset", "device", "prunable"):
                raise RunError(f"not built without --trust: {'; '.join(refused)}")
            if run.row.get("status") != "finished":
                raise RunError("diverged: there is nothing to evaluate")
            with trust.searching():
                dense = dense_run(chosen, run.cfg, run.choices, path.parent, run.ranks)
            net = run.network(datasets)
            images = eval_batch_size(run.cfg, net.dataset)
            columns = apply(chosen, net, run.cfg.batch_size, images, dense, path)
        except Exception as error:  # of this run, which may be damaged in any way; continue with the others
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            tqdm.write(f"sparsebench: {printable(path)}: {reason(error)}", file=sys.stderr)
            failed += 1
            continue
        shown = "  ".join(f"{name} {_shown(value)}" for name, value in columns.items())
        tqdm.write(printable(f"{path.name}  {shown}"))
    return 1 if failed or left_out.found else 0


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value) or "-"


def candidates(before: Sequence[str], last: str) -> list[str]:
    """Completions of ``evaluate=`` and its options; the shell completes folders."""
    from sparsebench.cli.completion import settings

    return settings("train", before, last) if last.startswith("evaluate=") else ["evaluate="]


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "arguments", nargs="+", metavar="FOLDER|SETTING", help="run folders, evaluate=... and its settings"
    )
    from sparsebench.cli.audit import add_trust_arguments

    add_trust_arguments(parser)


COMMAND = Subcommand(
    name="evaluate",
    help="evaluate calibration, classes, corruptions, ... of finished runs",
    section=Section.RESULTS,
    order=3,
    description="Evaluates finished runs and writes the results to evaluation/NAME.csv in each run folder. Builds no "
    "class and opens no file that only a run names.",
    examples=("sparsebench evaluate results/runs 'evaluate=[calibration,per_class]'",),
    files=True,
    candidates=candidates,
    arguments=arguments,
    run=run,
)
