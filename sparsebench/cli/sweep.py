"""``sparsebench sweep``: one run per combination of comma-separated values, or of an experiment's grids."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import sparsebench
from sparsebench.cli import train
from sparsebench.config import renamed

INFO_FLAGS = frozenset({"--cfg", "-c", "--info", "-i"})
"""Flags with which Hydra prints information instead of running."""


def main(arguments: Sequence[str]) -> int:
    """Run ``sparsebench sweep ARGUMENTS``.

    Returns:
        The exit status, 0.

    Raises:
        SettingError: A setting is wrong.
        RunError: Some runs failed.
    """
    register()
    argv = renamed.update_overrides(arguments)
    overrides = [expand_shorthand(override) for override in argv]
    return train.run_hydra(argv, overrides if INFO_FLAGS & set(overrides) else [*overrides, "--multirun"])


def expand_shorthand(override: str) -> str:
    """Expand a shorthand of ``sparsebench sweep`` to Hydra's override.

    Example:
        >>> in_full("launcher=slurm"), in_full("launcher.n_jobs=4"), in_full("retries=2"), in_full("--dry-run")
        ('hydra/launcher=slurm', 'hydra.launcher.n_jobs=4', 'hydra.sweeper.retries=2', 'hydra.sweeper.dry_run=true')
    """
    for short, full in (
        ("launcher=", "hydra/launcher="),
        ("launcher.", "hydra.launcher."),
        ("retries=", "hydra.sweeper.retries="),
        ("--dry-run", "hydra.sweeper.dry_run=true"),
    ):
        if override.startswith(short):
            return full + override[len(short) :]
    return override


def register() -> None:
    """Register the sweeper and the launchers with Hydra."""
    from hydra.core.plugins import Plugins

    plugins_dir = str(Path(sparsebench.__file__).parent / "plugins")
    sys.path.append(plugins_dir)
    try:
        plugin = importlib.import_module("hydra_plugins.sparsebench_plugins")
    finally:
        # Worker processes that inherit this path would import the plugin while they import Hydra.
        sys.path.remove(plugins_dir)
    for plugin_class in (plugin.GridSweeper, plugin.LocalLauncher, plugin.SlurmLauncher):
        Plugins.instance().register(plugin_class)
