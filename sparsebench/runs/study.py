"""One theory study: from a config to a folder of tables, checks and figures."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import sparsebench
from sparsebench.config.build import build
from sparsebench.config.compose import STUDY
from sparsebench.config.identity import study_id
from sparsebench.config.open import validate_study
from sparsebench.distributed.device import Device
from sparsebench.errors import SettingError, printable, reason, require_int
from sparsebench.files import atomic
from sparsebench.paths import expanded, file_name
from sparsebench.records import provenance
from sparsebench.records.lease import Lease
from sparsebench.records.study_folder import StudyFolder
from sparsebench.runs.earlier import study_made_anew
from sparsebench.runs.run_lock import Make, check_still_held, find_or_make, say_finished
from sparsebench.theory.study import Point, Study, Tables
from sparsebench.training.signals import StopSignals
from sparsebench.training.steps import Steps, finish

Draw = Callable[[str, Study, Tables], Iterable[tuple[str, bytes]]]
"""(name of a study, its definition, its tables) -> (file, content) of every figure; figures are the report's."""


def run_study(
    cfg: DictConfig,
    choices: Mapping[str, str | None],
    overrides: Sequence[str],
    about: Mapping[str, str],
    draw: Draw,
) -> StudyFolder:
    """Run or resume the study that ``cfg`` describes, unless it is finished, and print the results of its checks.

    Args:
        cfg: The composed config.
        choices: Config group -> chosen option.
        overrides: As typed on the command line, to record the command that reproduces the study.
        about: Recorded with the study: what it ``shows``, and its ``paper``.
        draw: Makes its figures.

    Raises:
        SettingError: A setting is wrong; nothing has been written.
    """
    if choices["device"] == "ddp":
        raise SettingError("device", "ddp", "auto, cpu or cuda: a study is one process")
    validate_study(cfg, choices)
    name, identity = str(choices[STUDY]), study_id(cfg, choices)
    definition: Study = build(cfg.study, "study")
    device: Device = build(cfg.device, "device")
    require_int("threads", cfg.threads, least=1)
    folder = StudyFolder(expanded(cfg.results_dir, "results_dir") / file_name(f"{name}-{identity}"))
    cfg.overwrite = cfg.overwrite or study_made_anew(folder.path, cfg, device.label)

    def find() -> StudyFolder | None:
        if not folder.finished:
            return None
        say_finished(folder.path)
        show(folder)
        return folder

    def prepare() -> Make[StudyFolder]:
        points = definition.points()  # raises if required data are missing

        def make(lease: Lease | None, signals: StopSignals) -> Steps[StudyFolder]:
            if cfg.overwrite:
                folder.clear()
            folder.open()
            origin = _origin(name, definition, device, overrides, about)
            folder.write_config(OmegaConf.to_yaml(cfg, resolve=True))
            folder.write_provenance(origin)
            started = time.monotonic()
            with _threads(cfg.threads):
                tables = yield from _computed(name, definition, points, device, folder, signals)
            checks = list(definition.checks(tables))
            check_still_held(lease)
            _write(folder, definition, tables, draw(name, definition, tables), lease)
            folder.write_provenance({**origin, "seconds": round(time.monotonic() - started, 1)})
            folder.write_checks({"study": name, **asdict(check)} for check in checks)
            show(folder)
            return folder

        return make

    return finish(find_or_make(identity, cfg, device, find, prepare))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Limit linear algebra on the CPU to ``number`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)


def _origin(
    name: str, definition: Study, device: Device, overrides: Sequence[str], about: Mapping[str, str]
) -> dict[str, Any]:
    """Provenance of the study."""
    return {
        "study": name,
        "shows": about["shows"],
        "paper": about["paper"],
        "version": sparsebench.__version__,
        "started": provenance.now(),
        "command": shlex.join(["sparsebench", "theory", *overrides]),
        "device": device.label,
        "commit": provenance.git_state(),
        "torch": torch.__version__,
        "code": provenance.code(provenance.STUDY_CODE),
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
) -> Steps[Tables]:
    """The rows of all grid points; existing ones are read."""
    tables: Tables = {table: [] for table in definition.tables}
    with tqdm(points, desc=name, unit="point", disable=None, dynamic_ncols=True) as bar:
        for point in bar:
            bar.set_postfix_str(" ".join(f"{key}={value}" for key, value in point.items()))
            if folder.known(point) is None:
                folder.keep(point, definition.rows(point, device.torch_device))
            for table, rows in (
                folder.known(point) or {}
            ).items():  # read back, so that a resumed study has bitwise the same rows
                tables[table] += rows
            if signals.pending:
                signals.act()
            yield point
    return tables


def _write(
    folder: StudyFolder,
    definition: Study,
    tables: Tables,
    figures: Iterable[tuple[str, bytes]],
    lease: Lease | None,
) -> None:
    """Tables and figures."""
    for table, columns in definition.tables.items():
        folder.write_table(table, columns, tables[table])
    (folder.path / "figures").mkdir(exist_ok=True)
    for file, content in figures:
        check_still_held(lease)
        with atomic(folder.path / "figures" / file_name(file)) as opened:
            opened.write(content)


def show(folder: StudyFolder) -> None:
    """Print a summary of the checks, and the failed ones in full."""
    try:
        checks = folder.checks()
        failed = [row for row in checks if row["passed"] != "True"]
    except (OSError, ValueError, KeyError) as error:
        allowed = f"a study that can be read ({reason(error)}); overwrite=true runs it again"
        raise SettingError("path", folder.path, allowed) from error
    print(printable(f"{folder.path}: {len(checks) - len(failed)} of {len(checks)} checks passed"))
    for row in failed:
        numbers = f"predicted {float(row['predicted']):.6g}, measured {float(row['measured']):.6g}"
        if float(row["standard_error"]):
            numbers += f" ± {float(row['standard_error']):.2g}"
        print(
            printable(
                f"  failed: {row['check']}, {row['case']}: {numbers}, tolerance {float(row['tolerance']):g}"
            )
        )
