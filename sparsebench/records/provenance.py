"""Provenance of results: code version, libraries, machine, command."""

from __future__ import annotations

import hashlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparsebench.paths import installed_configs

LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "scikit-learn",
    "hydra-core",
    "omegaconf",
    "safetensors",
)


DIGITS = 10
"""Hexadecimal digits of the hash of a source file."""


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def git_state() -> tuple[str, bool | str]:
    """(commit, whether tracked files differ from it) of the running checkout; empty strings if there is none."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "", ""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return commit, bool(git("status", "--porcelain", "--untracked-files=no")) if commit else ""
    except (OSError, subprocess.TimeoutExpired):
        return "", ""


TRAINING_CODE = (
    "clock.py",
    "data/**/*.py",
    "distributed/**/*.py",
    "models/**/*.py",
    "optim/**/*.py",
    "pruning/**/*.py",
    "runs/build.py",
    "runs/training.py",
    "training/**/*.py",
)
"""Files of this package that determine what a training computes."""

STUDY_CODE = ("models/**/*.py", "runs/study.py", "theory/**/*.py")
"""Files of this package that determine what a theory study computes."""


def code(patterns: Iterable[str] = TRAINING_CODE) -> dict[str, str]:
    """File -> hash of its content, of the files of this package that match ``patterns``."""
    package = Path(__file__).resolve().parents[1]
    files = sorted({path for pattern in patterns for path in package.glob(pattern)})
    return {
        path.relative_to(package).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]
        for path in files
    }


def command(overrides: list[str]) -> str:
    """The command line that reproduces the run."""
    return shlex.join(["sparsebench", "train", *overrides])


def libraries() -> dict[str, str]:
    """Installed versions of the libraries, including packages that provide methods."""
    found = {}
    for name in [*LIBRARIES, *(package for package, _ in installed_configs())]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def machine() -> dict[str, Any]:
    """The machine and interpreter."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "executable": Path(sys.executable).name,
    }
