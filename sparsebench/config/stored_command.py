"""The command that a run says reproduces it, composed without following what only a stranger has typed."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from omegaconf import DictConfig

from sparsebench.config.open import compose_config
from sparsebench.config.trusted import PLAIN, Trust
from sparsebench.errors import SettingError
from sparsebench.paths import groups
from sparsebench.records.settings import words

SET_ASIDE = (
    "results_dir",
    "tracker",
    "hydra",
    "launcher",
    "overwrite",
    "wait",
    "redo_older",
    "tune_to_target",
)
"""Settings of a stored command that are not followed: where results go, and how runs are launched and tracked."""

CLASS = re.compile(r"(?<![A-Za-z0-9])_[a-z]+_(?![A-Za-z0-9])")
REFERENCE = re.compile(r"\$\{[\w.]+\}")


@dataclass(frozen=True)
class StoredCommand:
    """A stored command, taken apart.

    Args:
        overrides: What is followed.
        set_aside: Words that are not.
    """

    overrides: tuple[str, ...]
    set_aside: tuple[str, ...]

    @property
    def typed(self) -> set[str]:
        """The settings that it sets."""
        return {key_of(override) for override in self.overrides}

    def compose(self, trust: Trust) -> tuple[DictConfig, dict[str, str | None]]:
        """The config of the command, and its chosen options; nothing is built.

        Raises:
            SettingError: An override is wrong in this version.
        """
        with trust.searching():
            return _composed(self.overrides, trust.config_dirs)


@cache
def _composed(
    overrides: tuple[str, ...], config_dirs: tuple[Path, ...]
) -> tuple[DictConfig, dict[str, str | None]]:
    """The config of ``overrides``, with ``config_dirs`` among what is searched; cached, do not modify."""
    with contextlib.redirect_stderr(io.StringIO()):  # notes on old names
        return compose_config(overrides)


def read_command(command: str, trust: Trust) -> StoredCommand:
    """Take a stored command apart.

    Raises:
        SettingError: It is no command of ``sparsebench train``, or has what would have to be trusted.
    """
    try:
        start, name, *rest = words(command)
    except ValueError as error:
        raise SettingError("command", command, "sparsebench train GROUP=OPTION KEY=VALUE ...") from error
    if (start, name) != ("sparsebench", "train"):
        raise SettingError("command", command, "sparsebench train GROUP=OPTION KEY=VALUE ...")
    aside = [word for word in rest if word.startswith("-") or _group(word) in SET_ASIDE]
    followed = [word for word in rest if word not in aside]
    _check(followed, trust)
    return StoredCommand(tuple(followed), tuple(aside))


def _check(overrides: Sequence[str], trust: Trust) -> None:
    known = {
        *groups(),
        *(path.parent.name for folder in trust.config_dirs for path in folder.glob("*/*.yaml")),
    }
    for override in overrides:
        key, _, value = override.partition("=")
        if not re.fullmatch(r"[+~]*[\w.]+", key):
            raise SettingError("command", override, "KEY=VALUE")
        if "$" in REFERENCE.sub("", override):
            raise SettingError("command", override, "values, and no interpolations")
        if CLASS.search(override) and not trust.everything:
            raise SettingError("command", override, "no class, without --trust")
        if key_of(override) in known:
            options = [option.strip(" '\"") for option in value.strip("[]").split(",")]
            if odd := [option for option in options if option and not PLAIN.fullmatch(option)]:
                raise SettingError("command", override, f"options of {key}, and {odd[0]} cannot be one")


def key_of(override: str) -> str:
    """The setting that an override sets."""
    return override.lstrip("+~").partition("=")[0]


def _group(override: str) -> str:
    return re.split(r"[./@]", key_of(override))[0]
