"""What a run says it is: ids, folder, run.json, versions of the code, and the command."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import sparsebench
from sparsebench.config.build import format_override
from sparsebench.config.identity import hash_of, id_of
from sparsebench.records import provenance, schema
from sparsebench.records.settings import NUMERICS, typed_config_dirs
from sparsebench.runs.audit.findings import Report, same
from sparsebench.runs.numerics import CHANGED_AT, as_text
from sparsebench.runs.reopen import FinishedRun

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}|")


def check_names(run: FinishedRun, report: Report) -> None:
    """The run's ids are hashes of its config; folder, row and run.json agree on them and on the code."""
    report.compare({"schema": schema.SCHEMA})
    if missing := [column for column in schema.SUMMARY_COLUMNS if column not in run.row]:
        report.fail("schema", f"{schema.SCHEMA}", f"no column {', '.join(missing)}")
    if run.opened is not None:
        run_id, changed = run.opened.run_id, [format_override(*item) for item in run.opened.changed.items()]
        what = f" ({' '.join(changed) or 'all defaults'} with the defaults of this version)"
        report.compare({"run_id": run_id, "config_hash": run.opened.config_hash}, why=what)
    else:
        run_id = run.row.get("run_id", "")
    if not run.path.name.endswith(f"-{run_id}"):
        report.fail("folder", run.path.name, f"...-{run_id}")
    _check_identity(run, report)
    _check_settings(run, report)
    _check_provenance(run, report)
    _check_numerics(run, report)
    _check_code(run, report)


def _check_identity(run: FinishedRun, report: Report) -> None:
    """The identity in run.json hashes to the ids, whether or not this version can compute it; newer runs have it."""
    found, why = run.provenance.get("identity"), f" (identity in {schema.PROVENANCE})"
    if found is None:
        return
    if not isinstance(found, dict) or not isinstance(found.get("changed"), dict):
        report.fail(f"{schema.PROVENANCE} identity", found, "choices and changed settings")
        return
    ids = {"run_id": id_of(found, run.training), "config_hash": hash_of(found, run.training)}
    report.compare(ids, why=why, full=False)
    dirs = typed_config_dirs(run.row.get("command", ""))
    if (claimed := run.provenance.get("config_dirs", dirs)) != dirs:
        report.fail(f"{schema.PROVENANCE} config_dirs", claimed, f"{dirs} (command)")


def _check_settings(run: FinishedRun, report: Report) -> None:
    """The columns that repeat the config, of those that are known without building anything."""
    config = run.settings
    length = config.get("epochs"), config.get("extend", 1.0)
    if all(isinstance(value, (int, float)) for value in length):
        report.compare({"epochs": max(round(length[0] * length[1]), 1)})
    report.compare(
        {
            "method": run.choices["prune"],
            **{name: config.get(name) for name in ("seed", "batch_size", "precision")},
        }
    )


def _check_provenance(run: FinishedRun, report: Report) -> None:
    """What run.json repeats of the row, and the forms of what nothing else tells."""
    found, why = run.provenance, f" ({schema.PROVENANCE})"
    columns = (*schema.SUMMARY_COLUMNS, *schema.HASHES)
    report.compare({c: found[c] for c in columns if c in found}, why=why, full=False)
    if not TIME.fullmatch(run.row.get("started", "")):
        report.fail("started", run.row.get("started"), "a time such as 2026-01-31T23:59:59Z")
    for time in found.get("resumed") or ():
        if not TIME.fullmatch(str(time)) or str(time) < run.row.get("started", ""):
            report.fail(f"{schema.PROVENANCE} resumed", time, f"a time after {run.row.get('started')}")
    known = {"ranks": run.ranks, "torch": run.row.get("torch"), "threads": found.get("threads")}
    for name, value in (found.get("numerics") or {}).items():
        if name in known and known[name] is not None and value != known[name]:
            report.fail(f"{schema.PROVENANCE} numerics", f"{name} {value}", known[name])
    version = str((found.get("libraries") or {}).get("torch", ""))
    if version and not run.row.get("torch", "").startswith(version):
        report.fail(f"{schema.PROVENANCE} libraries", f"torch {version}", run.row.get("torch"))
    parts = found.get("trainings")
    if parts is not None and (len(parts) <= run.training or parts[run.training] != run.row.get("run_id")):
        report.fail(f"{schema.PROVENANCE} trainings", parts, f"{run.row.get('run_id')} at {run.training}")


def _check_numerics(run: FinishedRun, report: Report) -> None:
    kept: dict[str, Any] = run.provenance.get("numerics") or {}
    why = f" ({schema.PROVENANCE})"
    device = run.settings.get("device")
    configured = device if isinstance(device, dict) else {}
    for name in NUMERICS:  # no part of the hashes
        places = {name: run.settings.get(name), f"device.{name}": configured.get(name)}
        for place, value in places.items():
            if name in kept and kept[name] != value and (value is not None or place == name):
                report.fail(f"{schema.CONFIG} {place}", value, f"{kept[name]} ({schema.PROVENANCE})")
    for name, value in (("threads", kept.get("threads")), ("name", kept.get("device"))):
        if value is not None and configured.get(name, value) not in (value, "auto", None):
            report.fail(f"{schema.CONFIG} device.{name}", configured[name], f"{value} ({schema.PROVENANCE})")
    if kept and "numerics" in run.row:
        report.compare({"numerics": as_text(kept)}, why=why, full=False)
        kind, label = str(kept.get("device")), run.row.get("device", "")
        if (kind == "cpu") != label.endswith("cpu"):
            report.fail("device", label, f"{kind}{why}")
    if CHANGED_AT in run.row:
        steps = run.provenance.get(CHANGED_AT, [])
        report.compare({CHANGED_AT: " ".join(map(str, steps))}, why=why, full=False)
        if steps and not run.provenance.get("resumed"):
            report.fail(CHANGED_AT, run.row[CHANGED_AT], f"never resumed{why}")


def _check_code(run: FinishedRun, report: Report) -> None:
    commit, dirty = run.row.get("git_commit", ""), run.row.get("git_dirty", "")
    if not COMMIT.fullmatch(commit):
        report.fail("git_commit", commit, "the 40 digits of a commit, or nothing")
    elif dirty not in (("True", "False") if commit else ("",)):
        report.fail("git_dirty", dirty, "True or False, or nothing without a commit")
    elif commit and _version_at(commit) is None:
        report.note("git_commit", commit, "no commit of this checkout")
    elif commit and dirty == "False" and not same(run.row.get("version"), _version_at(commit)):
        report.fail("version", run.row.get("version"), f"{_version_at(commit)} (at {commit[:10]})")
    if dirty == "True":
        report.note("git_dirty", "True", "made by code that differs from the commit")


def same_code(run: FinishedRun) -> bool:
    """Whether a run was made by the version of the code that runs now, as far as it says."""
    here = {"git_commit": _commit_here(), "version": sparsebench.__version__}
    return all(run.row.get(name) == value for name, value in here.items())


@cache
def _commit_here() -> str:
    return provenance.git_state()[0]


@cache
def _version_at(commit: str) -> str | None:
    """The version of the package at a commit; ``None`` if this is no checkout that has it."""
    root = Path(sparsebench.__file__).resolve().parents[1]
    show = ["git", "-C", str(root), "show", f"{commit}:sparsebench/__init__.py"]
    try:
        if not (root / ".git").exists():
            return None
        done = subprocess.run(show, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'__version__ = "([^"]+)"', done.stdout)
    return found[1] if done.returncode == 0 and found else None
