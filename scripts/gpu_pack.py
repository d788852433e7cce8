#!/usr/bin/env python3
"""Pack what a GPU machine without a network needs to train on CIFAR-10: images in two parts, and missing wheels.

    scripts/gpu_pack.py pack FOLDER      images.1 and images.2 (53 MB each, lossless WebP) and wheels/ into FOLDER
    scripts/gpu_pack.py unpack FOLDER    there: stores the parts in FOLDER; once both have arrived, writes the
                                         official binary version and compares its SHA-256 with that of the packed one

The images are in cifar-10-batches-bin below SPARSEBENCH_DATA (default: ~/.cache/sparsebench), or below its cifar10/.
Packing takes two minutes on two cores, unpacking three seconds on sixteen. Needs NumPy and Pillow.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
FOLDER = "cifar-10-batches-bin"
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then red, green and blue planes
PARTS = 2
BLOCK = 1000  # records that one process encodes at a time
WHEELS = ("hydra-core", "omegaconf", "antlr4-python3-runtime")  # usually missing on machines with PyTorch


def encode(records: bytes) -> bytes:
    """Records as (size of the image, label, lossless WebP) one after the other."""
    out = io.BytesIO()
    for record in np.frombuffer(records, np.uint8).reshape(-1, RECORD):
        image = io.BytesIO()
        pixels = np.ascontiguousarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
        Image.fromarray(pixels).save(image, "WEBP", lossless=True, quality=60, method=4)
        out.write(struct.pack("<HB", image.tell(), record[0]) + image.getvalue())
    return out.getvalue()


def decode(block: bytes) -> bytes:
    """The records of :func:`encode`."""
    out, position = io.BytesIO(), 0
    while position < len(block):
        size, label = struct.unpack_from("<HB", block, position)
        position += 3
        image = Image.open(io.BytesIO(block[position : position + size])).convert("RGB")
        out.write(bytes([label]) + np.asarray(image).transpose(2, 0, 1).tobytes())
        position += size
    return out.getvalue()


def pack_images(source: Path, folder: Path) -> None:
    """Write images.1 and images.2: a header in JSON with its length before it, then the encoded blocks."""
    files = [(source / name).read_bytes() for name in FILES]
    for name, data in zip(FILES, files, strict=True):
        if not data or len(data) % RECORD:
            sys.exit(f"gpu_pack: {source / name}: {len(data)} bytes are not a multiple of {RECORD}")
    step = RECORD * BLOCK
    blocks = [data[start : start + step] for data in files for start in range(0, len(data), step)]
    with ProcessPoolExecutor() as pool:
        encoded = list(pool.map(encode, blocks))
    bounds = [len(encoded) * part // PARTS for part in range(PARTS + 1)]
    shared = {"lengths": [len(data) for data in files], "sha256": [_sha256(data) for data in files]}
    folder.mkdir(parents=True, exist_ok=True)
    for number, (start, end) in enumerate(pairwise(bounds), start=1):
        part = encoded[start:end]
        header = json.dumps({**shared, "sizes": [len(block) for block in part]}).encode()
        (folder / f"images.{number}").write_bytes(struct.pack("<I", len(header)) + header + b"".join(part))


def pack_wheels(folder: Path) -> None:
    """Wheels of the versions that are installed here."""
    from importlib.metadata import version

    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder / "wheels"), *wanted]
    subprocess.run(command, check=True)


def unpack(folder: Path, root: Path) -> bool:
    """Keep the parts in ``folder`` below ``root``, and with both write the binary version; whether it is there."""
    target = root / FOLDER
    if (target / FILES[-1]).exists():
        return True
    root.mkdir(parents=True, exist_ok=True)
    parts = [root / f"images.{number}" for number in range(1, PARTS + 1)]
    for part in parts:
        if (folder / part.name).exists():
            part.write_bytes((folder / part.name).read_bytes())
    if missing := [part.name for part in parts if not part.exists()]:
        print(f"gpu_pack: waiting for {', '.join(missing)}")
        return False
    blocks: list[bytes] = []
    for part in parts:
        data = part.read_bytes()
        (size,) = struct.unpack_from("<I", data)
        header, position = json.loads(data[4 : 4 + size]), 4 + size
        for length in header["sizes"]:
            blocks.append(data[position : position + length])
            position += length
    with ProcessPoolExecutor() as pool:
        records = b"".join(pool.map(decode, blocks))
    files, start = {}, 0
    for name, length, digest in zip(FILES, header["lengths"], header["sha256"], strict=True):
        files[name] = records[start : start + length]
        start += length
        if _sha256(files[name]) != digest:
            sys.exit(f"gpu_pack: {name} differs from the packed version: its SHA-256 differs")
    target.mkdir(exist_ok=True)
    for name, data in files.items():  # the last one marks the folder as complete
        temporary = target / f".{name}"
        temporary.write_bytes(data)
        temporary.replace(target / name)
    return True


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["pack", "unpack"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-wheels", action="store_true", help="pack the images only")
    given = parser.parse_args(arguments)
    root = Path(os.environ.get("SPARSEBENCH_DATA") or "~/.cache/sparsebench").expanduser()
    if given.action == "unpack":
        unpack(given.folder, root)
        return 0
    places = [place for place in (root, root / "cifar10") if (place / FOLDER / FILES[-1]).is_file()]
    if not places:
        sys.exit(f"gpu_pack: no {FOLDER} in SPARSEBENCH_DATA={root} or {root / 'cifar10'}")
    pack_images(places[0] / FOLDER, given.folder)
    if not given.no_wheels:
        pack_wheels(given.folder)
    for path in sorted(path for path in given.folder.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(given.folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
