"""Merge the runs of several results folders."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from sparsebench.files import read_csv
from sparsebench.records import schema
from sparsebench.records.lease import FOLDER, Holder, Lease
from sparsebench.records.run_folder import RunFolder, is_finished, run_id_of
from sparsebench.records.states import ResultsFolder


def merge(found: Sequence[Path], target: Path, dry_run: bool) -> list[str]:
    """Copy run folders, and print a summary in one line.

    Args:
        found: Folders of finished runs.
        target: Output folder; created if missing.
        dry_run: Copy nothing.

    Returns:
        One line for every run whose results differ.
    """
    here = ResultsFolder(target).folders
    copied = 0
    same = 0
    conflicts = []
    for folder in tqdm(found, desc="merging", unit="run", disable=None, leave=False):
        name = run_id_of(folder)
        there = here.get(name)
        if there is not None and is_finished(there):
            if differing := _differing(folder, there):
                conflicts.append(f"{folder} and {there}: {', '.join(differing)}")
            else:
                same += 1
            continue
        if not dry_run:
            claimed = Lease.claim(target / FOLDER, name)
            if isinstance(claimed, Holder):
                conflicts.append(f"{there or target / folder.name} is held by {claimed}")
                continue
            with claimed:
                _copy(folder, target, there)
        here[name] = folder
        copied += 1
    say = "would be copied" if dry_run else "copied"
    print(f"{target}: {copied} runs {say}, {same} exist with the same result, {len(conflicts)} differ")
    return conflicts


def _copy(folder: Path, target: Path, there: Path | None) -> None:
    """Copy a run folder atomically, replacing an unfinished one."""
    temporary = target / f".{folder.name}.{socket.gethostname()}.{os.getpid()}.tmp"
    shutil.copytree(folder, temporary, ignore=shutil.ignore_patterns("*.pt", "*.tmp"))
    if there is not None:
        RunFolder(target, there.name).clear()
    temporary.rename(target / folder.name)
    RunFolder(target, folder.name).mark()


def _differing(one: Path, other: Path) -> list[str]:
    """The columns in which two results of a run differ, with both values."""
    first, second = (read_csv(folder / schema.SUMMARY)[0] for folder in (one, other))
    same = first.get("numerics") == second.get("numerics") and not _changed(first, second)
    hashes = schema.HASHES if same else schema.REPEATED_HASHES
    columns = [*schema.REPEATED_COLUMNS, *(c for c in hashes if first.get(c) and second.get(c))]
    return [f"{c} {first.get(c)} and {second.get(c)}" for c in columns if first.get(c) != second.get(c)]


def _changed(*rows: Mapping[str, str]) -> bool:
    """Whether any of the runs went on with other numerics than it was begun with."""
    return any(row.get("numerics_changed_at") for row in rows)
