"""The real audit: a run made again from its command, with its numerics, and compared to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from sparsebench.config.stored_command import key_of, read_command
from sparsebench.distributed.threads import available_cores
from sparsebench.errors import RunError, SettingError
from sparsebench.records import schema
from sparsebench.records.run_folder import finished_runs, training_of
from sparsebench.records.settings import NUMERICS
from sparsebench.runs.audit.counts import read_weights
from sparsebench.runs.audit.findings import NOTE, Finding, Report, same
from sparsebench.runs.hashes.weights import weights_hash
from sparsebench.runs.numerics import differences, stored_numerics
from sparsebench.runs.reopen import FinishedRun, read_table

OWN = (
    "data_root",
    "device",
    "workers",
    "save_every",
    "save_seconds",
    "heartbeat_timeout",
    "evaluate",
    *NUMERICS,
)
"""Settings of a stored command that a retraining chooses itself: places, numerics, and what no result depends on."""


class Retraining:
    """Makes runs again in a temporary folder; those of one command once, whose trainings are compared each.

    Args:
        data_root: Folder of the data sets; by default that of ``sparsebench train``.
        evaluations: Whether evaluations are made again too.
    """

    def __init__(self, data_root: Path | None = None, evaluations: bool = False) -> None:
        self.data_root, self.evaluations = data_root, evaluations
        self._made: dict[tuple[str, ...], list[Path]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="sparsebench-retrain-")

    def __enter__(self) -> Retraining:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def check(self, run: FinishedRun) -> list[Finding]:
        """What another execution of the run's command does not confirm."""
        report = Report(run.path.name)
        report.row = run.row
        try:
            again = self._made_again(run)
        except (SettingError, RunError) as error:
            report.unchecked("retrain", error)
            return report.found
        numerics = differences(run.provenance.get("numerics") or {}, stored_numerics([again]))
        if run.row.get("numerics_changed_at"):
            numerics.append(f"numerics changed at {run.row['numerics_changed_at']}")
        if not run.row.get("numerics"):
            numerics.append("its numerics are not recorded")
        differing = Report(run.path.name)
        _compare(run, again, differing)
        if not numerics or not differing.found:
            for finding in differing.found:
                report.fail(finding.column, finding.claimed, finding.found)
            how = "differs" if differing.found else "equal to the bit"
            report.found.append(Finding(run.path.name, NOTE, "retrain", "made again from its command", how))
        else:
            columns = ", ".join(finding.column for finding in differing.found[:5])
            report.unchecked("retrain", f"{columns} differ, and so do numerics: {', '.join(numerics)}")
        return report.found

    def _made_again(self, run: FinishedRun) -> Path:
        """The folder of the same training, made again.

        Raises:
            RunError: It cannot be made here, or fails.
            SettingError: Its command cannot be followed.
        """
        overrides = self._overrides(run)
        if overrides not in self._made:
            place = Path(self._folder.name) / str(len(self._made))
            self._train(overrides, place, run)
            self._made[overrides] = finished_runs(place)
        found = [path for path in self._made[overrides] if (training_of(path) or 0) == run.training]
        if len(found) != 1:
            raise RunError(f"its command makes no training {run.training}")
        return found[0]

    def _overrides(self, run: FinishedRun) -> tuple[str, ...]:
        """What the run is made from again."""
        command = read_command(run.row.get("command", ""), run.trust)
        cfg, choices = command.compose(run.trust)
        settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
        if refused := run.trust.classes(settings, choices):
            raise RunError(
                f"not built without --trust: {'; '.join(f'{k} ({v})' for k, v in refused.items())}"
            )
        if outside := run.trust.files(settings, choices, run.path):
            raise RunError(f"not opened: {'; '.join(f'{k}={v}' for k, v in outside.items())}")
        if run.ranks > 1:
            raise RunError(f"it had {run.ranks} ranks")
        left_out = OWN if not self.evaluations else tuple(name for name in OWN if name != "evaluate")
        kept = [o for o in command.overrides if key_of(o).split(".")[0] not in left_out]
        return (*kept, *self._numerics(run))

    def _numerics(self, run: FinishedRun) -> list[str]:
        kept: Mapping[str, Any] = run.provenance.get("numerics") or {}
        kind = "cpu" if str(run.row.get("device", "")).endswith("cpu") else "cuda"
        if kind == "cuda" and not torch.cuda.is_available():
            raise RunError("it was trained on a GPU, and here is none")
        threads = kept.get("threads", run.provenance.get("threads"))
        if not isinstance(threads, int) or not 0 < threads <= available_cores():
            if kind == "cpu":
                raise RunError(f"it had {threads} threads, and here are {available_cores()} cores")
            threads = 1
        switches = [f"{name}=true" for name in NUMERICS if kept.get(name) is True]
        return [f"device={kind}", f"device.threads={threads}", *switches]

    def _train(self, overrides: tuple[str, ...], place: Path, run: FinishedRun) -> None:
        """Train in a process of its own: threads and deterministic kernels are set for a whole process."""
        more = [f"--config-dir={folder}" for folder in run.trust.config_dirs]
        more += [f"results_dir={place}", "tracker=none", "wait=false"]
        if self.data_root is not None:
            more.append(f"data_root={self.data_root}")
        command = [sys.executable, "-m", "sparsebench", "train", *overrides, *more]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
        if done.returncode and not finished_runs(
            place
        ):  # a run that diverges, or misses its sparsity, has a result
            last = done.stderr.strip().splitlines() or ["it ended without a message"]
            raise RunError(f"training it again failed: {last[-1]}")


def _compare(run: FinishedRun, again: Path, report: Report) -> None:
    """Report everything that must be equal and is not."""
    measured = schema.MEASURED_COLUMNS | {
        "device",
        "version",
        "torch",
        "numerics",
        "numerics_changed_at",
        "replayed_steps",
    }
    (new,) = read_table(again / schema.SUMMARY)
    for column in [column for column in run.row if column not in measured]:
        if column in new and not same(run.row[column], new[column]):
            report.fail(column, run.row[column], f"{new[column]} (made again)")
    for name, key in ((schema.METRICS, "step"), (schema.LAYERS, "layer")):
        before, after = read_table(run.path / name), read_table(again / name)
        if [row[key] for row in before] != [row[key] for row in after]:
            report.fail(f"{name} {key}", f"{len(before)} rows", f"{len(after)} other ones (made again)")
            continue
        for one, other in zip(before, after, strict=True):
            for column in one.keys() - measured:
                if not same(one[column], other.get(column, "")):
                    report.fail(
                        f"{name} {one[key]} {column}", one[column], f"{other.get(column)} (made again)"
                    )
    claimed, found = weights_hash(read_weights(run)), new.get("weights_hash")
    if found and claimed != found:
        report.fail(schema.MODEL, claimed, f"{found} (made again)")
