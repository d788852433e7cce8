"""Copy the folder of a finished run without what another run needs not, and without anything from outside it."""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

from sparsebench.errors import reason
from sparsebench.files import leads_out, named, open_new, open_plain
from sparsebench.records.damage import DamagedRunError

LEFT_BEHIND = ("*.pt", "*.tmp")
"""Checkpoints and temporary files, which no finished run needs."""


def copy_folder(source: Path, target: Path) -> None:
    """Copy a run folder to ``target``, which is created.

    Links to what is in the folder stay links, relative ones.

    Raises:
        DamagedRunError: There is a link to something that is not in the folder, or something that is no plain file,
            such as a device; nothing of it is read.
    """
    try:
        _copy(source, target, source)
    except OSError as error:
        if not str(error.filename or "").startswith(f"{source}{os.sep}"):
            raise
        inside = os.path.relpath(str(error.filename), source)
        raise DamagedRunError(source, f"{inside}: {reason(error)}") from error


def _copy(folder: Path, target: Path, root: Path) -> None:
    target.mkdir()
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if any(fnmatch(entry.name, pattern) for pattern in LEFT_BEHIND):
            continue
        path = Path(entry.path)
        if entry.is_symlink():
            if leads_out(path, root):
                raise DamagedRunError(root, f"{path.relative_to(root)}: a link out of its folder")
            real = os.path.realpath(path)
            (target / entry.name).symlink_to(os.path.relpath(real, os.path.realpath(folder)))
        elif entry.is_dir():
            _copy(path, target / entry.name, root)
        else:
            _copy_file(path, target / entry.name)


def _copy_file(path: Path, target: Path) -> None:
    with open_plain(path) as file, named(target), open_new(target) as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        found = os.fstat(file.fileno())
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
