"""Files: written under a temporary name and renamed, and read only if they are plain files of their own folder."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sparsebench.errors import SettingError

DAY = 86_400.0
"""Seconds after which a temporary file of another machine is considered left behind."""

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NOFOLLOW
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NOFOLLOW  # not blocking: a FIFO may have no writer


def temporary_path(path: Path) -> Path:
    """A new hidden name next to ``path``, with the host, the process id and random characters in it."""
    end = f".{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    name = os.fsencode(path.name)[: 254 - len(end)]  # file systems allow 255 bytes
    return path.with_name(f".{os.fsdecode(name)}{end}")


def open_new(path: Path) -> BinaryIO:
    """Create ``path`` for writing; fails if anything has that name, a link included."""
    return os.fdopen(os.open(path, _NEW, 0o666), "wb")


def open_for_append(path: Path) -> BinaryIO:
    """Open ``path`` for unbuffered appending, creating it if missing; follows no link."""
    return os.fdopen(os.open(path, _APPEND, 0o666), "ab", buffering=0)


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that appears under ``path`` only once the block has succeeded and its bytes are on disk."""
    temporary = temporary_path(path)
    with named(path, temporary):
        created = open_new(temporary)
        try:
            with created as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Put ``path`` into errors of the operating system that name no file, as those of ``write()``, or ``temporary``."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """``rows`` with the header ``columns`` as CSV; numbers in their shortest exact form, nothing for missing values."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write :func:`csv_text`, atomically."""
    write_text(path, csv_text(columns, rows))


def check_output(path: Path | None, setting: str = "output") -> None:
    """Refuse a file of ``-o`` that :func:`write_output` could not write, before any work is done.

    Raises:
        SettingError: It is a folder, in no folder, or a link to nothing.
    """
    if path is None:
        return
    if path.is_symlink() and not path.exists():
        raise SettingError(setting, path, "a file; this is a link to a file that does not exist")
    if path.is_dir() or not path.parent.is_dir():
        raise SettingError(setting, path, "a file in a folder that exists")


def write_output(path: Path, text: str) -> None:
    """Write ``text`` to the file that a user names with ``-o``, like ``cp``.

    A new or plain file appears whole or not at all. Devices, FIFOs, the target of a link, and a file with other names
    are written to in place, and keep being what they are.

    Raises:
        SettingError: See :func:`check_output`.
    """
    check_output(path)
    try:
        found = path.lstat()
    except FileNotFoundError:
        write_text(path, text)
        return
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and os.access(path, os.W_OK):
        with atomic(path) as file:
            os.chmod(file.fileno(), stat.S_IMODE(found.st_mode))
            file.write(text.encode(errors="backslashreplace"))
        return
    truncate = os.O_TRUNC if path.is_file() else 0
    with named(path), os.fdopen(os.open(path, os.O_WRONLY | truncate), "wb") as file:
        file.write(text.encode(errors="backslashreplace"))


def open_plain(path: Path | str) -> BinaryIO:
    """Open a plain file for reading; a link is followed only to a file in the same folder, or below it.

    So nothing in a folder of somebody else's makes a command read other files, wait for a FIFO, or read a device.

    Raises:
        FileNotFoundError: It does not exist.
        OSError: It is something else, or a link out of its folder.
    """
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK):  # the latter on BSD
            raise
        descriptor = os.open(_inside(path), _READ)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return os.fdopen(descriptor, "rb")


def leads_out(path: Path | str, folder: Path | str) -> bool:
    """Whether ``path`` is, with all links followed, neither ``folder`` nor in it."""
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return real != root and not real.startswith(root.rstrip(os.sep) + os.sep)


def _inside(path: Path | str) -> str:
    if leads_out(path, os.path.dirname(path) or "."):
        raise OSError(errno.ELOOP, "a link out of its folder, which is not followed", str(path))
    if not os.path.exists(path):
        raise OSError(errno.ELOOP, "a link to nothing", str(path))
    return os.path.realpath(path)


def read_text(path: Path | str) -> str:
    """The UTF-8 text of a file that :func:`open_plain` opens."""
    with open_plain(path) as file:
        return file.read().decode()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV as text; see :func:`open_plain` for what is not read.

    Raises:
        ValueError: It is no UTF-8, or no CSV.
    """
    try:
        return list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise ValueError(str(error)) from error


def remove_temporary_files(folder: Path, pattern: str = ".*.tmp") -> None:
    """Delete temporary files and folders that nobody is writing any more.

    These are those of dead processes of this host, and those older than a day: others may be another machine's.
    """
    own = re.compile(rf"\.{re.escape(socket.gethostname())}\.(\d+)(?:\.[0-9a-f]+)?\.tmp$")
    for path in folder.glob(pattern):
        found = own.search(path.name)
        with suppress(OSError):  # another process may be faster, or the owner of it
            if (found and not _is_running(int(found[1]))) or time.time() - path.lstat().st_mtime > DAY:
                remove(path)


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def make_shared(folder: Path) -> None:
    """Create a hidden folder with the group and the mode of the folder it is in, so that all who write there can.

    Raises:
        OSError: It cannot be created; the error names it.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    above = folder.parent.stat()
    with suppress(OSError):  # another process may have created it, or the group be one that we are not in
        os.chown(folder, -1, above.st_gid)
    with suppress(OSError):
        folder.chmod(stat.S_IMODE(above.st_mode))
