"""What the config groups offer, and configs composed of it."""

from __future__ import annotations

from hydra import compose
from omegaconf import DictConfig

from sparsebench.config.compose import own_hydra
from sparsebench.paths import config_dir


def options(group: str) -> list[str]:
    """The options of a config group, found in its folder."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def train_config(*overrides: str) -> tuple[DictConfig, dict[str, str | None]]:
    """(config, choices), composed as the command line composes them."""
    with own_hydra():
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        del cfg.hydra
    return cfg, choices
