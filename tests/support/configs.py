"""What the config groups offer, and configs composed of it."""

from __future__ import annotations

import copy
from functools import cache

from hydra import compose
from omegaconf import DictConfig

from sparsebench.config.compose import own_hydra
from sparsebench.paths import config_dir


def options(group: str) -> list[str]:
    """The options of a config group, found in its folder."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def train_config(*overrides: str) -> tuple[DictConfig, dict[str, str | None]]:
    """(config, choices), composed as the command line composes them; one's own, to be changed at will."""
    cfg, choices = _composed(overrides)
    return copy.deepcopy(cfg), dict(choices)


@cache
def _composed(overrides: tuple[str, ...]) -> tuple[DictConfig, dict[str, str | None]]:
    """Composing takes as long as some of the trainings that tests make of it, and many tests ask for the same."""
    with own_hydra():
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        del cfg.hydra
    return cfg, choices
