"""The right to work on a run: one holder at a time, on a file system that several machines share."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsebench.files import write_json

FOLDER = ".state"
"""Of a results folder: leases, and what is known of runs that failed."""

TIMEOUT = 90.0
"""Seconds without a heartbeat after which a holder on another machine is taken for dead, if it names no others."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, by its file.

    Args:
        path: The file.
        content: What the holder wrote.
        heartbeat: Time of its last heartbeat, by the clock of the file system.
    """

    path: Path
    content: Mapping[str, Any]
    heartbeat: float

    def alive(self, now: float) -> bool:
        """Whether the holder has to be respected, at a time ``now`` by the clock of the file system."""
        if self.content.get("released"):
            return False
        if self.content.get("place") == _place():
            return _running(self.content.get("pid"), self.content.get("process_start"))
        job, restart = _slurm_job()
        if job and self.content.get("slurm_job") == job and self.content.get("slurm_restart", 0) < restart:
            return False  # Slurm starts a job again only after it has ended
        return now - self.heartbeat < self.content.get("timeout", TIMEOUT)

    def __str__(self) -> str:
        where = f"process {self.content.get('pid', '?')} on {self.content.get('host', '?')}"
        return where + (f" (Slurm job {job})" if (job := self.content.get("slurm_job")) else "")


class Lease:
    """A lease that this process holds, until :meth:`release`, kept by a thread that renews it.

    The files are ``NAME.lease.1``, ``.2``, ...: the highest number holds. To take over from a holder that is dead is to
    make the next number, which a file system lets one process do (``O_EXCL``); a holder that was only asleep finds the
    higher number at its next heartbeat, and knows that it has lost. Times are compared by the clock of the file
    system alone. A dead process of the same machine, and an earlier start of the same Slurm job, are known to be dead
    at once; of others, after ``timeout`` seconds without a heartbeat.

    Args:
        path: The file of this lease.
        timeout: Seconds; six heartbeats are made in it.
    """

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        self.path, self.timeout = path, timeout
        self.lost = False
        self.progress: Callable[[], Mapping[str, Any]] = dict
        job, restart = _slurm_job()
        self._content: dict[str, Any] = {
            "host": socket.gethostname(), "pid": os.getpid(),
            "place": _place(), "process_start": _process_start(os.getpid()),
            **({"slurm_job": job, "slurm_restart": restart} if job else {}), "since": time.time(), "timeout": timeout,
        }  # fmt: skip
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat_loop, name="lease", daemon=True)

    @classmethod
    def claim(cls, folder: Path, name: str, timeout: float = TIMEOUT) -> Lease | Holder:
        """A lease on ``name``, or who holds it.

        Args:
            folder: Where the files are; made if missing.
            name: Of what is held.
            timeout: See the class.
        """
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            before = _newest(folder, name)
            number = 1
            if before is not None:
                if before.alive(_clock(folder)):
                    return before
                number = _number(before.path) + 1
            lease = cls(folder / f"{name}.lease.{number}", timeout)
            try:
                os.close(os.open(lease.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                continue  # somebody was faster
            newest = _newest(folder, name)
            outdated = newest is not None and _number(newest.path) > number
            if outdated or (before is not None and _read(before.path) != before):
                lease.path.unlink(missing_ok=True)  # we looked long ago: others have held it since
                continue
            lease._write()
            for path in folder.glob(f".{name}.lease.*.tmp"):
                path.unlink(missing_ok=True)  # of killed holders
            for path in _leases(folder, name):
                if _number(path) < number:
                    path.unlink(missing_ok=True)
            lease._thread.start()
            return lease

    @property
    def holder(self) -> Holder:
        """This process, as others see it."""
        return Holder(self.path, self._content, time.time())

    def renew(self) -> bool:
        """A heartbeat now; whether the lease is still held."""
        newest = _newest(self.path.parent, self.path.name.rpartition(".lease.")[0])
        if newest is None or newest.path != self.path:
            self.lost = True
            self.path.unlink(missing_ok=True)
        else:
            self._write()
        return not self.lost

    def release(self) -> None:
        """Let others have it."""
        self._ended.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _write(self) -> None:
        write_json(self.path, {**self._content, **self.progress()})

    def _heartbeat_loop(self) -> None:
        while not self._ended.wait(self.timeout / 6) and not self.lost:
            with suppress(OSError):  # a file system that is away for a while
                self.renew()


def holders(folder: Path) -> dict[str, Holder]:
    """Name -> its living holder, of all leases in ``folder``; writes nothing."""
    found: dict[str, Holder] = {}
    now = time.time()  # of this machine: good enough to be shown
    for path in sorted(folder.glob("*.lease.*"), key=_number) if folder.is_dir() else ():
        if (holder := _read(path)) is not None:
            found[path.name.rpartition(".lease.")[0]] = holder
    return {name: holder for name, holder in found.items() if holder.alive(now)}


def _newest(folder: Path, name: str) -> Holder | None:
    while paths := _leases(folder, name):
        if (holder := _read(paths[-1])) is not None:
            return holder
    return None


def _leases(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}.lease.*"), key=_number)


def _number(path: Path) -> int:
    tail = path.name.rpartition(".")[2]
    return int(tail) if tail.isdigit() else 0


def _read(path: Path) -> Holder | None:
    """What a file says; ``None`` if it is gone. One that is just being made says nothing yet, but has a time."""
    try:
        with open(path, "rb") as file:  # opened, for a network file system looks for news then
            text, heartbeat = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    try:
        content = json.loads(text)
    except ValueError:
        content = {}
    return Holder(path, content if isinstance(content, dict) else {}, heartbeat)


def _clock(folder: Path) -> float:
    """The present time by the clock of the file system."""
    probe = folder / f".clock.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _place() -> str:
    """Where process numbers mean the same: a machine since its start, or a container on it."""
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        with suppress(OSError):
            parts.append(read())
    return " ".join(parts)


def _process_start(pid: int) -> str:
    """When a process was started, in the kernel's own count; empty where that is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _running(pid: Any, start: Any) -> bool:
    """Whether the process of this machine is still the one that was started then."""
    if not isinstance(pid, int):
        return True
    if start:
        return _process_start(pid) == start
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _slurm_job() -> tuple[str, int]:
    """(number of the Slurm job with its cluster, how often it was started again)."""
    job, cluster = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_CLUSTER_NAME", "")
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return (re.sub(r"^@", "", f"{cluster}@{job}") if job else "", int(restart) if restart.isdigit() else 0)
