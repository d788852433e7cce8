"""The audit of one run: every check, from the names to the accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsebench.errors import RunError, SettingError
from sparsebench.records import schema
from sparsebench.runs.audit.accuracies import (
    Tolerances,
    check_accuracies,
    check_evaluation_files,
    check_evaluations,
)
from sparsebench.runs.audit.command import check_command
from sparsebench.runs.audit.counts import (
    check_counts,
    check_layers,
    check_without_model,
    read_weights,
)
from sparsebench.runs.audit.findings import CANNOT_BE_CHECKED, Finding, Report, number
from sparsebench.runs.audit.flops import check_flops
from sparsebench.runs.audit.hashes import check_data_hashes, check_init_hash, check_weights_hash
from sparsebench.runs.audit.history import check_best, check_rows, check_status, check_table
from sparsebench.runs.audit.names import check_names
from sparsebench.runs.build import RunComponents, build_run
from sparsebench.runs.hashes.weights import weights_hash
from sparsebench.runs.reopen import Datasets, FinishedRun, read_table
from sparsebench.runs.result import Network


@dataclass(frozen=True)
class Extent:
    """How much is checked.

    Args:
        accuracy: Evaluate the model on its validation and test images.
        evaluations: Compute the columns of evaluations again.
        tolerances: What accuracies may differ by.
    """

    accuracy: bool = True
    evaluations: bool = False
    tolerances: Tolerances = field(default_factory=Tolerances)


@dataclass(frozen=True)
class Audited:
    """A run that has been audited.

    Args:
        path: Its folder.
        found: What was found.
        run: The run, if its files could be read.
        weights: The hash of its weights, as they are; empty if they could not be read.
    """

    path: Path
    found: list[Finding]
    run: FinishedRun | None = None
    weights: str = ""


def audit(path: Path, datasets: Datasets, extent: Extent | None = None) -> Audited:
    """What does not hold of the run in ``path``, what should be known, and what was not checked.

    Args:
        path: A folder with a summary.csv.
        datasets: Cache of data sets, with what the auditor has typed.
        extent: How much is checked.
    """
    checks = _Audit(path, datasets, extent or Extent())
    try:
        checks.check()
    except RunError as error:
        column, _, what = str(error).partition(": ")
        checks.report.fail(column, "a readable file", what)
    except Exception as error:  # any error of a damaged or foreign run is a finding of that run alone
        what = (
            f"{type(error).__name__}: {error}" if not isinstance(error, (ValueError, OSError)) else str(error)
        )
        checks.report.fail("run", "a run that can be rebuilt", " ".join(what.split())[:300])
    return Audited(path, checks.report.found, checks.run, checks.weights)


class _Audit:
    def __init__(self, path: Path, datasets: Datasets, extent: Extent) -> None:
        self.path, self.datasets, self.extent = path, datasets, extent
        self.report, self.weights = Report(path.name), ""
        self.run: FinishedRun | None = None

    def check(self) -> None:
        self.run = run = FinishedRun(self.path, self.datasets.trust)
        self.report.row = run.row
        check_names(run, self.report)
        rows, layers = read_table(self.path / schema.METRICS), read_table(self.path / schema.LAYERS)
        usable = check_table(rows, self.report)
        if usable:
            check_status(rows, self.report)
        check_command(run, self.report)
        for place, why in run.not_built.items():
            self.report.note(f"{schema.CONFIG} {place}", "a class", f"not built without --trust: {why}")
        for place, value in run.not_opened.items():
            self.report.note(f"{schema.CONFIG} {place}", value, "not opened: below no folder that was typed")
        net = self.network()
        state = net.model.state_dict() if net is not None else read_weights(run)
        self.weights = weights_hash(state)
        check_weights_hash(state, self.report)
        if net is not None:
            self.built(run, net, rows if usable else [], layers)
        else:
            self.unbuilt(state, rows if usable else [], layers)
        self.rest()

    def network(self) -> Network | None:
        """The model with the run's weights, if it may be built and its data are here."""
        assert self.run is not None
        refused = self.run.refused("model", "dataset", "device", "prunable")
        why = f"not built without --trust: {'; '.join(refused)}"
        if not refused:
            try:
                return self.run.network(self.datasets)
            except SettingError as error:  # of data that are not here, for example
                why = f"not built here: {error}"
        self.report.note("run", "model and data", why)
        self.why = why
        return None

    def built(
        self, run: FinishedRun, net: Network, rows: list[dict[str, str]], layers: list[dict[str, str]]
    ) -> None:
        """The checks that need the model."""
        report = self.report
        report.compare({"dataset": net.dataset.name, "model": getattr(net.model, "name", "")})
        components = self.components(net)
        target_zeros, numel = self.target(components), sum(p.numel() for p in net.prunable.values())
        masked = _masked(rows, numel)
        check_counts(net, target_zeros, masked, report)
        check_layers(net, layers, report)
        if rows:
            if components is not None:
                check_rows(rows, components, report)
                check_flops(components, net, rows, self.kept(net, masked), report)
            check_best(rows, target_zeros, numel, len(net.dataset.test), report)
        if components is not None:
            check_data_hashes(components, report)
        if not self.extent.accuracy:
            skipped = "--no-accuracy"
            report.unchecked(("top1", "top5", "test_loss", "val_top1", "init_hash"), skipped)
            check_evaluations(run, net, False, self.extent.tolerances, report)
            return
        if rows:
            check_accuracies(run, net, rows, self.extent.tolerances, report)
        check_evaluations(run, net, self.extent.evaluations, self.extent.tolerances, report)
        if components is not None:
            check_init_hash(run, components, report)

    def components(self, net: Network) -> RunComponents | None:
        """The objects of the training, freshly built, if they may be and can be."""
        assert self.run is not None
        why = f"not built without --trust: {'; '.join(self.run.refused())}"
        if not self.run.refused():
            try:
                with self.run.trust.searching():
                    components = build_run(self.run.cfg, net.dataset)
                components.pruner.training = self.run.training
                return components
            except (
                SettingError
            ) as error:  # its mask or layer sparsities come from files that are missing here
                why = f"not checked: {error}"
        self.report.note("target_sparsity", self.run.row.get("target_sparsity"), why)
        return None

    def target(self, components: RunComponents | None) -> int | None:
        """The requested number of zeros, if it is known."""
        if components is None:
            return None
        pruner, target = components.pruner, components.target_sparsity
        self.report.compare({"target_sparsity": "" if target is None else target})
        if pruner.trainings > 1:
            assert self.run is not None
            told = {name: value for name, value in pruner.summary().items() if name in self.run.row}
            self.report.compare(told)
        return pruner.target_zeros(components.clock.total_steps - 1)

    def kept(self, net: Network, masked: int | None) -> Mapping[str, int] | None:
        """Layer -> weights that the final masks keep; ``None`` where a weight may be zero and not pruned."""
        zeros = {name: int((p == 0).sum()) for name, p in net.prunable.items()}
        if masked is None or sum(zeros.values()) != masked:
            return None
        return {name: p.numel() - zeros[name] for name, p in net.prunable.items()}

    def unbuilt(
        self, state: Mapping[str, Tensor], rows: Sequence[Mapping[str, str]], layers: list[dict[str, str]]
    ) -> None:
        """The checks that need no model."""
        assert self.run is not None
        prunable = [row["layer"] for row in layers if row.get("prunable") == "True"]
        numel = sum(state[name].numel() for name in prunable if name in state)
        check_without_model(state, layers, _masked(rows, numel), self.report)
        if rows:
            target = number(self.run.row.get("target_sparsity"))
            zeros = None if target is None else round(target * numel)
            check_best(rows, zeros, numel, None, self.report)
        every = [
            column for names in check_evaluation_files(self.run, self.report).values() for column in names
        ]
        self.report.unchecked([column for column in every if column in self.run.row], self.why)

    def rest(self) -> None:
        """Name every column that no check has marked."""
        assert self.run is not None
        columns = [*self.run.row, *(f"{schema.METRICS} {column}" for column in schema.METRICS_COLUMNS)]
        columns += [f"{schema.PROVENANCE} {name}" for name in self.run.provenance if name not in self.run.row]
        known = _COMPARED | {schema.SUMMARY}
        for column in columns:
            if column in known:
                continue
            empty = column in self.run.row and self.run.row[column] == "" and column in _HASHES
            why = f"not in all runs before {_SINCE[column]}" if empty else CANNOT_BE_CHECKED.get(column)
            self.report.unchecked(column, why or getattr(self, "why", "no check is known"))
        for column in schema.HASHES:
            if column not in self.run.row:
                self.report.unchecked(column, f"not in all runs before {_SINCE[column]}")


_HASHES = frozenset(schema.HASHES)
_SINCE = {column.name: column.since for column in schema.REPEATABILITY_TABLE}
_COMPARED = frozenset(
    f"{schema.PROVENANCE} {name}"
    for name in (
        "ranks",
        "trainings",
        "init_hash",
        "split_hash",
        "order_hash",
        "numerics_changed_at",
        "choices",
        "identity",
        "config_dirs",
    )
)
"""Parts of run.json that are compared with the row or the config."""


def _masked(rows: Sequence[Mapping[str, Any]], numel: int) -> int | None:
    """The number of pruned weights, as the last row of metrics.csv has it."""
    return round(float(rows[-1]["sparsity"]) * numel) if rows else None
