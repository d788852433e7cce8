"""Download data sets with torchvision."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sparsebench.data.cifar_files import Layout, candidate_folders
from sparsebench.errors import SettingError

TIMEOUT = 15  # seconds without an answer
# torchvision missing; no network or disk space; wrong checksum; truncated connection or archive.
_FAILURES = (ImportError, OSError, RuntimeError, http.client.HTTPException, EOFError, tarfile.TarError)


def download(root: Path, layout: Layout) -> Path:
    """Download the python version from its authors' site; returns its new folder in ``root``.

    The archive is unpacked in a temporary folder and moved into place, so that neither an interrupted download nor a
    concurrent one leaves a partial data set.

    Raises:
        SettingError: The download failed, or torchvision is not installed.
    """
    target = root / layout.python_folder
    try:
        from torchvision import datasets
        from torchvision.datasets.utils import download_and_extract_archive

        source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[layout.name]
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as aside, _hurried(), _quiet_unless_watched():
            download_and_extract_archive(source.url, aside, filename=source.filename, md5=source.tgz_md5)
            if not target.is_dir():  # another run may have been faster
                (Path(aside) / source.base_folder).replace(target)
    except _FAILURES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        looked = ", ".join(map(str, candidate_folders(root, layout)))
        allowed = (
            f"a folder that holds {layout.binary_folder} or {layout.python_folder} (looked for {looked}), "
            f"and the download failed: {reason}; get {layout.url} and unpack it there"
        )
        raise SettingError("data_root", root, allowed) from error
    return target


@contextlib.contextmanager
def _hurried() -> Iterator[None]:
    """Set a time limit for every network response, because torchvision sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _quiet_unless_watched() -> Iterator[None]:
    """Show progress bars only on a terminal, not in logs."""
    if sys.stderr.isatty():
        yield
    else:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
