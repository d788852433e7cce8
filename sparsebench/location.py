"""Where the configs lie."""

from __future__ import annotations

from pathlib import Path


def config_dir() -> Path:
    """The folder of train.yaml and the config groups: inside the package if installed, else the checkout's."""
    package = Path(__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"
