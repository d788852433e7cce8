#!/usr/bin/env python3
"""Mutation testing: breaks the source in small ways, one at a time, and checks whether a test fails.

    scripts/mutate.py                       all of scripts/mutations.yaml: a quarter of an hour of one core
    scripts/mutate.py --near                only with the tests listed for it: faster, more survivors
    scripts/mutate.py --only clip_before_masking last_step_not_audited
    scripts/mutate.py --list

The repository (what git tracks or would track, as it lies there) is copied into a temporary folder for each mutation,
and nothing else is modified. The tests listed for the mutation run first, then, if none of them fails, the
default selection. In the end the tests that failed run once more on a copy that nothing has been changed in: one that
fails there too has noticed nothing. Status 1 if any mutation was not killed.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Mutation:
    """One line of the source, broken."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # likely to notice

    def broken(self, root: Path) -> str:
        """The text of the broken file below ``root``, which still compiles."""
        text = (root / self.file).read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.file} has {count} times, not once: {self.old}")
        text = text.replace(self.old, self.new)
        compile(text, self.file, "exec")
        return text


@dataclass(frozen=True)
class Outcome:
    """Result of a mutation: killed, survived, timed out, or invalid if no test could run."""

    mutation: Mutation
    result: str
    test: str  # that noticed
    seconds: float
    output: str = ""


def read(table: Path) -> list[Mutation]:
    """The mutations of a YAML file."""
    rows = yaml.safe_load(table.read_text(encoding="utf-8"))
    found = [Mutation(**{**row, "tests": tuple(row["tests"].split())}) for row in rows]
    if twice := {m.name for m in found if sum(m.name == other.name for other in found) > 1}:
        raise ValueError(f"{table}: two mutations are called {', '.join(sorted(twice))}")
    return found


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of the repository in a temporary folder."""
    listed = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="mutated-") as folder:
        for name in filter(None, names):
            if (root / name).is_file():  # and not deleted since
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, Path(folder) / name)
        yield Path(folder)


def pytest(root: Path, argv: Sequence[str], limit: float | None) -> tuple[int | None, str]:
    """(status, output) of pytest in ``root``; the status is ``None`` if it took longer than ``limit`` seconds."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *argv]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # no test needs one; finding them takes longer than most tests
    }
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that a test has started
        return None, process.communicate()[0]
    return process.returncode, output


def attempt(mutation: Mutation, root: Path, near: bool, limit: float) -> Outcome:
    """Break a copy of ``root`` and run the tests on it."""
    started = time.monotonic()

    def outcome(result: str, test: str = "", output: str = "") -> Outcome:
        return Outcome(mutation, result, test, round(time.monotonic() - started, 1), output)

    with copied(root) as folder:
        (folder / mutation.file).write_text(mutation.broken(root), encoding="utf-8")
        for argv in [mutation.tests] if near else [mutation.tests, ()]:
            status, output = pytest(folder, ["-x", *argv], limit)
            if status is None:
                return outcome("timed out", output=output)
            if status == 1 and (failed := FAILED.search(output)):
                return outcome("killed", failed[1])
            if status != 0:  # not a test that failed but no test at all
                return outcome("invalid", output=output)
    return outcome("survived")


def checked(outcomes: Sequence[Outcome], root: Path) -> list[Outcome]:
    """``outcomes``, where a test that fails without any mutation has killed none."""
    tests = sorted({outcome.test for outcome in outcomes if outcome.result == "killed"})
    if not tests:
        return list(outcomes)
    with copied(root) as folder:
        status, output = pytest(folder, tests, None)
    if status not in (0, 1):
        raise RuntimeError(f"the tests that failed cannot be run without any mutation:\n{output}")
    failing = set(FAILED.findall(output))
    return [
        replace(o, result="invalid", output=f"{o.test} fails without it") if o.test in failing else o
        for o in outcomes
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutations")
    parser.add_argument("--near", action="store_true", help="only the tests listed for each")
    parser.add_argument("--list", action="store_true", help="print their names and what they change")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutations at a time (default: 1)")
    parser.add_argument(
        "--limit",
        type=float,
        default=1800,
        metavar="SECONDS",
        help="longest time of one run of pytest (default: 1800)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a CSV")
    parser.add_argument("--table", type=Path, default=ROOT / "scripts/mutations.yaml", metavar="FILE")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="the repository")
    options = parser.parse_args(arguments)
    mutations = read(options.table)
    if unknown := sorted(set(options.only or ()) - {mutation.name for mutation in mutations}):
        parser.error(f"no such mutation: {', '.join(unknown)}")
    chosen = [m for m in mutations if options.only is None or m.name in options.only]
    if options.list:
        for mutation in chosen:
            print(f"{mutation.name}  {mutation.file}\n    - {mutation.old}\n    + {mutation.new}")
        return 0

    def follow(mutation: Mutation) -> Outcome:
        outcome = attempt(mutation, options.root, options.near, options.limit)
        show(outcome)
        return outcome

    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = checked(list(pool.map(follow, chosen)), options.root)
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "file", "result", "test", "seconds"])
            writer.writerows(
                (o.mutation.name, o.mutation.file, o.result, o.test, o.seconds) for o in outcomes
            )
    alive = [outcome for outcome in outcomes if outcome.result != "killed"]
    print(
        f"{len(outcomes) - len(alive)} of {len(outcomes)} mutations killed"
        + (", not these:" if alive else "")
    )
    for outcome in alive:
        show(outcome)
    return 1 if alive else 0


def show(outcome: Outcome) -> None:
    mutation = outcome.mutation
    print(
        f"{outcome.result:<9}  {outcome.seconds:6.1f} s  {mutation.name:<40}  {outcome.test or mutation.file}",
        flush=True,
    )
    if outcome.result in ("invalid", "timed out"):
        print("\n".join(f"    {line}" for line in outcome.output.splitlines()[-15:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
