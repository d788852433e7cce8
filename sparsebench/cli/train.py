"""``sparsebench train``: from a config to a run folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsebench.cli import hydra_program
from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import RunError, SettingError, printable

if TYPE_CHECKING:
    from omegaconf import DictConfig

MULTIRUN = frozenset({"--multirun", "-m"})
"""Hydra's flags for what is ``sparsebench sweep`` here."""

_failed: list[Exception] = []


def _task(cfg: DictConfig) -> float | None:
    """One run; launchers also run this in other processes, so everything else is imported here."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from sparsebench.config.build import require_targets
    from sparsebench.config.compose import defaults
    from sparsebench.config.open import explained, validate
    from sparsebench.runs.run import run
    from sparsebench.runs.tune_to_target import tune

    job = HydraConfig.get()
    choices = dict(job.runtime.choices)
    try:
        extra = [f"--config-dir={s.path}" for s in job.runtime.config_sources if s.provider == "command-line"]
        todo = tune if cfg.get("tune_to_target") is True else run
        with explained():
            typed = list(job.overrides.task)  # resolves them
        validate(cfg, choices)
        require_targets(cfg, defaults(choices))
        if job.mode == RunMode.RUN:  # a sweep has left out what its jobs do not use
            typed = _used(typed, cfg, choices)
        return todo(cfg, choices, [*extra, *typed])
    except (SettingError, RunError, OSError) as error:
        _note(cfg, choices, error)
        if job.mode == RunMode.MULTIRUN:  # the others continue; the sweep prints the summary
            from sparsebench.distributed.rank_env import should_report_error

            if should_report_error(job.overrides.task, error):
                print(printable(f"sparsebench: {' '.join(job.overrides.task)}: {error}"), file=sys.stderr)
            raise
        _failed.append(error)  # raised by main, because Hydra would print its own message
        return None
    except Exception as error:  # such as a bug in another package's method: the sweep reports it
        _note(cfg, choices, error)
        raise


def _used(typed: list[str], cfg: DictConfig, choices: dict[str, str | None]) -> list[str]:
    """The overrides without ``sparsity``, if the method ignores it; refuses any other that has no effect."""
    from sparsebench.config.used import refuse, setting_of, unused_overrides

    ignored = unused_overrides(typed, cfg, choices)
    for override, why in ignored.items():
        if setting_of(override) != "sparsity" or choices["prune"] != "dense":
            raise refuse(override, why)
        print(f"sparsebench: note: {override}: {why}", file=sys.stderr)
    return [override for override in typed if override not in ignored]


def _note(cfg: DictConfig, choices: dict[str, str | None], error: Exception) -> None:
    """Record an error of a run for its sweep, even if it was raised before the run was claimed."""
    from sparsebench.config.identity import known_id
    from sparsebench.runs.run_lock import note_failure

    note_failure(cfg, lambda: known_id(cfg, choices), error)


def main(arguments: Sequence[str]) -> int:
    """Run ``sparsebench train ARGUMENTS``.

    Returns:
        The exit status, 0.

    Raises:
        SettingError: A setting is wrong.
        RunError: The run diverged, or missed its target sparsity.
    """
    if any(word in MULTIRUN or word.upper() == "HYDRA.MODE=MULTIRUN" for word in arguments):
        from sparsebench.cli import sweep

        return sweep.main(arguments)
    overrides = present_overrides(arguments)
    return run_hydra(overrides, overrides)


def present_overrides(arguments: Sequence[str]) -> list[str]:
    """Overrides as the configs name them: no old names, no second names, no flags of this program.

    Raises:
        SettingError: A setting has two values.
    """
    from sparsebench.config import renamed
    from sparsebench.config.resolve import as_settings

    flags = {"--allow-other-numerics": "allow_other_numerics=true", "--redo-older": "redo_older=true"}
    return as_settings(renamed.update_overrides([flags.get(word, word) for word in arguments]))


def run_hydra(argv: Sequence[str], overrides: Sequence[str], command: str = "train") -> int:
    """Run Hydra's program on one config or a sweep; returns the exit status.

    Args:
        argv: Overrides as typed on the command line.
        overrides: The same in the form that Hydra takes.
        command: Name of the subcommand.

    Raises:
        SettingError: A setting is wrong.
        RunError: A run diverged, or missed its target sparsity.
    """
    from sparsebench.config.open import explain
    from sparsebench.distributed.rank_env import main_rank_stdout_only

    try:
        _failed.clear()
        if hydra_program.show_help(command, overrides):
            return 0
        with main_rank_stdout_only(argv):
            hydra_program.call(_task, "train", overrides)
        if _failed:
            raise _failed[0]
    except Exception as error:  # a missing config is an OSError too
        explained = explain(error, [override for override in argv if "=" in override])
        if explained is None:
            raise
        raise explained from error
    return 0


COMMAND = Subcommand(
    name="train",
    help="train and prune one model, or resume an interrupted run",
    section=Section.RUN,
    order=0,
    config="train",
    examples=(
        "sparsebench train model=resnet prune=dpf sparsity=0.9",
        "sparsebench train --cfg job          print every setting",
    ),
    run=main,
)
