"""Sweeps over an experiment's grids, with an estimate of their cost before and a comparison after."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from sparsebench.config.build import format_override, require_targets
from sparsebench.config.compose import defaults
from sparsebench.config.identity import id_of, identity_in
from sparsebench.config.open import validate, validate_sweep
from sparsebench.config.resolve import resolve
from sparsebench.config.used import has, setting_of
from sparsebench.distributed.threads import default_threads
from sparsebench.errors import RunError, SettingError
from sparsebench.files import make_shared, write_text
from sparsebench.paths import expanded, groups
from sparsebench.records.states import ResultsFolder
from sparsebench.runs.numerics import settle
from sparsebench.sweeps.estimate import Estimate
from sparsebench.sweeps.launchers import ranks_of_jobs
from sparsebench.sweeps.older import OlderRuns
from sparsebench.sweeps.scheduler import DONE, PlannedRun, Scheduler, table
from sparsebench.sweeps.unused import UnusedInSweep, exists_in_some

_PLAIN = re.compile(r"[A-Za-z_]\w*$|\d+(ep|it)$")


class GridSweeper(BasicSweeper):
    """Hydra's basic sweeper (all combinations of comma-separated values) over several grids.

    An override on the command line (or in ``params``) replaces a grid's list of values; a grid that fixes the setting
    to a different value is skipped. So ``model.depth=20`` restricts the depths, and ``model=resnet`` skips the grids of
    other models. Runs that occur in several grids run once.

    Args:
        max_batch_size: Jobs to launch at once; all by default.
        params: Setting -> values as on the command line, for all grids.
        grids: Setting -> one value or a list, for each grid.
        reference: Name of the table in ``results/reference`` to compare the results with at the end.
        dry_run: Print the runs with their states and the estimated cost of the remaining ones, without running any.
        retries: How often a failed run is retried.
        where_it_exists: Leave a setting out of the runs whose options do not have it.
    """

    compare: Callable[[Sequence[str]], int]
    """``sparsebench compare``; set by the plugin, because ``sweeps`` does not depend on ``cli``."""

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: Mapping[str, Any] | None = None,
        grids: Sequence[Mapping[str, Any]] = (),
        reference: str | None = None,
        dry_run: bool = False,
        retries: int = 1,
        where_it_exists: bool = False,
    ) -> None:
        super().__init__(max_batch_size, None)
        self.retries, self.where_it_exists = retries, where_it_exists
        self._bases: dict[tuple[str, ...], tuple[DictConfig, dict[str, str | None]]] = {}
        self.grids, self.reference, self.dry_run = grids, reference, dry_run
        self._given_params = params  # as given until they have been validated

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra with its context, after the constructor; the launcher is constructed here.

        Raises:
            SettingError: A setting of the sweeper or launcher is not allowed.
        """
        validate_sweep(config)
        self.params, self.grids = dict(self._given_params or {}), [dict(grid) for grid in self.grids]
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def split_arguments(  # type: ignore[override] # a static method of Hydra's, called through self
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The overrides of every job, in batches."""
        if not self.grids:
            return super().split_arguments(overrides, max_batch_size)
        jobs: dict[tuple[str, ...], list[str]] = {}
        for grid in _restricted(self.grids, overrides):
            own = self._parsed([_grid_override(setting, values) for setting, values in grid.items()])
            for job in super().split_arguments([*own, *overrides], None)[0]:
                jobs[tuple(sorted(job))] = job
        if not jobs:
            fixed = sorted({f"{k}={v}" for grid in self.grids for k, v in grid.items() if not _many(v)})
            raise SettingError("grids", None, f"settings of at least one of the experiment's grids: {fixed}")
        ordered = sorted(jobs.values(), key=_seed)  # all of one seed first: half a sweep is a table then
        return list(self.split_overrides_to_chunks(ordered, max_batch_size))

    def sweep(self, arguments: list[str]) -> Any:
        """Run everything unfinished; for an experiment, print the estimated cost before and a comparison after.

        Raises:
            RunError: Some runs failed.
        """
        assert self.config is not None and self.launcher is not None
        runs, costs = self._planned([*self._parse_config(), *arguments], arguments)
        folder = expanded(self.config.hydra.sweep.dir, "results_dir")
        scheduler = Scheduler(runs, folder, self.retries, self.max_batch_size, bool(self.config.overwrite))
        if self.dry_run:
            print(table(scheduler.states().items()))
        if costs is not None:
            print(costs, flush=True)
        if self.dry_run:
            return []
        for made in (folder.parent, folder):
            make_shared(made)
        write_text(folder / "multirun.yaml", OmegaConf.to_yaml(self.config))
        try:
            scheduler.finish(self.launcher.launch)
        except Exception:
            with suppress(RunError):  # said; compare the other runs first, the error comes last
                self._compare()
            raise
        self._compare()
        return []

    def _planned(
        self, overrides: Sequence[str], typed: Sequence[str]
    ) -> tuple[list[PlannedRun], Estimate | None]:
        """The distinct runs, and for an experiment or a dry run the cost of the remaining ones.

        Args:
            overrides: Of the command line, and of the sweeper's ``params``.
            typed: Those of the command line.
        """
        assert self.config is not None
        batches = self.split_arguments(self._parsed(overrides), None)
        costs = Estimate() if self.grids or self.dry_run else None
        runs: dict[str, PlannedRun] = {}
        found: dict[Path, ResultsFolder] = {}
        jobs = self._where_settings_exist([job for batch in batches for job in batch])
        unused, older = UnusedInSweep(typed), OlderRuns()
        for full in tqdm(jobs, desc="planning", unit="run", disable=None, leave=False):
            cfg, choices = self._compose(full)
            validate(cfg, choices)
            require_targets(cfg, defaults(choices))
            if (job := unused.leave_out(full, cfg, choices)) != full:
                cfg, choices = self._compose(job)
            job, results = (
                resolve(cfg, job),
                expanded(cfg.results_dir, "results_dir"),
            )  # once for all jobs: no auto is left to them
            results_now = found.setdefault(results, ResultsFolder(results))
            name = id_of(identity_in(results_now, cfg, choices, ranks_of_jobs(self.config, choices)))
            unused.planned(full, job, choices, name)
            if name in runs:
                continue
            again = older.is_made_anew(results_now.begun(name), cfg)
            runs[name] = PlannedRun(name, results, tuple(job), search=cfg.tune_to_target is True, again=again)
            if costs is not None:
                done = not again and results_now.state(name).state in DONE
                costs.add(settle(cfg, {}, default_threads()), choices, done)
        for line in (*unused.check(), *older.check()):
            print(line, flush=True)
        if not runs:
            empty = [o.get_key_element() for o in self._parsed(overrides) if _is_empty(o)]
            raise SettingError(", ".join(empty) or "overrides", None, "at least one value: there is no run")
        return list(runs.values()), costs

    def _where_settings_exist(self, jobs: list[list[str]]) -> list[list[str]]:
        """The jobs, without the settings that their options do not have if ``where_it_exists`` allows it.

        Raises:
            SettingError: Some jobs do not have a setting, and it is not allowed.
        """
        missing = [self._missing(job) for job in jobs]
        for override in dict.fromkeys(one for found in missing for one in found):
            key = setting_of(override)
            there = [
                job for job, found in zip(jobs, missing, strict=True) if key not in map(setting_of, found)
            ]
            if there and not self.where_it_exists:
                job = next(job for job, found in zip(jobs, missing, strict=True) if override in found)
                raise exists_in_some(override, self._options(there), self._options([job]))
            if not there:
                self._loaded(next(job for job, found in zip(jobs, missing, strict=True) if override in found))
        kept = [[o for o in job if o not in found] for job, found in zip(jobs, missing, strict=True)]
        return list({tuple(sorted(job)): job for job in kept}.values())

    def _missing(self, job: Sequence[str]) -> list[str]:
        """Overrides of a job whose setting its options do not have."""
        chosen, values = self._split(job)
        if not values:
            return []
        base, _ = self._base(chosen)
        return [text for text, override in values if not has(base, override.key_or_group)]

    def _options(self, jobs: Sequence[Sequence[str]]) -> dict[str, list[str]]:
        """Config group -> the options that the jobs choose."""
        found: dict[str, list[str]] = {}
        for job in jobs:
            for group, option in self._base(self._split(job)[0])[1].items():
                if str(option) not in found.setdefault(group, []):
                    found[group].append(str(option))
        return found

    def _parsed(self, overrides: Sequence[str]) -> list[Override]:
        loader = self.hydra_context.config_loader if self.hydra_context else None
        parser = OverridesParser.create(config_loader=loader)
        return list(parser.parse_overrides(list(overrides)))

    def _compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str | None]]:
        """The config of a job and its choices; composed once per set of choices, since Hydra takes 0.1 s."""
        chosen, values = self._split(overrides)
        base, choices = self._base(chosen)
        cfg = copy.deepcopy(base)
        try:
            for _, override in values:
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            cfg, choices = self._loaded(overrides)  # so that Hydra reports the error
        return cfg, choices

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, Override]]]:
        """Overrides that choose options, and those that set values, as written and parsed."""
        known, chosen, values = set(groups()), [], []
        for text, override in zip(overrides, self._parsed(overrides), strict=True):
            plain = override.type is OverrideType.CHANGE and override.package is None  # not +, ++ or ~
            if plain and "/" not in override.key_or_group and override.key_or_group not in known:
                values.append((text, override))
            else:
                chosen.append(text)
        return tuple(chosen), values

    def _base(self, chosen: tuple[str, ...]) -> tuple[DictConfig, dict[str, str | None]]:
        if chosen not in self._bases:
            self._bases[chosen] = self._loaded(chosen)
        return self._bases[chosen]

    def _loaded(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str | None]]:
        assert self.hydra_context is not None and self.config is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        choices: dict[str, str | None] = dict(cfg.hydra.runtime.choices)
        OmegaConf.set_readonly(cfg, False)
        OmegaConf.set_readonly(cfg.hydra, False)
        del cfg.hydra
        return cfg, choices

    def _compare(self) -> None:
        assert self.config is not None
        results = expanded(self.config.results_dir, "results_dir")
        if not self.grids or not results.is_dir():
            return
        tables = [*([f"reference:{self.reference}"] if self.reference else []), str(results)]
        print(f"\nsparsebench compare {' '.join(tables)}", flush=True)
        try:
            self.compare(tables)
        except SettingError as error:
            print(f"sparsebench: {error}", file=sys.stderr)


def _restricted(grids: Sequence[Mapping[str, Any]], overrides: Sequence[Override]) -> list[Mapping[str, Any]]:
    """The grids that no override contradicts."""
    chosen: dict[str, set[str]] = {}
    for override in overrides:
        values = (
            {str(value) for value in override.sweep_string_iterator()}
            if override.is_sweep_override()
            else {override.get_value_element_as_str()}
        )
        chosen[override.get_key_element()] = {value.strip("'\"") for value in values}
    return [
        grid
        for grid in grids
        if all(_many(v) or k not in chosen or {str(v)} & chosen[k] for k, v in grid.items())
    ]


def _grid_override(setting: str, values: Any) -> str:
    """``setting=value,value`` as on the command line, without quotes around names and times."""

    def text(value: Any) -> str:
        return value if isinstance(value, str) and _PLAIN.match(value) else format_override("", value)[1:]

    return f"{setting}={','.join(text(value) for value in (values if _many(values) else [values]))}"


def _is_empty(override: Override) -> bool:
    return override.is_sweep_override() and not list(override.sweep_string_iterator())


def _seed(job: Sequence[str]) -> int:
    given = next((override[5:] for override in job if override.startswith("seed=")), "0")
    return int(given) if given.isdigit() else 0


def _many(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str)
