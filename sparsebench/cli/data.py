"""``sparsebench data check`` and ``data pack``: verify data sets on disk, or pack them for faster reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import SettingError, one_of, printable
from sparsebench.paths import expanded, options

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from omegaconf import DictConfig


def run(args: Namespace) -> int:
    """Check or pack one data set.

    Returns:
        0, or 1 if there are problems in the data.

    Raises:
        SettingError: There is no such data set, its files are missing, or a setting is wrong.
    """
    if args.dataset not in options("dataset"):
        raise SettingError("dataset", args.dataset, one_of(options("dataset"), args.dataset))
    from hydra.utils import get_object

    from sparsebench.config.build import build
    from sparsebench.config.open import compose_config
    from sparsebench.data.check import check, pack_folder
    from sparsebench.data.folder import FolderDataset
    from sparsebench.data.streaming import available_workers

    cfg = compose_config([f"dataset={args.dataset}", *args.settings])[0]
    kind = get_object(cfg.dataset._target_)
    on_disk = isinstance(kind, type) and issubclass(kind, FolderDataset)
    if args.action == "pack" and not on_disk:
        raise SettingError(
            "dataset", args.dataset, "a data set that is read from files; this one is kept in memory"
        )
    if args.action == "check" and args.hash:
        print(_hashes(cfg, on_disk))
    if not on_disk:
        # Reads everything, and raises for damaged files.
        dataset = build(cfg.dataset, "dataset", device="cpu")
        sizes = ", ".join(f"{len(getattr(dataset, split)):,} {split}" for split in ("train", "val", "test"))
        print(printable(f"{dataset.name}: {dataset.num_classes} classes, {sizes} images; no problems found"))
        return 0
    root = expanded(cfg.data_root, "data_root")
    workers = max(cfg.workers if cfg.workers is not None else available_workers(), 1)
    if args.action == "check":
        return check(kind, root, cfg.dataset.packed, workers, not args.no_decode, args.output)
    target = expanded(args.output or root, "--output")
    if pack_folder(kind, root, target, args.side, args.quality, cfg.dataset._target_, workers):
        print(printable(f"use it with dataset.packed={args.side} data_root={args.output or cfg.data_root}"))
    return 0


def _hashes(cfg: DictConfig, on_disk: bool) -> str:
    """Hashes by which two people see whether they have the same data."""
    if not on_disk:
        from sparsebench.config.build import build
        from sparsebench.runs.hashes.splits import split_hash

        return f"split_hash {split_hash(build(cfg.dataset, 'dataset', device='cpu'))}"
    from tqdm import tqdm

    from sparsebench.config.contents import listing_hash

    root = expanded(cfg.data_root, "data_root")
    contents = listing_hash(root, True, lambda files: tqdm(files, desc="hashing", unit="file", disable=None))
    return f"names and sizes {listing_hash(root)}, contents {contents}"


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse the options; settings may be anywhere among them."""
    settings = [text for text in argv if "=" in text and text[0] != "-"]
    args = parser.parse_args([text for text in argv if text not in settings])
    args.settings = [*settings, *args.settings]
    return args


def candidates(before: Sequence[str], last: str) -> list[str]:
    """Parse options and settings, which may be mixed."""
    from sparsebench.cli.completion import settings

    places = (("check", "pack"), options("dataset"))
    return [*places[len(before)]] if len(before) < len(places) else settings("train", before, last)


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="check|pack")
    check = actions.add_parser(
        "check", help="count images and classes, find unreadable images, verify checksums of packed ones"
    )
    check.add_argument(
        "--no-decode", action="store_true", help="only count; for packed images also verify checksums"
    )
    check.add_argument(
        "--hash", action="store_true", help="print hashes of the data, which are equal where the data are"
    )
    check.add_argument(
        "-o", "--output", type=Path, metavar="CSV", help="write the problems, one image per row"
    )
    pack = actions.add_parser("pack", help="downscale images and pack them into a few large files")
    pack.add_argument(
        "--side",
        type=int,
        default=256,
        metavar="N",
        help="resize the shorter side to at most N pixels (default: 256)",
    )
    pack.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 95 (default: 95)")
    pack.add_argument("--output", type=Path, metavar="FOLDER", help="output folder (default: data_root)")
    for action in (check, pack):
        action.add_argument("dataset", metavar="DATASET", help="as in dataset=...")
        action.add_argument(
            "settings", nargs="*", metavar="SETTING", help="data_root=..., dataset.packed=..., workers=..."
        )


COMMAND = Subcommand(
    name="data",
    help="verify a data set on disk, or pack its images for faster reading",
    section=Section.OTHER,
    order=0,
    description="verify data sets on disk, or pack them for faster reading",
    parse=parse,
    candidates=candidates,
    arguments=arguments,
    run=run,
)
