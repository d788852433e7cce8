"""Run Hydra for ``train``, ``sweep`` and ``theory``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sparsebench
from sparsebench.paths import config_dir, groups, options

HELP_FLAGS = frozenset({"--help", "-h"})

HELP = """\
usage: sparsebench {command} [GROUP=OPTION ...] [KEY=VALUE ...]

groups and their options:
{groups}

settings, with the options of this command line:
{settings}
"""

INFO_FLAGS = frozenset({"--cfg", "-c", "--info", "-i"})
"""Flags with which Hydra only prints information."""


def call(task: Callable[..., Any], config: str, overrides: Sequence[str]) -> None:
    """Compose a config with Hydra, and call ``task`` with it, or with each one of a sweep.

    Args:
        task: A module-level function, because launchers pickle it.
        config: Name of the primary config.
        overrides: In Hydra's form.
    """
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors are raised here instead of printed with a traceback
    before, sys.argv = sys.argv, ["sparsebench", *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config)(task)()
    finally:
        sys.argv = before


def show_help(command: str, overrides: Sequence[str], config: str = "train") -> bool:
    """Print the options and settings of a config if ``overrides`` ask for help; returns whether they did.

    Hydra's own help copies all its configs once for each group, which takes longer than the rest. It still answers when
    there are other flags (``--resolve``, ``--config-dir``).

    Args:
        command: Name of the subcommand.
        overrides: In Hydra's form.
        config: Name of the primary config.
    """
    flags = {override for override in overrides if override.startswith("-")}
    if not flags or not flags <= HELP_FLAGS:
        return False
    from hydra import compose
    from omegaconf import OmegaConf

    from sparsebench.config.compose import own_hydra

    with own_hydra():
        cfg = compose(config, overrides=[override for override in overrides if override not in flags])
    lines = [f"  {group}: {', '.join(options(group))}" for group in groups()]
    print(HELP.format(command=command, groups="\n".join(lines), settings=OmegaConf.to_yaml(cfg)).rstrip())
    return True


def expand_shorthand(override: str) -> str:
    """Expand a shorthand of ``sparsebench sweep`` to Hydra's override.

    Example:
        >>> [expand_shorthand(override) for override in ("launcher=slurm", "launcher.n_jobs=4", "--dry-run")]
        ['hydra/launcher=slurm', 'hydra.launcher.n_jobs=4', 'hydra.sweeper.dry_run=true']
    """
    for short, full in (
        ("launcher=", "hydra/launcher="),
        ("launcher.", "hydra.launcher."),
        ("retries=", "hydra.sweeper.retries="),
        ("--dry-run", "hydra.sweeper.dry_run=true"),
        ("--where-it-exists", "hydra.sweeper.where_it_exists=true"),
    ):
        if override.startswith(short):
            return full + override[len(short) :]
    return override


def register() -> None:
    """Register the sweeper and the launchers with Hydra."""
    from hydra.core.plugins import Plugins

    plugins = Plugins.instance()  # before the path below: Hydra imports every plugin that it finds
    plugins_dir = str(Path(sparsebench.__file__).parent / "plugins")
    sys.path.append(plugins_dir)
    try:
        plugin = importlib.import_module("hydra_plugins.sparsebench_plugins")
    finally:
        # Otherwise worker processes would inherit this path and import the plugin while importing Hydra.
        sys.path.remove(plugins_dir)
    for plugin_class in vars(plugin).values():
        if isinstance(plugin_class, type) and plugin_class.__module__ == plugin.__name__:
            plugins.register(plugin_class)
