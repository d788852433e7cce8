"""Downscaled images packed into a few large files: tar shards as in WebDataset, with an index.

An image is one read at a known offset of a large file, with fewer pixels to decode. A shard is a plain tar archive of
JPEG files and their classes (``00000042.jpg``, ``00000042.cls``), readable by other programs. The index is a
safetensors file with shard, offset, size and class of every image; its metadata holds the classes, the source and
settings, and the SHA-256 of every shard.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sparsebench.data.listing import INDEX, ImageIndex, ImageSource
from sparsebench.errors import SettingError
from sparsebench.files import atomic

PER_SHARD = 4096
"""Images per shard; about 150 MB at a shorter side of 256."""


class Packed:
    """The packed images of one split.

    Args:
        folder: Folder of the shards.
        names: Names of the shards.
        locations: Shard, offset and size of every image, int64 [N, 3].
    """

    def __init__(self, folder: Path, names: list[str], locations: Tensor) -> None:
        self.folder, self.names, self.locations = folder, names, locations.numpy()
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.locations)

    def name(self, index: int) -> str:
        """Shard and number."""
        return f"{self.names[int(self.locations[index, 0])]}:{index:08}.jpg"

    def read(self, index: int) -> Tensor:
        """The bytes of a file."""
        shard, offset, size = map(int, self.locations[index])
        if shard not in self._open:
            self._open[shard] = os.open(self.folder / self.names[shard], os.O_RDONLY)
        content = os.pread(self._open[shard], size, offset)
        if len(content) != size:
            raise OSError(f"{self.names[shard]} is truncated")
        return torch.frombuffer(bytearray(content), dtype=torch.uint8)

    def listing(self) -> bytes:
        """Shard, offset and size of every image, after the names of the shards."""
        return "\n".join(self.names).encode() + self.locations.tobytes()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def packed(folder: Path) -> ImageIndex:
    """The images packed into ``folder``.

    Raises:
        SettingError: The index is unreadable, or a shard is missing.
    """
    about, tensors = read_index(folder)
    if missing := [name for name in about["sha256"] if not (folder / name).is_file()]:
        raise SettingError("packed", folder / missing[0], "a shard listed in the index, but it is missing")

    def split(name: str) -> tuple[ImageSource, Tensor]:
        shards = [shard for shard in about["sha256"] if shard.startswith(f"{name}-")]
        return Packed(folder, shards, tensors[f"{name}_places"]), tensors[f"{name}_labels"]

    return ImageIndex(
        about["classes"], *split("train"), *(split("test") if about["test"] else (None, torch.empty(0)))
    )


def read_index(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata and the tensors of the index.

    Raises:
        SettingError: It is unreadable.
    """
    try:
        with safe_open(folder / INDEX, framework="pt") as file:
            about = json.loads(file.metadata()["sparsebench"])
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SettingError("packed", folder / INDEX, f"a readable index: {reason}") from error


def pack(
    found: ImageIndex,
    folder: Path,
    side: int,
    quality: int,
    about: dict[str, Any],
    workers: int,
    step: Callable[[int], object],
    per_shard: int = PER_SHARD,
) -> dict[str, Any]:
    """Write the images of ``found`` into shards in ``folder``; complete shards that exist are reused.

    Images whose shorter side exceeds ``side`` are resized to it (Lanczos) and re-encoded; others are copied if they are
    RGB JPEGs, and encoded otherwise. Images that cannot be decoded are copied unchanged.

    Args:
        found: The images to pack.
        folder: Output folder; created if missing.
        side: Maximum length of the shorter side, in pixels.
        quality: JPEG quality, 1 to 95, without chroma subsampling.
        about: Further metadata for the index, including ``source``, a hash of the images.
        workers: Number of threads.
        step: Called with the number of images after each shard.
        per_shard: Images per shard.

    Returns:
        The metadata of the index, including ``images``, ``bytes``, ``kept_shards`` and ``unreadable``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {**about, "classes": list(found.classes), "side": side, "quality": quality}
    metadata |= {"test": found.test is not None, "sha256": {}, "images": 0, "bytes": 0, "unreadable": []}
    kept = 0
    for split, source, labels in (
        ("train", found.train, found.train_labels),
        ("test", found.test, found.test_labels),
    ):
        if source is None:
            continue
        locations: list[tuple[int, int, int]] = []
        for number, first in enumerate(range(0, len(source), per_shard)):
            indices = range(first, min(first + per_shard, len(source)))
            shard = _Shard(folder / f"{split}-{number:05}.tar", metadata)
            kept += shard.exists
            if not shard.exists:
                shard.write(source, labels, indices, workers)
            metadata["sha256"][shard.path.name] = shard.digest
            metadata["unreadable"] += shard.unreadable
            metadata["bytes"] += shard.path.stat().st_size
            locations += [(number, offset, size) for offset, size in shard.locations]
            step(len(indices))
        tensors[f"{split}_places"], tensors[f"{split}_labels"] = torch.tensor(locations), labels.clone()
        metadata["images"] += len(source)
    with atomic(folder / INDEX) as file:
        file.write(save(tensors, metadata={"sparsebench": json.dumps(metadata)}))
    for name in metadata["sha256"]:  # superseded by the index
        (folder / name).with_suffix(".json").unlink(missing_ok=True)
    return {**metadata, "kept_shards": kept}


class _Shard:
    """A shard, and until the index is written, a JSON file with its contents and settings."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        self.path, self.note = path, path.with_suffix(".json")
        self.made_by = {key: metadata[key] for key in ("source", "side", "quality")}
        self.digest, self.unreadable = "", list[str]()
        self.locations: list[tuple[int, int]] = []  # offset and size
        self.exists = self._found()

    def _found(self) -> bool:
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
            complete = noted["made_by"] == self.made_by and sha256(self.path) == noted["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if complete:
            self.digest, self.unreadable = noted["sha256"], noted["unreadable"]
            self.locations = [(offset, size) for offset, size in noted["places"]]
        return complete

    def write(self, source: ImageSource, labels: Tensor, indices: range, workers: int) -> None:
        def small(index: int) -> tuple[bytes, bool]:
            try:
                return shrink(
                    source.read(index).numpy().tobytes(), self.made_by["side"], self.made_by["quality"]
                )
            except OSError:
                return b"", False

        with (
            ThreadPoolExecutor(workers) as pool,  # Pillow releases the GIL
            atomic(self.path) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for index, (content, readable) in zip(indices, pool.map(small, indices), strict=True):
                if not readable:
                    self.unreadable.append(source.name(index))
                self.locations.append((tar.offset + tarfile.BLOCKSIZE, len(content)))
                _add(tar, f"{index:08}.jpg", content)
                _add(tar, f"{index:08}.cls", str(int(labels[index])).encode())
        self.digest = sha256(self.path)
        noted = {
            "made_by": self.made_by,
            "sha256": self.digest,
            "unreadable": self.unreadable,
            "places": self.locations,
        }
        with atomic(self.note) as file:
            file.write(json.dumps(noted).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def shrink(content: bytes, side: int, quality: int) -> tuple[bytes, bool]:
    """A JPEG whose shorter side is at most ``side``, and whether ``content`` could be decoded."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            short = min(image.size)
            if short <= side and image.format == "JPEG" and image.mode == "RGB":
                image.load()
                return content, True
            rgb = image.convert("RGB")
            if short > side:
                size = [max(round(pixels * side / short), side) for pixels in rgb.size]
                rgb = rgb.resize((size[0], size[1]), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            rgb.save(buffer, "JPEG", quality=quality, subsampling=0)
            return buffer.getvalue(), True
    except Exception:  # a corrupt file can raise anything
        return content, False


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _digest(file)
        )


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()
