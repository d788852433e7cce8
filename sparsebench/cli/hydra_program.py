"""Run Hydra for ``train``, ``sweep`` and ``theory``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import sparsebench
from sparsebench.cli.subcommand import parser_error
from sparsebench.errors import SettingError
from sparsebench.paths import config_dir, groups, options

HELP_FLAGS = frozenset({"--help", "-h"})

HELP = """\
usage: sparsebench {command} [GROUP=OPTION ...] [KEY=VALUE ...]

groups and their options:
{groups}

settings, with the options of this command line, and what each allows:
{settings}
"""

ACTIONS = ("run", "multirun", "cfg", "info", "shell_completion")
"""Hydra's flags of which it does one."""

COLUMN = 30
"""Column of the comments in the help."""

INFO_FLAGS = frozenset({"--cfg", "-c", "--info", "-i"})
"""Flags with which Hydra only prints information."""


def call(task: Callable[..., Any], config: str, overrides: Sequence[str]) -> None:
    """Compose a config with Hydra, and call ``task`` with it, or with each one of a sweep.

    Args:
        task: A module-level function, because launchers pickle it.
        config: Name of the primary config.
        overrides: In Hydra's form; its flags may be anywhere among them.

    Raises:
        SettingError: A flag is wrong, or a file of the ``--config-dir`` cannot be read.
    """
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors are raised here instead of printed with a traceback
    words, flags = parse(overrides)
    before, sys.argv = sys.argv, ["sparsebench", *words, *_as_words(flags)]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config)(task)()
    except UnicodeDecodeError as error:
        broken = next(filter(_is_undecodable, _files(flags.get("config_dir"))), None)
        if broken is None:
            raise
        raise SettingError(str(broken), None, f"text in UTF-8: {error}") from error
    finally:
        sys.argv = before


def parse(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The overrides among ``overrides``, and Hydra's flags that are set, which may be anywhere among them.

    Raises:
        SettingError: A flag is unknown, repeated or lacks its value, or a config dir is not a readable folder.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise parser_error(message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given = vars(parser.parse_intermixed_args(overrides))
    words, folder = given.pop("overrides"), given["config_dir"]
    flags = {name: value for name, value in given.items() if value not in (None, False)}
    if sum(word.startswith(("--config-d", "-cd")) for word in overrides) > 1:
        raise SettingError("--config-dir", folder, "one folder; it was given more than once")
    if folder is not None and not (folder and Path(folder).is_dir()):
        raise SettingError("--config-dir", folder, "an existing folder")
    for path in _files(folder):
        if not path.is_file():
            raise SettingError("--config-dir", path, "regular files")
    if (actions := [name for name in ACTIONS if name in flags])[1:]:
        raise SettingError(f"--{actions[1]}", None, f"only one of it and --{actions[0]}")
    if "resolve" in flags and not {"cfg", "help"} & flags.keys():
        raise SettingError("--resolve", None, "--cfg job with it")
    if "" in words:
        raise SettingError("override", "", "key=value")
    return words, flags


def search_path(flags: Mapping[str, Any]) -> list[str]:
    """The ``--config-dir`` among ``flags`` as an override, for configs that are composed without Hydra's program."""
    folder = flags.get("config_dir")
    return [f"hydra.searchpath=['file://{Path(folder).absolute()}']"] if folder else []


def _as_words(flags: Mapping[str, Any]) -> list[str]:
    names = {name: f"--{name.replace('_', '-')}" for name in flags}
    return [names[name] if value is True else f"{names[name]}={value}" for name, value in flags.items()]


def _files(folder: str | None) -> list[Path]:
    """The YAML files of a config dir: its primary configs and its groups, such as ``hydra/launcher``."""
    found = (
        [path for depth in ("", "*/", "*/*/") for path in Path(folder).glob(f"{depth}*.yaml")]
        if folder
        else []
    )
    return sorted(found)


def _is_undecodable(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return True
    return False


def show_help(command: str, overrides: Sequence[str], config: str = "train") -> bool:
    """Print the options and settings of a config if ``overrides`` ask for help; returns whether they did.

    Hydra's own help copies all its configs once for each group, which takes longer than the rest. It still answers when
    there are other flags, such as ``--resolve``.

    Args:
        command: Name of the subcommand.
        overrides: In Hydra's form.
        config: Name of the primary config.
    """
    if not HELP_FLAGS & set(overrides):
        return False
    words, flags = parse(overrides)
    if not flags.keys() <= {"help", "config_dir"}:
        return False
    from hydra import compose
    from omegaconf import OmegaConf

    from sparsebench.config.compose import own_hydra
    from sparsebench.config.declared import comments, evaluations

    with own_hydra():
        cfg = compose(config, overrides=[*words, *search_path(flags)], return_hydra_config=True)
        found = comments(dict(cfg.hydra.runtime.choices), config, evaluations(cfg))
    shown: dict[str, Any] = {str(key): node for key, node in cfg.items() if key != "hydra"}
    if command == "sweep":
        shown["hydra"] = {name: cfg.hydra[name] for name in ("sweeper", "launcher")}
    notes = {name: comment.text for name, comment in found.items()}
    settings = "\n".join(_settings(OmegaConf.to_container(OmegaConf.create(shown), resolve=False), notes))
    names = ("device", "theory") if config == "theory" else (name for name in groups() if name != "theory")
    lines = [f"  {'study' if name == 'theory' else name}: {', '.join(options(name))}" for name in names]
    print(HELP.format(command=command, groups="\n".join(lines), settings=settings).rstrip())
    return True


def _settings(content: Any, notes: Mapping[str, str]) -> list[str]:
    """Settings as lines of YAML, each with its comment."""
    import yaml

    lines: list[str] = []

    def walk(prefix: str, node: Mapping[str, Any]) -> None:
        for key, value in node.items():
            indent, name = "  " * prefix.count("."), f"{prefix}{key}"
            nested = isinstance(value, dict) and bool(value)
            text = (
                ""
                if nested
                else yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
            )
            line = f"{indent}{key}:{' ' * (not nested)}{text.removesuffix('...' + chr(10)).strip()}"
            lines.append(f"{line:<{COLUMN}}  # {notes[name]}" if notes.get(name) else line)
            if nested:
                walk(f"{name}.", value)

    walk("", content)
    return lines


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
        ("--redo-older", "redo_older=true"),
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
