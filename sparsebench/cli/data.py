"""``sparsebench data check`` and ``data pack``: verify data sets on disk, or pack them for faster reading."""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sparsebench.config.build import build
from sparsebench.config.open import compose_config
from sparsebench.data.decoding import decode
from sparsebench.data.folder import FolderDataset, ImageNet
from sparsebench.data.listing import INDEX, ImageIndex, ImageSource
from sparsebench.data.packed import Packed, pack, read_index, sha256
from sparsebench.data.streaming import available_workers
from sparsebench.errors import SettingError, one_of, require_int
from sparsebench.files import write_csv
from sparsebench.paths import expanded, options

FOUND = ("split", "image", "what")
AHEAD = 4
"""Images in flight per thread."""


def main(arguments: Sequence[str]) -> int:
    """Check or pack one data set.

    Returns:
        0, or 1 if there are problems in the data.

    Raises:
        SettingError: There is no such data set, its files are missing, or a setting is wrong.
    """
    parser = argparse.ArgumentParser(prog="sparsebench data", description=__doc__.split(": ", 1)[1])
    commands = parser.add_subparsers(dest="command", required=True, metavar="check|pack")
    check = commands.add_parser(
        "check", help="count images and classes, find unreadable images, verify checksums of packed ones"
    )
    check.add_argument(
        "--no-decode", action="store_true", help="only count; for packed images also verify checksums"
    )
    check.add_argument(
        "-o", "--output", type=Path, metavar="CSV", help="write the problems, one image per row"
    )
    packs = commands.add_parser("pack", help="downscale images and pack them into a few large files")
    packs.add_argument(
        "--side",
        type=int,
        default=256,
        metavar="N",
        help="resize the shorter side to at most N pixels (default: 256)",
    )
    packs.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 95 (default: 95)")
    packs.add_argument("--output", type=Path, metavar="FOLDER", help="output folder (default: data_root)")
    for command in (check, packs):
        command.add_argument("dataset", metavar="DATASET", help="as in dataset=...")
        command.add_argument(
            "settings", nargs="*", metavar="SETTING", help="data_root=..., dataset.packed=..., workers=..."
        )
    settings = [word for word in arguments if "=" in word and word[0] != "-"]  # anywhere on the command line
    args = parser.parse_args([word for word in arguments if word not in settings])
    if args.dataset not in options("dataset"):
        raise SettingError("dataset", args.dataset, one_of(options("dataset"), args.dataset))
    cfg = compose_config([f"dataset={args.dataset}", *settings, *args.settings])[0]
    kind = get_object(cfg.dataset._target_)
    on_disk = isinstance(kind, type) and issubclass(kind, FolderDataset)
    if args.command == "pack":
        if not on_disk:
            raise SettingError(
                "dataset", args.dataset, "a data set that is read from files; this one is kept in memory"
            )
        return _pack(cfg, kind, args.side, args.quality, args.output)
    if not on_disk:
        dataset = build(cfg.dataset, "dataset", device="cpu")  # reads everything, and refuses damaged files
        sizes = ", ".join(f"{len(getattr(dataset, split)):,} {split}" for split in ("train", "val", "test"))
        print(f"{dataset.name}: {dataset.num_classes} classes, {sizes} images; no problems found")
        return 0
    return _check(cfg, kind, not args.no_decode, args.output)


def _workers(cfg: DictConfig) -> int:
    return max(cfg.workers if cfg.workers is not None else available_workers(), 1)


def _root(cfg: DictConfig) -> Path:
    return expanded(cfg.data_root)


def _splits(found: ImageIndex) -> Iterator[tuple[str, ImageSource, Tensor]]:
    yield "train", found.train, found.train_labels
    if found.test is not None:
        yield "test", found.test, found.test_labels


def _check(cfg: DictConfig, kind: type[FolderDataset], decoding: bool, output: Path | None) -> int:
    found = kind.listing(_root(cfg), cfg.dataset.packed)
    print(f"{cfg.dataset._target_.rsplit('.', 1)[-1]}: {len(found.classes):,} classes")
    if kind is ImageNet:
        _compare_with_all_of_imagenet(found)
    rows: list[dict[str, Any]] = []
    for split, source, labels in _splits(found):
        counts = torch.bincount(labels, minlength=len(found.classes))
        if not len(source):
            continue
        print(f"{split}: {len(source):,} images, {int(counts.min()):,} to {int(counts.max()):,} a class")
        if isinstance(source, Packed):
            rows += _checksums(split, source)
        if decoding:
            rows += _decoded(split, source, _workers(cfg))
    kinds = Counter(row["what"].split(":")[0] for row in rows)
    for what, count in sorted(kinds.items()):
        first = next(row for row in rows if row["what"].startswith(what))
        print(f"{what}: {count:,}, first: {first['split']}:{first['image']} ({first['what']})")
    if output is not None:
        write_csv(output, FOUND, rows)
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
    """Problems of single images: unreadable ones, and ones that are not RGB."""

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


def _pack(cfg: DictConfig, kind: type[FolderDataset], side: int, quality: int, output: Path | None) -> int:
    require_int("--side", side, least=1)
    require_int("--quality", quality, least=1, most=95)
    root = _root(cfg)
    found = kind.listing(root)
    folder = expanded(output or root) / f"packed-{side}"
    about = {"dataset": cfg.dataset._target_, "source": _digest(found)}
    if (folder / INDEX).is_file():
        before, _ = read_index(folder)
        if all(before[key] == value for key, value in {**about, "side": side, "quality": quality}.items()):
            print(f"{folder}: already packed; sparsebench data check verifies its checksums")
            return 0
    total = sum(len(source) for _, source, _ in _splits(found))
    with tqdm(total=total, desc="pack", unit="image", disable=not sys.stderr.isatty()) as bar:
        metadata = pack(found, folder, side, quality, about, _workers(cfg), bar.update)
    kept = f", {metadata['kept_shards']} of them reused" if metadata["kept_shards"] else ""
    size = f"{metadata['bytes'] / 1e9:.3g} GB in {len(metadata['sha256'])} shards"
    print(f"{folder}: {metadata['images']:,} images, {size}{kept}")
    if bad := metadata["unreadable"]:
        print(f"{len(bad):,} unreadable images are packed unchanged, first: {bad[0]}")
    where = output or cfg.data_root
    print(f"use it with dataset.packed={side} data_root={where}")
    return 0


def _digest(found: ImageIndex) -> str:
    """SHA-256 of the classes and of every image's name and class."""
    digest = hashlib.sha256("\n".join(found.classes).encode(errors="surrogateescape"))
    for _, source, labels in _splits(found):
        for index, label in enumerate(labels.tolist()):
            digest.update(f"{source.name(index)}\t{label}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
