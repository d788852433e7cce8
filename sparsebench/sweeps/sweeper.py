"""Sweeps over an experiment's grids, with an estimate of their cost before and a comparison after."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Mapping, Sequence
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
from sparsebench.distributed.threads import default_threads
from sparsebench.errors import SettingError
from sparsebench.paths import expanded, groups
from sparsebench.records.states import ResultsFolder
from sparsebench.runs.numerics import settle
from sparsebench.sweeps.estimate import Estimate
from sparsebench.sweeps.launchers import ranks_of_jobs
from sparsebench.sweeps.scheduler import DONE, PlannedRun, Scheduler, table

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
    ) -> None:
        super().__init__(max_batch_size, None)
        self.retries = retries
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
        runs, costs = self._planned([*self._parse_config(), *arguments])
        folder = Path(str(self.config.hydra.sweep.dir))
        scheduler = Scheduler(runs, folder, self.retries, self.max_batch_size, bool(self.config.overwrite))
        if self.dry_run:
            print(table(scheduler.states().items()))
        if costs is not None:
            print(costs, flush=True)
        if self.dry_run:
            return []
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        try:
            scheduler.finish(self.launcher.launch)
        except Exception:
            self._compare()  # compare the other runs first; the error comes last
            raise
        self._compare()
        return []

    def _planned(self, overrides: Sequence[str]) -> tuple[list[PlannedRun], Estimate | None]:
        """The distinct runs, and for an experiment or a dry run the cost of the remaining ones."""
        assert self.config is not None
        batches = self.split_arguments(self._parsed(overrides), None)
        costs = Estimate() if self.grids or self.dry_run else None
        runs: dict[str, PlannedRun] = {}
        found: dict[Path, ResultsFolder] = {}
        jobs = [job for batch in batches for job in batch]
        for job in tqdm(jobs, desc="planning", unit="run", disable=None, leave=False):
            cfg, choices = self._compose(job)
            validate(cfg, choices)
            require_targets(cfg, defaults(choices))
            job, results = (
                resolve(cfg, job),
                expanded(cfg.results_dir),
            )  # once for all jobs: no auto is left to them
            results_now = found.setdefault(results, ResultsFolder(results))
            name = id_of(identity_in(results_now, cfg, choices, ranks_of_jobs(self.config, choices)))
            if name in runs:
                continue
            runs[name] = PlannedRun(name, results, tuple(job), search=cfg.tune_to_target is True)
            if costs is not None:
                costs.add(settle(cfg, {}, default_threads()), choices, results_now.state(name).state in DONE)
        if not runs:
            empty = [o.get_key_element() for o in self._parsed(overrides) if _is_empty(o)]
            raise SettingError(", ".join(empty) or "overrides", None, "at least one value: there is no run")
        return list(runs.values()), costs

    def _parsed(self, overrides: Sequence[str]) -> list[Override]:
        loader = self.hydra_context.config_loader if self.hydra_context else None
        parser = OverridesParser.create(config_loader=loader)
        return list(parser.parse_overrides(list(overrides)))

    def _compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str | None]]:
        """The config of a job and its choices; composed once per set of choices, since Hydra takes 0.1 s."""
        assert self.hydra_context is not None and self.config is not None
        known, values = set(groups()), []
        chosen: list[str] = []
        for text, override in zip(overrides, self._parsed(overrides), strict=True):
            plain = override.type is OverrideType.CHANGE and override.package is None  # not +, ++ or ~
            if plain and "/" not in override.key_or_group and override.key_or_group not in known:
                values.append(override)
            else:
                chosen.append(text)
        key = tuple(chosen)
        if key not in self._bases:
            self._bases[key] = self._loaded(chosen)
        base, choices = self._bases[key]
        cfg = copy.deepcopy(base)
        try:
            for override in values:
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            cfg, choices = self._loaded(overrides)  # so that Hydra reports the error
        return cfg, choices

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
        results = expanded(self.config.results_dir)
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
