"""Merge the runs of several results folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from sparsebench.errors import SettingError, printable
from sparsebench.files import leads_out, remove, remove_temporary_files, temporary_path, write_csv
from sparsebench.records.copying import copy_folder
from sparsebench.records.damage import DamagedRunError, Report, read_row, read_rows, refuse
from sparsebench.records.lease import FOLDER, Holder, Lease
from sparsebench.records.repeats import REPEATS, differences, numerics, same_numerics
from sparsebench.records.run_folder import RunFolder, is_finished, run_id_of
from sparsebench.records.states import ResultsFolder

Prefer = Literal["FIRST", "LAST"]


@dataclass
class Copies:
    """The finished folders of one run.

    Args:
        results: Folder -> row of the results that are not equal, the first folder of each, in the order of adding.
        last: The folder among them whose result was added last.
        equal: Number of folders with the result of one of them.
    """

    results: dict[Path, Mapping[str, str]] = field(default_factory=dict)
    last: Path = Path()
    equal: int = 0

    def add(self, folder: Path, row: Mapping[str, str]) -> str:
        """Add a folder; returns what its result contradicts, or an empty string."""
        for other, known in self.results.items():
            if known == row or same_numerics(known, row):
                if differing := differences(known, row):
                    return f"{other} and {folder}: {', '.join(differing)}"
                self.equal, self.last = self.equal + 1, other
                return ""
        self.results[folder], self.last = row, folder
        return ""

    def kept(self, prefer: Prefer | None) -> Path:
        """The folder whose result is kept."""
        return self.last if prefer == "LAST" else next(iter(self.results))

    def others(self, prefer: Prefer | None) -> list[Mapping[str, str]]:
        """The rows of the others."""
        return [row for folder, row in self.results.items() if folder != self.kept(prefer)]


def merge(
    found: Sequence[Path],
    target: Path,
    dry_run: bool,
    prefer: Prefer | None = None,
    report: Report = refuse,
) -> list[str]:
    """Copy run folders, and print a summary in one line.

    Two results of a run that were computed with the same numerics have to be equal to the bit. Of results with other
    numerics one is kept, and the rows of the others are written to repeats.csv in the output folder.

    Args:
        found: Folders of finished runs.
        target: Output folder; created if missing.
        dry_run: Copy nothing.
        prefer: Which of several results with other numerics to keep: the first, which is that of ``target`` if it has
            one, or the last.
        report: Called with every run that is damaged and left out; by default it is an error.

    Returns:
        One line for every run whose results differ.

    Raises:
        SettingError: A run was made with several numerics, and ``prefer`` does not say which to keep; nothing has been
            copied.
    """
    here = ResultsFolder(target).folders
    runs, conflicts = _planned(found, target, here, report)
    if prefer is None:
        _refuse_several(runs)
    repeats = [row for run in runs.values() for row in run.others(prefer)]
    if repeats and not dry_run:  # before a run that they are of is replaced
        _write_repeats(target, repeats, [run.results[run.kept(prefer)] for run in runs.values()])
    copied = 0
    for name, run in tqdm(runs.items(), desc="merging", unit="run", disable=None, leave=False):
        kept, there = run.kept(prefer), here.get(name)
        if kept == there:
            continue
        try:
            problem = "" if dry_run else _take(name, kept, target, there)
        except DamagedRunError as error:
            report(kept, error.why)
            continue
        conflicts += [problem] if problem else []
        copied += not problem
    same = sum(run.equal for run in runs.values())
    say = "would be copied" if dry_run else "copied"
    more = f", {len(repeats)} with other numerics in {REPEATS}" if repeats else ""
    counts = f"{copied} runs {say}, {same} exist with the same result, {len(conflicts)} differ{more}"
    print(f"{printable(target)}: {counts}")
    return conflicts


def _planned(
    found: Sequence[Path], target: Path, here: Mapping[str, Path], report: Report
) -> tuple[dict[str, Copies], list[str]]:
    """The results of every run, that of the output folder first, and one line for each that contradicts another."""
    runs: dict[str, Copies] = {}
    conflicts, broken = [], set[str]()
    for folder in found:
        name = run_id_of(folder)
        there = here.get(name)
        try:
            row = read_row(folder).cells
        except DamagedRunError as error:
            report(folder, error.why)
            continue
        if name not in runs and name not in broken and there is not None:
            try:
                if leads_out(there, target):
                    raise DamagedRunError(there, "a link to another folder, which is not followed")
                if is_finished(there):
                    runs.setdefault(name, Copies()).add(there, read_row(there).cells)
            except DamagedRunError as error:
                conflicts.append(f"{there} is there and {error.why}")
                broken.add(name)
        if name not in broken and (conflict := runs.setdefault(name, Copies()).add(folder, row)):
            conflicts.append(conflict)
    return runs, conflicts


def _refuse_several(runs: Mapping[str, Copies]) -> None:
    several = {name: run for name, run in runs.items() if len(run.results) > 1}
    if not several:
        return
    name, run = next(iter(several.items()))
    (one, first), (other, second), *_ = run.results.items()
    changed = differences(first, second)
    what = f" ({', '.join(changed[:3])})" if changed else ""
    raise SettingError(
        "--prefer",
        None,
        f"FIRST or LAST: {len(several)} runs were made more than once, with other numerics, the first {name}: "
        f"{one} with {numerics(first)}, {other} with {numerics(second)}{what}; one is kept, and the row of the other "
        f"goes to {REPEATS}",
    )


def _take(name: str, folder: Path, target: Path, there: Path | None) -> str:
    """Copy a run under its lease; returns who holds it, if anybody does."""
    claimed = Lease.claim(target / FOLDER, name)
    if isinstance(claimed, Holder):
        return f"{there or target / folder.name} is held by {claimed}"
    with claimed:
        _copy(folder, target, there)
    return ""


def _copy(folder: Path, target: Path, there: Path | None) -> None:
    """Copy a run folder so that it appears whole, replacing the one that is there."""
    remove_temporary_files(target)
    temporary, aside = temporary_path(target / folder.name), temporary_path(target / "replaced")
    try:
        copy_folder(folder, temporary)
        if there is not None:
            there.rename(aside)
        temporary.rename(target / folder.name)
    finally:
        remove(temporary)
        remove(aside)
    RunFolder(target, folder.name).mark()


def _write_repeats(
    target: Path, rows: Sequence[Mapping[str, str]], kept: Sequence[Mapping[str, str]]
) -> None:
    """Add rows to the repeats of a folder: each once, and none of a result that is kept."""
    target.mkdir(parents=True, exist_ok=True)
    path = target / REPEATS
    try:
        known: list[Mapping[str, str]] = [*read_rows(path)]
    except FileNotFoundError:
        known = []
    columns = list(dict.fromkeys(column for row in [*rows, *known] for column in row))
    filled = [{column: row.get(column, "") for column in columns} for row in [*known, *rows]]
    excluded = [{column: row.get(column, "") for column in columns} for row in kept]
    unique = {tuple(row.values()): row for row in filled if row not in excluded}
    write_csv(path, columns, unique.values())
