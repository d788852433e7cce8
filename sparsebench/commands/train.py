"""``sparsebench train`` and ``sparsebench sweep``: from a config to a run folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig

from sparsebench.config import explain
from sparsebench.errors import RunError, SettingError
from sparsebench.launch import only_first_prints, speaks
from sparsebench.location import config_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig


_failed: list[Exception] = []


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
def _task(cfg: DictConfig) -> float | None:
    """One run; also what launchers send to other processes, so everything else is imported here."""
    from sparsebench.commands.run import run
    from sparsebench.commands.tune import tune

    job = HydraConfig.get()
    choices = dict(job.runtime.choices)
    try:
        extra = [f"--config-dir={s.path}" for s in job.runtime.config_sources if s.provider == "command-line"]
        todo = tune if cfg.tune_to_target is True else run
        return todo(cfg, choices, [*extra, *job.overrides.task])
    except (SettingError, RunError, OSError) as error:
        _note(cfg, choices, error)
        if job.mode == hydra.types.RunMode.MULTIRUN:  # the others go on; the last word is the sweep's
            if speaks(job.overrides.task, error):
                print(f"sparsebench: {' '.join(job.overrides.task)}: {error}", file=sys.stderr)
            raise
        _failed.append(error)  # raised by main: Hydra would print a line of its own
        return None
    except Exception as error:  # of a method of another package, say: the sweep names it, whenever it came
        _note(cfg, choices, error)
        raise


def in_full(word: str) -> str:
    """What a short word of ``sparsebench sweep`` stands for.

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
        if word.startswith(short):
            return full + word[len(short) :]
    return word


def _note(cfg: DictConfig, choices: dict[str, str | None], error: Exception) -> None:
    """Leave an error of a sweep's run where the sweep looks for it: one before the run was claimed has not done so."""
    from sparsebench.commands.exclusive import Held
    from sparsebench.config import run_id
    from sparsebench.records.states import fail

    if not cfg.wait and not isinstance(error, Held):
        fail(Path(cfg.results_dir).expanduser(), run_id(cfg, choices), error)


def main(arguments: Sequence[str], sweep: bool = False) -> int:
    """Run ``sparsebench train ARGUMENTS``, or one run for every combination with ``sweep``.

    Returns:
        The exit status, 0.

    Raises:
        SettingError: A setting is wrong.
        RunError: The run diverged, or missed its sparsity.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed with a traceback
    words = list(arguments)
    if sweep:
        from sparsebench.commands.sweep import register

        register()
        words = [in_full(word) for word in words]
        if not {"--cfg", "-c", "--info", "-i"} & set(words):  # which show, and run nothing
            words.append("--multirun")
    program, sys.argv = sys.argv, ["sparsebench", *words]
    try:
        _failed.clear()
        with only_first_prints(arguments):
            _task()
        if _failed:
            raise _failed[0]
    except Exception as error:  # a config that is missing is an OSError too
        explained = explain(error, [word for word in arguments if "=" in word])
        if explained is None:
            raise
        raise explained from error
    finally:
        sys.argv = program
    return 0
