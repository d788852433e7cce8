"""``sparsebench theory``: a paper's prediction beside a simulation, from a config to a folder of tables and figures."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import sparsebench
from sparsebench.cli import list as listing
from sparsebench.cli.sweep import INFO_FLAGS, expand_shorthand, register
from sparsebench.config import renamed
from sparsebench.config.build import build
from sparsebench.config.compose import STUDY
from sparsebench.config.identity import study_id
from sparsebench.config.open import explain, validate_study
from sparsebench.distributed.device import Device
from sparsebench.errors import RunError, SettingError, one_of, require_int
from sparsebench.files import atomic
from sparsebench.paths import config_dir, expanded, options
from sparsebench.records import provenance
from sparsebench.records.lease import Lease
from sparsebench.records.states import fail
from sparsebench.records.study_folder import StudyFolder
from sparsebench.runs.run_lock import RunLockedError, check_still_held, run_lock
from sparsebench.theory.study import Check, Point, Study, Tables
from sparsebench.training.signals import StopSignals

HELP = """\
usage: sparsebench theory study=NAME [study.KEY=VALUE ...] [device=cuda] [results_dir=FOLDER]

  sparsebench theory study=NAME --cfg job      every setting with its value
  sparsebench sweep study=NAME study.seed=0,1  one study for every combination of comma-separated values

studies:"""

_failed: list[Exception] = []
_collected: list[bool] = []
"""Not empty where the process that runs a study is the command's own, which raises what failed at its end."""


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="theory")
def _task(cfg: DictConfig) -> None:
    """One study; also what launchers send to other processes."""
    job = HydraConfig.get()
    choices = dict(job.runtime.choices)
    try:
        study(cfg, choices, list(job.overrides.task))
    except (SettingError, RunError, OSError) as error:
        if not cfg.wait and not isinstance(error, RunLockedError):  # a launcher looks for it there
            fail(expanded(cfg.results_dir), study_id(cfg, choices), error)
        if job.mode == hydra.types.RunMode.MULTIRUN:  # the others go on
            print(f"sparsebench: {' '.join(_as_typed(job.overrides.task))}: {error}", file=sys.stderr)
            if not _collected:
                raise
        _failed.append(error)


def study(cfg: DictConfig, choices: Mapping[str, str | None], overrides: list[str]) -> StudyFolder:
    """Make, resume or find finished the study that ``cfg`` describes.

    Args:
        cfg: The composed config.
        choices: Config group -> chosen option.
        overrides: Of the command line, to name the command that makes the study again.

    Raises:
        SettingError: A setting is wrong; nothing has been written.
    """
    if choices["device"] == "ddp":
        raise SettingError("device", "ddp", "auto, cpu or cuda: a study is one process")
    validate_study(cfg, choices)
    name, results = str(choices[STUDY]), expanded(cfg.results_dir)
    definition: Study = build(cfg.study, "study")
    device: Device = build(cfg.device, "device")
    require_int("threads", cfg.threads, least=1)
    folder = StudyFolder(results / f"{name}-{study_id(cfg, choices)}")
    if not cfg.overwrite and _is_finished(folder):
        return folder
    points = definition.points()  # may read data that is not there: before anything is written
    with (
        run_lock(results, study_id(cfg, choices), cfg, device) as (lease, waited),
        StopSignals() as signals,
    ):
        if (waited or not cfg.overwrite) and _is_finished(folder):
            return folder
        if cfg.overwrite:
            folder.clear()
        folder.open()
        origin = _origin(name, definition, device, overrides)
        folder.write_config(OmegaConf.to_yaml(cfg, resolve=True))
        folder.write_provenance(origin)
        started = time.monotonic()
        with _threads(cfg.threads):
            tables = _computed(name, definition, points, device, folder, signals)
        checks = list(definition.checks(tables))
        check_still_held(lease)
        _write(folder, name, definition, tables, checks, lease)
        folder.write_provenance({**origin, "seconds": round(time.monotonic() - started, 1)})
        folder.write_checks({"study": name, **asdict(check)} for check in checks)
    show(folder)
    return folder


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Inside, linear algebra uses so many threads of a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)


def _origin(name: str, definition: Study, device: Device, overrides: Sequence[str]) -> dict[str, Any]:
    """What produces the study."""
    entry = next(entry for entry in listing.entries("theory") if entry.name == name)
    return {
        "study": name,
        "shows": entry.description,
        "paper": entry.reference,
        "version": sparsebench.__version__,
        "started": provenance.now(),
        "command": shlex.join(["sparsebench", "theory", *_as_typed(overrides)]),
        "device": device.label,
        "commit": provenance.git_state(),
        "libraries": provenance.libraries(),
        "machine": provenance.machine(),
        "tables": {table: list(columns) for table, columns in definition.tables.items()},
    }


def _computed(
    name: str,
    definition: Study,
    points: Sequence[Point],
    device: Device,
    folder: StudyFolder,
    signals: StopSignals,
) -> Tables:
    """The rows of all grid points; those computed before are read."""
    tables: Tables = {table: [] for table in definition.tables}
    with tqdm(points, desc=name, unit="point", disable=None, dynamic_ncols=True) as bar:
        for point in bar:
            bar.set_postfix_str(" ".join(f"{key}={value}" for key, value in point.items()))
            if folder.known(point) is None:
                folder.keep(point, definition.rows(point, device.torch_device))
            for table, rows in (folder.known(point) or {}).items():  # as they are after a resume, to the bit
                tables[table] += rows
            if signals.pending:
                signals.act()
    return tables


def _write(
    folder: StudyFolder,
    name: str,
    definition: Study,
    tables: Tables,
    checks: Sequence[Check],
    lease: Lease | None,
) -> None:
    """Tables and figures."""
    import pandas as pd

    from sparsebench.report.studies import files

    for table, columns in definition.tables.items():
        folder.write_table(table, columns, tables[table])
    (folder.path / "figures").mkdir(exist_ok=True)
    frames = {t: pd.DataFrame(tables[t], columns=list(columns)) for t, columns in definition.tables.items()}
    for file, content in files(name, frames):
        check_still_held(lease)
        with atomic(folder.path / "figures" / file) as opened:
            opened.write(content)


def _is_finished(folder: StudyFolder) -> bool:
    if folder.finished:
        print(f"{folder.path}: already finished; nothing done (overwrite=true to do it again)")
        show(folder)
    return folder.finished


def show(folder: StudyFolder) -> None:
    """Print how the checks went; those that failed in full."""
    checks = folder.checks()
    failed = [row for row in checks if row["passed"] != "True"]
    print(f"{folder.path}: {len(checks) - len(failed)} of {len(checks)} checks passed")
    for row in failed:
        numbers = f"predicted {float(row['predicted']):.6g}, measured {float(row['measured']):.6g}"
        if float(row["standard_error"]):
            numbers += f" ± {float(row['standard_error']):.2g}"
        print(f"  failed: {row['check']}, {row['case']}: {numbers}, tolerance {float(row['tolerance']):g}")


def main(arguments: Sequence[str], sweep: bool = False) -> int:
    """Run ``sparsebench theory ARGUMENTS``, or one study for every combination with ``sweep``.

    Returns:
        The exit status, 0: also where a check failed, which is a result.

    Raises:
        SettingError: A setting is wrong.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed with a traceback
    overrides = [expand_shorthand(override) for override in renamed.update_overrides(arguments)]
    overrides = [
        f"{STUDY}={override[6:]}" if override.startswith("study=") else override for override in overrides
    ]
    if not any(override.startswith(f"{STUDY}=") for override in overrides):
        if not {"--help", "-h"} & set(overrides):
            raise SettingError("study", None, one_of(options("theory"), ""))
        print(HELP)
        return listing.main(["theory"])
    if sweep and not INFO_FLAGS & set(overrides):
        overrides.append("--multirun")
    register()
    program, sys.argv = sys.argv, ["sparsebench", *overrides]
    try:
        _failed.clear()
        _collected.append(True)
        _task()
        if _failed and "--multirun" in overrides:
            raise RunError(f"{len(_failed)} studies failed; the first: {_failed[0]}")
        if _failed:
            raise _failed[0]
    except Exception as error:
        explained = explain(error, [override for override in overrides if "=" in override], "theory")
        if explained is None:
            raise
        if explained.setting == "theory":
            explained = SettingError("study", explained.given, explained.allowed)
        raise explained from error
    finally:
        sys.argv = program
        _collected.clear()
    return 0


def _as_typed(overrides: Sequence[str]) -> list[str]:
    """The overrides as they are written on the command line."""
    return [override.replace(f"{STUDY}=", "study=") for override in overrides]
