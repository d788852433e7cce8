"""Hashes of files and folders that settings name: the same content elsewhere is the same run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsebench.files import write_json
from sparsebench.paths import expanded

DIGITS = 16

WHOLE = 1 << 30
"""Bytes up to which a file is read as a whole; of a larger one its size, beginning and end count."""

ENDS = 1 << 26
"""Bytes of the beginning, and of the end, that are read of a larger one."""

LARGE = 1 << 20
"""Bytes from which a hash is remembered: a smaller file is read faster than it is looked up."""


def named_files(values: Mapping[str, Any]) -> dict[str, Path]:
    """The settings that name an existing file or folder.

    A value may be a path if it says so: by a slash, a tilde, or an extension.

    Args:
        values: Setting -> value.
    """
    found = {}
    for setting, value in values.items():
        if isinstance(value, str) and value and "\0" not in value and _looks_like_path(value):
            path = expanded(value)
            if path.is_file() or path.is_dir():
                found[setting] = path
    return found


def content_hash(path: Path) -> str:
    """The hash of a regular file's content, or of what is in a folder.

    Of a folder with the weights of a run, those; else of the names and sizes of all files below, in their order.
    """
    if path.is_dir():
        weights = path / "model.safetensors"
        return content_hash(weights) if weights.is_file() else listing_hash(path)
    return _remembered(path) if path.stat().st_size >= LARGE else _hash(path)


Files = Iterable[tuple[str, Path]]
"""(name below a folder, path) of files."""


def listing_hash(folder: Path, contents: bool = False, watch: Callable[[Files], Files] = iter) -> str:
    """The hash of the names and sizes of all files below ``folder``; with ``contents``, of their contents too.

    Hidden files and folders are left out. Links to files are followed, and links to folders are not.

    Args:
        folder: The folder.
        contents: Whether all files are read.
        watch: Shows progress.
    """
    found = hashlib.sha256()
    for name, path in watch(_files(folder)):
        found.update(f"{name}\n{path.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        if contents:
            found.update(_hash(path).encode())
    return found.hexdigest()[:DIGITS]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(place, name)
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _looks_like_path(value: str) -> bool:
    return "/" in value or os.sep in value or value.startswith("~") or bool(Path(value).suffix)


def _hash(path: Path) -> str:
    size, found = path.stat().st_size, hashlib.sha256()
    with open(path, "rb") as file:
        if size <= WHOLE:
            while block := file.read(1 << 22):
                found.update(block)
        else:
            found.update(f"{size}\n".encode() + file.read(ENDS))
            file.seek(size - ENDS)
            found.update(file.read(ENDS))
    return found.hexdigest()[:DIGITS]


def _remembered(path: Path) -> str:
    """The hash of a large file, kept from the last time as long as its size, time and inode are the same."""
    found = path.stat()
    key, stamp = str(path.resolve()), [found.st_size, found.st_mtime_ns, found.st_ino]
    cache = _cache_file(key)
    try:
        known = json.loads(cache.read_text("utf-8")) if cache else {}
        if known.get("path") == key and known.get("stamp") == stamp:
            return str(known["hash"])
    except (OSError, ValueError, AttributeError, KeyError):
        pass  # never read before, or damaged: it is read again
    digest = _hash(path)
    if cache:
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, {"path": key, "stamp": stamp, "hash": digest})
        except OSError:  # a machine where nothing can be kept reads it each time
            pass
    return digest


def _cache_file(key: str) -> Path | None:
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return None
    return base / "sparsebench" / "hashes" / f"{hashlib.sha256(key.encode()).hexdigest()[:DIGITS]}.json"
