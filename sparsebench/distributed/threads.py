"""The default number of CPU threads of a run. Imports nothing heavy."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from statistics import median

MOST = 8
"""Most threads by default: the networks here are small, and more threads spend their time waiting for each other."""

SAMPLES, PAUSE = 5, 0.004
"""Looks at the running processes, and seconds between two."""


@cache
def default_threads() -> int:
    """The number that a null ``device.threads`` stands for; chosen once per process, so by a sweep for all its jobs."""
    return threads_of_jobs(1)


def threads_of_jobs(jobs: int) -> int:
    """The number of threads of each of so many jobs at a time on this machine."""
    return choose_threads(os.environ, available_cores(), busy_cores(), jobs)


def choose_threads(environ: Mapping[str, str], cores: int, busy: float, jobs: int = 1) -> int:
    """``OMP_NUM_THREADS`` where it is set, else a job's part of the free cores, at least 1 and at most :data:`MOST`.

    Args:
        environ: The environment.
        cores: Cores that this process may use.
        busy: How many of them others keep busy.
        jobs: Number of jobs that share the free ones.

    Example:
        >>> choose_threads({}, 16, 0.0), choose_threads({}, 4, 1.2), choose_threads({"OMP_NUM_THREADS": "3"}, 16, 9.0)
        (8, 3, 3)
    """
    given = environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list is one number per nested level
    if given.isdigit() and int(given) > 0:
        return int(given)
    return min(max((cores - round(busy)) // jobs, 1), MOST)


def available_cores() -> int:
    """Cores that this process may use: its affinity, and the CPU quota of its control group (Linux, version 2)."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return min(cores, max(int(quota) // int(period), 1)) if quota.isdigit() and period.isdigit() else cores


def busy_cores() -> float:
    """How many of :func:`available_cores` other processes keep busy, in 20 milliseconds.

    The processes that run now, not the load average, which still counts what ended a minute ago, and hardly what began
    a second ago. Where only some of the machine's cores are available, so is only that part of its processes.
    """
    everything = os.cpu_count() or 1
    counts = []
    for _ in range(SAMPLES):
        if (count := _running()) is None:
            break
        counts.append(count - 1)  # without this process
        time.sleep(PAUSE)
    if not counts:  # no Linux
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return load * available_cores() / everything
    return max(median(counts), 0) * available_cores() / everything


def _running() -> int | None:
    """Threads that run or wait for a core, this one included; ``None`` where the system does not tell."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return None
