"""``sparsebench train tune_to_target=true``: search for the setting that yields the target sparsity."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from sparsebench.config.compose import defaults
from sparsebench.config.open import validate
from sparsebench.config.used import setting_of, unused_overrides
from sparsebench.distributed.ddp import broadcast_from_main
from sparsebench.errors import SettingError
from sparsebench.pruning.learned import TunedSetting
from sparsebench.runs.result import show
from sparsebench.runs.run import advance
from sparsebench.training.signals import StopSignals
from sparsebench.training.steps import Steps, finish

TOLERANCE = 0.005
"""Accepted distance from the target sparsity."""

MAX_TRIALS = 10
"""Maximum number of runs."""


def tune(cfg: DictConfig, choices: Mapping[str, str | None], overrides: list[str]) -> float:
    """:func:`search` to the end."""
    return finish(search(cfg, choices, overrides))


def search(
    cfg: DictConfig,
    choices: Mapping[str, str | None],
    overrides: list[str],
    signals: StopSignals | None = None,
) -> Steps[float]:
    """Search for the value of the method's ``tuned`` setting; every trial is a complete run with its own folder.

    The first trial uses the configured value; then interpolation and bisection alternate. Finished runs are reused,
    so that an interrupted search resumes.

    Args:
        cfg: The composed config; its ``sparsity`` is the target.
        choices: Config group -> chosen option.
        overrides: Overrides of the command line.
        signals: Stop signals that the process already listens to; by default they are listened to here.

    Returns:
        The validation accuracy, in percent, of the run whose sparsity is closest to the target.

    Raises:
        SettingError: The method has a target sparsity, or a setting is wrong.
        RunError: A run diverged.
    """
    validate(cfg, choices)
    tuned: TunedSetting | None = getattr(get_class(str(cfg.prune._target_)), "tuned", None)
    if tuned is None:
        allowed = f"false with prune={choices['prune']}, which reaches the requested sparsity by itself"
        raise SettingError("tune_to_target", "true", allowed)
    searched = ("tune_to_target", tuned.setting)
    others = [override for override in overrides if override.lstrip("+").split("=")[0] not in searched]
    plain, others = _without_target(cfg, choices, others)
    dense, sparse = (tuned.densest, 0.0), (tuned.sparsest, 1.0)  # (value, sparsity)
    value = float(OmegaConf.select(cfg, tuned.setting))
    if not min(dense[0], sparse[0]) < value < max(dense[0], sparse[0]):
        value = (dense[0] + sparse[0]) / 2
    best = None
    for number in range(1, MAX_TRIALS + 1):
        value = float(f"{value:.6g}")  # as written in the command
        one = copy.deepcopy(plain)
        OmegaConf.update(one, tuned.setting, value)
        folder = yield from advance(one, choices, [*others, f"{tuned.setting}={value}"], signals)
        row = broadcast_from_main(folder.summary) or {}
        sparsity = float(row["sparsity"])
        print(
            f"tune_to_target: trial {number} of at most {MAX_TRIALS}, {tuned.setting}={value}: sparsity {sparsity:.4f}"
        )
        if best is None or abs(sparsity - cfg.sparsity) < best[0]:
            best = abs(sparsity - cfg.sparsity), value, folder.path, row
        if best[0] <= TOLERANCE:
            break
        dense, sparse = ((value, sparsity), sparse) if sparsity < cfg.sparsity else (dense, (value, sparsity))
        fraction = (cfg.sparsity - dense[1]) / (sparse[1] - dense[1]) if number % 2 else 0.5
        value = dense[0] + fraction * (sparse[0] - dense[0])
    assert best is not None
    distance, value, path, row = best
    how = "within" if distance <= TOLERANCE else "not within"
    print(f"tune_to_target: closest to {cfg.sparsity:g} is {tuned.setting}={value}, {how} {TOLERANCE}")
    show(row, path)
    return float(row["val_top1"])


def _without_target(
    cfg: DictConfig, choices: Mapping[str, str | None], overrides: list[str]
) -> tuple[DictConfig, list[str]]:
    """A config and its overrides without the search, and without the settings that only the search uses."""
    cfg = copy.deepcopy(cfg)
    cfg.tune_to_target = False
    ignored = unused_overrides(overrides, cfg, choices)
    known = defaults(choices)
    for key in map(setting_of, ignored):
        OmegaConf.update(cfg, key, known[key])
    return cfg, [override for override in overrides if override not in ignored]
