"""``sparsebench data check`` and ``sparsebench data pack``: data sets on disk, verified and made faster to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import SettingError, one_of
from sparsebench.paths import options

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def run(given: Namespace) -> int:
    """Check or pack one data set.

    Returns:
        0, or 1 if something is wrong with the data.

    Raises:
        SettingError: There is no such data set, it is not where it should be, or a setting is wrong.
    """
    if given.dataset not in options("dataset"):
        raise SettingError("dataset", given.dataset, one_of(options("dataset"), given.dataset))
    from hydra.utils import get_object

    from sparsebench.config.build import build
    from sparsebench.config.open import composed
    from sparsebench.data.check import check, pack_folder
    from sparsebench.data.folder import FolderDataset
    from sparsebench.data.streaming import available_workers

    cfg = composed([f"dataset={given.dataset}", *given.settings])[0]
    kind = get_object(cfg.dataset._target_)
    on_disk = isinstance(kind, type) and issubclass(kind, FolderDataset)
    if given.action == "pack" and not on_disk:
        raise SettingError(
            "dataset", given.dataset, "a data set that is read from files: this one is kept in memory"
        )
    if not on_disk:
        made = build(cfg.dataset, "dataset", device="cpu")  # reads everything, and refuses what is damaged
        sizes = ", ".join(f"{len(getattr(made, split)):,} {split}" for split in ("train", "val", "test"))
        print(f"{made.name}: {made.num_classes} classes, {sizes} images; nothing is wrong")
        return 0
    root = Path(cfg.data_root).expanduser()
    workers = max(cfg.workers if cfg.workers is not None else available_workers(), 1)
    if given.action == "check":
        return check(kind, root, cfg.dataset.packed, workers, not given.no_decode, given.output)
    target = (given.output or root).expanduser()
    if pack_folder(kind, root, target, given.side, given.quality, cfg.dataset._target_, workers):
        print(f"use it with dataset.packed={given.side} data_root={given.output or cfg.data_root}")
    return 0


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """The options; settings may stand anywhere among them."""
    settings = [word for word in argv if "=" in word and word[0] != "-"]
    given = parser.parse_args([word for word in argv if word not in settings])
    given.settings = [*settings, *given.settings]
    return given


def candidates(before: Sequence[str], last: str) -> list[str]:
    """What is done, to which data set, and its settings."""
    from sparsebench.cli.completion import settings

    places = (("check", "pack"), options("dataset"))
    return [*places[len(before)]] if len(before) < len(places) else settings("train", before, last)


def arguments(parser: ArgumentParser) -> None:
    """What is done, with its options, and to which data set."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="check|pack")
    check = actions.add_parser("check", help="counts, classes, unreadable images; checksums of packed ones")
    check.add_argument(
        "--no-decode", action="store_true", help="count only; of packed images compare checksums too"
    )
    check.add_argument("-o", "--output", type=Path, metavar="CSV", help="write what is found, an image a row")
    pack = actions.add_parser("pack", help="make images smaller and pack them into a few large files")
    pack.add_argument("--side", type=int, default=256, help="longest shorter side, in pixels (default: 256)")
    pack.add_argument("--quality", type=int, default=95, help="of JPEG, 1 to 95 (default: 95)")
    pack.add_argument("--output", type=Path, metavar="FOLDER", help="where to (default: data_root)")
    for action in (check, pack):
        action.add_argument("dataset", metavar="DATASET", help="as in dataset=...")
        action.add_argument(
            "settings", nargs="*", metavar="SETTING", help="data_root=..., dataset.packed=..., workers=..."
        )


COMMAND = Subcommand(
    name="data",
    help="check a data set on disk, or pack its images to be read faster",
    section=Section.OTHER,
    order=0,
    description="data sets on disk, verified and made faster to read",
    parse=parse,
    candidates=candidates,
    arguments=arguments,
    run=run,
)
