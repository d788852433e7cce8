"""Leases: exclusive access to a run, on a file system shared by several machines."""

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

from sparsebench.files import (
    make_shared,
    open_new,
    open_plain,
    remove_temporary_files,
    temporary_path,
    write_json,
)

FOLDER = ".state"
"""Subfolder of a results folder with leases and records of failed runs."""

TIMEOUT = 90.0
"""Default seconds without a heartbeat after which a holder on another machine is considered dead."""


@dataclass(frozen=True)
class Holder:
    """The holder of a lease, read from its file.

    Args:
        path: The lease file.
        content: Content of the file.
        heartbeat: Time of its last heartbeat, by the clock of the file system.
    """

    path: Path
    content: Mapping[str, Any]
    heartbeat: float

    def alive(self, now: float) -> bool:
        """Whether the lease is still valid at time ``now`` by the clock of the file system."""
        if self.content.get("released"):
            return False
        if self.content.get("place") == _place():
            return _running(self.content.get("pid"), self.content.get("process_start"))
        job, restart = _slurm_job()
        if job and self.content.get("slurm_job") == job and self._number("slurm_restart", 0) < restart:
            return False  # Slurm restarts a job only after it has ended
        return now - self.heartbeat < self._number("timeout", TIMEOUT)

    def _number(self, name: str, default: float) -> float:
        value = self.content.get(name, default)
        return value if isinstance(value, (int, float)) else default

    def __str__(self) -> str:
        where = f"process {self.content.get('pid', '?')} on {self.content.get('host', '?')}"
        return where + (f" (Slurm job {job})" if (job := self.content.get("slurm_job")) else "")


class Lease:
    """A lease held by this process until :meth:`release`, renewed by a thread.

    The files are ``NAME.lease.1``, ``.2``, ...; the highest number is valid. A process takes over from a dead holder by
    creating the next number, which the file system allows only once (``O_EXCL``); a holder that was merely suspended
    finds the higher number at its next heartbeat and has lost the lease. Times are compared by the clock of the file
    system only. A dead process on the same machine, or an earlier start of the same Slurm job, is detected at once;
    other holders are considered dead after ``timeout`` seconds without a heartbeat.

    Args:
        path: The file of this lease.
        timeout: Seconds; the lease is renewed six times within it.
    """

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        self.path, self.timeout = path, timeout
        self.lost = False
        self.progress: Callable[[], Mapping[str, Any]] = dict
        job, restart = _slurm_job()
        self._content: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "place": _place(),
            "process_start": _process_start(os.getpid()),
            **({"slurm_job": job, "slurm_restart": restart} if job else {}),
            "since": time.time(),
            "timeout": timeout,
        }
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat_loop, name="lease", daemon=True)

    @classmethod
    def claim(cls, folder: Path, name: str, timeout: float = TIMEOUT) -> Lease | Holder:
        """Acquire a lease on ``name``; returns the lease, or its present holder.

        Args:
            folder: Folder of the lease files; created if missing.
            name: Name of the lease.
            timeout: See the class.
        """
        make_shared(folder)
        while True:
            before = _newest(folder, name)
            number = 1
            if before is not None:
                if before.alive(_clock(folder)):
                    return before
                number = _number(before.path) + 1
            lease = cls(folder / f"{name}.lease.{number}", timeout)
            try:
                open_new(lease.path).close()
            except FileExistsError:
                continue  # another process was faster
            newest = _newest(folder, name)
            outdated = newest is not None and _number(newest.path) > number
            if outdated or (before is not None and _read(before.path) != before):
                lease.path.unlink(missing_ok=True)  # outdated: others have held it in the meantime
                continue
            lease._write()
            remove_temporary_files(folder, f".{name}.lease.*.tmp")  # left by killed holders
            for path in _leases(folder, name):
                if _number(path) < number:
                    path.unlink(missing_ok=True)
            lease._thread.start()
            return lease

    @property
    def holder(self) -> Holder:
        """This process as a holder."""
        return Holder(self.path, self._content, time.time())

    def renew(self) -> bool:
        """Send a heartbeat; returns whether the lease is still held."""
        newest = _newest(self.path.parent, self.path.name.rpartition(".lease.")[0])
        if newest is None or newest.path != self.path:
            self.lost = True
            self.path.unlink(missing_ok=True)
        else:
            self._write()
        return not self.lost

    def release(self) -> None:
        """Release the lease."""
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
            with suppress(OSError):  # the file system may be unavailable for a while
                self.renew()


def holders(folder: Path) -> dict[str, Holder]:
    """Name -> live holder of all leases in ``folder``; writes nothing."""
    found: dict[str, Holder] = {}
    now = time.time()  # this machine's clock: precise enough for display
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
    """Read a lease file; ``None`` if it does not exist. A file that was just created is empty but has a time."""
    try:
        with open_plain(path) as file:  # opening it makes a network file system refresh its cache
            text, heartbeat = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    except OSError:  # not ours to read, or no file: as alive as it looks from outside
        try:
            text, heartbeat = b"", path.lstat().st_mtime
        except FileNotFoundError:
            return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = {}
    return Holder(path, content if isinstance(content, dict) else {}, heartbeat)


def _clock(folder: Path) -> float:
    """The present time by the clock of the file system."""
    probe = temporary_path(folder / "clock")
    try:
        open_new(probe).close()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _place() -> str:
    """Namespace of process ids: the boot of a machine, or a container on it."""
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        with suppress(OSError):
            parts.append(read())
    return " ".join(parts)


def _process_start(pid: int) -> str:
    """Start time of a process in kernel ticks; empty if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _running(pid: Any, start: Any) -> bool:
    """Whether the process on this machine is still the same one."""
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
    """(Slurm job with its cluster, number of restarts)."""
    job, cluster = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_CLUSTER_NAME", "")
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return (re.sub(r"^@", "", f"{cluster}@{job}") if job else "", int(restart) if restart.isdigit() else 0)
