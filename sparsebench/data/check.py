"""Check and pack data sets on disk."""

from __future__ import annotations

import hashlib
import io
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sparsebench.data.decoding import decode
from sparsebench.data.folder import FolderDataset, ImageNet
from sparsebench.data.listing import INDEX, ImageIndex, ImageSource
from sparsebench.data.packed import Packed, pack, read_index, sha256
from sparsebench.errors import printable, require_int
from sparsebench.files import check_output, csv_text, write_output

FOUND = ("split", "image", "what")
AHEAD = 4
"""Images in flight per thread."""


def _splits(found: ImageIndex) -> Iterator[tuple[str, ImageSource, Tensor]]:
    yield "train", found.train, found.train_labels
    if found.test is not None:
        yield "test", found.test, found.test_labels


def check(
    kind: type[FolderDataset],
    root: Path,
    packed: int | None,
    workers: int,
    decoding: bool,
    output: Path | None,
) -> int:
    """Print what a data set's folder contains, and its problems.

    Args:
        kind: The data set.
        root: Folder of the data set.
        packed: Shorter side of the packed images to check; ``None`` checks the files.
        workers: Number of decoding threads.
        decoding: Decode every image.
        output: CSV for the problems, one image per row.

    Returns:
        1 if there are problems, else 0.
    """
    check_output(output)
    found = kind.listing(root, packed)
    print(f"{kind.__name__}: {len(found.classes):,} classes")
    if kind is ImageNet:
        _compare_with_all_of_imagenet(found)
    rows: list[dict[str, Any]] = []
    for split, source, labels in _splits(found):
        counts = torch.bincount(labels, minlength=len(found.classes))
        if not len(source):
            continue
        print(f"{split}: {len(source):,} images, {int(counts.min()):,} to {int(counts.max()):,} per class")
        if isinstance(source, Packed):
            rows += _checksums(split, source)
        if decoding:
            rows += _decoded(split, source, workers)
    kinds = Counter(row["what"].split(":")[0] for row in rows)
    for what, count in sorted(kinds.items()):
        first = next(row for row in rows if row["what"].startswith(what))
        print(printable(f"{what}: {count:,}, first: {first['split']}:{first['image']} ({first['what']})"))
    if output is not None:
        write_output(output, csv_text(FOUND, rows))
    wrong = sum(count for what, count in kinds.items() if what in ("unreadable", "checksum"))
    looked = "every image was decoded" if decoding else "no image was decoded"
    print(f"{wrong:,} problems found" if wrong else f"no problems found; {looked}")
    return int(wrong > 0)


def _compare_with_all_of_imagenet(found: ImageIndex) -> None:
    assert found.test is not None
    for what, here, all_ in (
        ("classes", len(found.classes), ImageNet.CLASSES),
        ("training images", len(found.train), ImageNet.TRAIN),
        ("validation images, the test set", len(found.test), ImageNet.TEST),
    ):
        if here != all_:
            print(f"{what}: {here:,}, all of ImageNet has {all_:,}; results will be called imagenet_subset")


def _checksums(split: str, source: Packed) -> list[dict[str, Any]]:
    about, _ = read_index(source.folder)
    return [
        {"split": split, "image": name, "what": "checksum: differs from the SHA-256 in the index"}
        for name in tqdm(
            source.names, desc=f"{split} checksums", unit="shard", disable=not sys.stderr.isatty()
        )
        if sha256(source.folder / name) != about["sha256"][name]
    ]


def _decoded(split: str, source: ImageSource, workers: int) -> list[dict[str, Any]]:
    """The problem with a single image: unreadable, or not RGB; empty if there is none."""

    def look(index: int) -> str:
        try:
            content = source.read(index)
            decode(content)
        except (OSError, ValueError) as error:
            return f"unreadable: {' '.join(str(error).split())}"
        with Image.open(io.BytesIO(content.numpy().tobytes())) as image:
            return "" if image.mode == "RGB" else f"converted: {image.mode}"

    rows = []
    with ThreadPoolExecutor(workers) as pool:
        bar = tqdm(total=len(source), desc=split, unit="image", disable=not sys.stderr.isatty())
        for first in range(0, len(source), AHEAD * 256):
            indices = range(first, min(first + AHEAD * 256, len(source)))
            for index, what in zip(indices, pool.map(look, indices), strict=True):
                if what:
                    rows.append({"split": split, "image": source.name(index), "what": what})
            bar.update(len(indices))
        bar.close()
    return rows


def pack_folder(
    kind: type[FolderDataset], root: Path, target: Path, side: int, quality: int, name: str, workers: int
) -> bool:
    """Pack a data set's images into a folder in ``target``, and print a summary.

    Args:
        kind: The data set.
        root: Its folder.
        target: Parent of the packed folder.
        side: Maximum shorter side, in pixels.
        quality: JPEG quality, 1 to 95.
        name: Name of the data set's config.
        workers: Number of threads.

    Returns:
        Whether anything was packed.

    Raises:
        SettingError: ``side`` or ``quality`` is out of its range.
    """
    require_int("--side", side, least=1)
    require_int("--quality", quality, least=1, most=95)
    found = kind.listing(root)
    folder = target / f"packed-{side}"
    about = {"dataset": name, "source": _digest(found)}
    if (folder / INDEX).is_file():
        before, _ = read_index(folder)
        if all(before[key] == value for key, value in {**about, "side": side, "quality": quality}.items()):
            print(printable(f"{folder}: already packed; sparsebench data check verifies its checksums"))
            return False
    total = sum(len(source) for _, source, _ in _splits(found))
    with tqdm(total=total, desc="pack", unit="image", disable=not sys.stderr.isatty()) as bar:
        metadata = pack(found, folder, side, quality, about, workers, bar.update)
    kept = f", {metadata['kept_shards']} of them from before" if metadata["kept_shards"] else ""
    size = f"{metadata['bytes'] / 1e9:.3g} GB in {len(metadata['sha256'])} shards"
    print(printable(f"{folder}: {metadata['images']:,} images, {size}{kept}"))
    if bad := metadata["unreadable"]:
        print(printable(f"{len(bad):,} unreadable images are packed unchanged, first: {bad[0]}"))
    return True


def _digest(found: ImageIndex) -> str:
    """SHA-256 of the classes and of every image's name and class."""
    digest = hashlib.sha256("\n".join(found.classes).encode(errors="surrogateescape"))
    for _, source, labels in _splits(found):
        for index, label in enumerate(labels.tolist()):
            digest.update(f"{source.name(index)}\t{label}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
