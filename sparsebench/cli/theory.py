"""``sparsebench theory``: compare a paper's prediction with a simulation; writes a folder of tables and figures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sparsebench.cli import hydra_program
from sparsebench.cli import list as listing
from sparsebench.cli.hydra_program import HELP_FLAGS, INFO_FLAGS, expand_shorthand, register
from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import RunError, SettingError, one_of, printable
from sparsebench.paths import options

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sparsebench.theory.study import Study, Tables

HELP = """\
usage: sparsebench theory study=NAME [study.KEY=VALUE ...] [device=cuda] [results_dir=FOLDER]

  sparsebench theory study=NAME --cfg job      print every setting
  sparsebench sweep study=NAME study.seed=0,1  one study per combination of comma-separated values

studies:"""

_failed: list[Exception] = []
_collected: list[bool] = []
"""Non-empty if the study runs in the command's own process, which raises the errors at its end."""


def _task(cfg: DictConfig) -> None:
    """One study; launchers also run this in other processes, so everything else is imported here."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from sparsebench.config.catalog import entries
    from sparsebench.config.compose import STUDY
    from sparsebench.config.identity import study_id
    from sparsebench.runs.run_lock import note_failure
    from sparsebench.runs.study import run_study

    job = HydraConfig.get()
    choices = dict(job.runtime.choices)
    try:
        name = str(choices[STUDY])
        entry = next(entry for entry in entries("theory") if entry.name == name)
        about = {"shows": entry.description, "paper": entry.reference}
        run_study(cfg, choices, _as_typed(job.overrides.task), about, _figures)
    except (SettingError, RunError, OSError) as error:
        note_failure(cfg, lambda: study_id(cfg, choices), error)
        if job.mode == RunMode.MULTIRUN:  # the others continue
            print(
                printable(f"sparsebench: {' '.join(_as_typed(job.overrides.task))}: {error}"), file=sys.stderr
            )
            if not _collected:
                raise
        _failed.append(error)


def _figures(name: str, definition: Study, tables: Tables) -> Iterator[tuple[str, bytes]]:
    """(file, content) of every figure of a study."""
    import pandas as pd

    from sparsebench.report.studies import files

    return files(name, {t: pd.DataFrame(tables[t], columns=list(c)) for t, c in definition.tables.items()})


def main(arguments: Sequence[str], sweep: bool = False) -> int:
    """Run ``sparsebench theory ARGUMENTS``, or with ``sweep`` one study per combination.

    Returns:
        The exit status, 0; a failed check is a result, not an error.

    Raises:
        SettingError: A setting is wrong.
    """
    from sparsebench.config import renamed
    from sparsebench.config.compose import STUDY
    from sparsebench.config.open import explain

    overrides = [expand_shorthand(override) for override in renamed.update_overrides(arguments)]
    overrides = [
        f"{STUDY}={override[6:]}" if override.startswith("study=") else override for override in overrides
    ]
    if not any(override.startswith(f"{STUDY}=") for override in overrides):
        if not HELP_FLAGS & set(overrides):
            raise SettingError("study", None, one_of(options("theory"), ""))
        print(HELP)
        return listing.COMMAND.main(["theory"])
    sweep = sweep or bool({"--multirun", "-m"} & set(overrides))
    overrides = [override for override in overrides if override not in ("--multirun", "-m")]
    if hydra_program.show_help("sweep" if sweep else "theory", overrides, "theory"):
        return 0
    if sweep and not INFO_FLAGS & set(overrides):
        overrides.append("--multirun")
    register()
    try:
        _failed.clear()
        if "--multirun" in overrides:
            _validate_all(overrides)
        _collected.append(True)
        hydra_program.call(_task, "theory", overrides)
        if _failed and "--multirun" in overrides:
            raise RunError(f"{len(_failed)} studies failed; the first: {_failed[0]}")
        if _failed:
            raise _failed[0]
    except Exception as error:
        explained = explain(error, [override for override in overrides if "=" in override], "theory")
        if explained is None:
            raise
        if explained.setting == "theory":
            explained = SettingError("study", explained.given, explained.allowed)
        raise explained from error
    finally:
        _collected.clear()
    return 0


def _validate_all(overrides: Sequence[str]) -> None:
    """Refuse a wrong setting of any study of a sweep before the first one starts."""
    from hydra import compose
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from sparsebench.config.compose import own_hydra
    from sparsebench.config.open import validate_study

    words, flags = hydra_program.parse(overrides)
    more = hydra_program.search_path(flags)
    with own_hydra():
        jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)[0]
        for job in jobs:
            cfg = compose("theory", overrides=[*job, *more], return_hydra_config=True)
            choices = dict(cfg.hydra.runtime.choices)
            del cfg.hydra
            validate_study(cfg, choices)
        if not jobs:
            raise SettingError("overrides", None, "at least one value of each setting: there is no study")


def _as_typed(overrides: Sequence[str]) -> list[str]:
    """The overrides as typed on the command line."""
    from sparsebench.config.compose import STUDY

    typed = [override.replace(f"{STUDY}=", "study=") for override in overrides]
    return [override for override in typed if not override.startswith("redo_older=")]  # said to one execution


COMMAND = Subcommand(
    name="theory",
    help="compare a paper's prediction with a simulation",
    section=Section.RUN,
    order=2,
    config="theory",
    examples=("sparsebench theory study=overparam_prune",),
    run=main,
)
