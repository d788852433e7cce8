"""What the config groups offer."""

from __future__ import annotations

from sparsebench.paths import config_dir


def options(group: str) -> list[str]:
    """The options of a config group, found in its folder."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
