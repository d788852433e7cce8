"""Verify the results of finished runs against their weights, config and data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparsebench.config.build import format_override
from sparsebench.errors import RunError, SettingError
from sparsebench.files import read_csv
from sparsebench.pruning.allocation import zeros_for
from sparsebench.pruning.parameters import Zeros
from sparsebench.records import schema
from sparsebench.records.settings import NUMERICS
from sparsebench.runs.build import build_run, epochs, eval_batch_size
from sparsebench.runs.hashes.weights import weights_hash
from sparsebench.runs.reopen import Datasets, FinishedRun
from sparsebench.runs.result import Network, compute_cost_columns, layer_rows

LOSS = 1e-5
"""Relative tolerance of a loss on the same device: the order of additions depends on the number of threads."""


@dataclass(frozen=True)
class Finding:
    """One claim that does not hold, or with ``kind="note"`` something to know about a run."""

    run: str
    kind: str
    column: str
    claimed: str
    found: str


def audit(
    path: Path, datasets: Datasets, accuracy: bool = True, tolerances: tuple[float, float] = (0.0, 0.0)
) -> list[Finding]:
    """The claims of the run in ``path`` that do not hold, and notes.

    Args:
        path: A folder with a summary.csv.
        datasets: Cache of data sets.
        accuracy: Evaluate the model on its validation and test images.
        tolerances: Percentage points that accuracies may differ by on the same kind of device with the same PyTorch,
            and elsewhere.
    """
    checks = _Checks(path, tolerances)
    try:
        checks.run(datasets, accuracy)
    except RunError as error:
        column, _, what = str(error).partition(": ")
        checks.fail(column, "a readable file", what)
    except Exception as error:  # any error of a damaged or foreign run is a finding of that run alone
        what = (
            f"{type(error).__name__}: {error}" if not isinstance(error, (ValueError, OSError)) else str(error)
        )
        checks.fail("run", "a run that can be rebuilt", " ".join(what.split())[:300])
    return checks.found


class _Checks:
    def __init__(self, path: Path, tolerances: tuple[float, float]) -> None:
        self.path, self.tolerances, self.found = path, tolerances, list[Finding]()

    def run(self, datasets: Datasets, accuracy: bool) -> None:
        run = FinishedRun(self.path)
        self.row = run.row
        self.names(run)
        self.notes(run)
        self.evaluations = read_table(self.path / schema.METRICS)
        layers = read_table(self.path / schema.LAYERS)
        net = run.network(datasets)
        if self.row.get("weights_hash"):  # earlier versions did not write it
            self.compare({"weights_hash": weights_hash(net.model.state_dict())})
        self.settings(run, net)
        target_zeros, steps = self.targets(run, net)
        self.counts(net, target_zeros)
        self.layers(net, layers)
        self.history(target_zeros, steps, net)
        if accuracy:
            self.accuracies(run, net)

    def fail(self, column: str, claimed: object, found: object) -> None:
        self.found.append(Finding(self.path.name, "claim", column, str(claimed), str(found)))

    def note(self, column: str, claimed: object, found: object) -> None:
        self.found.append(Finding(self.path.name, "note", column, str(claimed), str(found)))

    def compare(self, found: Mapping[str, Any], within: float = 0.0, why: str = "") -> None:
        """Compare the row's columns with what was ``found``, numbers up to ``within``."""
        for column, value in found.items():
            if not _same(self.row.get(column), value, within):
                self.fail(column, self.row.get(column, "no such column"), f"{value}{why}")

    def names(self, run: FinishedRun) -> None:
        """The run's ids are hashes of its config; folder, row and run.json agree on them and on the code."""
        self.compare({"schema": schema.SCHEMA})
        if missing := [column for column in schema.SUMMARY_COLUMNS if column not in self.row]:
            self.fail("schema", f"{schema.SCHEMA}", f"no column {', '.join(missing)}")
        run_id, settings = run.opened.run_id, [format_override(*item) for item in run.opened.changed.items()]
        what = f" ({' '.join(settings) or 'all defaults'} with the defaults of this version)"
        self.compare({"run_id": run_id, "config_hash": run.opened.config_hash}, why=what)
        if not self.path.name.endswith(f"-{run_id}"):
            self.fail("folder", self.path.name, f"...-{run_id}")
        columns = (*schema.SUMMARY_COLUMNS, *schema.HASHES)
        repeated = {c: run.provenance[c] for c in columns if c in run.provenance}
        self.compare(repeated, why=f" ({schema.PROVENANCE})")
        for name in NUMERICS:  # no part of the hashes
            if (kept := run.provenance.get("numerics", {}).get(name, run.cfg[name])) != run.cfg[name]:
                self.fail(f"{schema.CONFIG} {name}", run.cfg[name], f"{kept} ({schema.PROVENANCE})")

    def notes(self, run: FinishedRun) -> None:
        """Facts that make no claim false, but should be known."""
        if self.row.get("git_dirty") == "True":
            self.note("git_dirty", "True", "made by code that differs from the commit")
        if self.row.get("status") == "diverged":
            self.note("status", "diverged", "no accuracy")
        elif self.row.get("sparsity_ok") == "False":
            self.note("sparsity_ok", "False", "missed its sparsity")

    def settings(self, run: FinishedRun, net: Network) -> None:
        """Check the columns that repeat the config."""
        cfg = run.cfg
        self.compare(
            {
                "dataset": net.dataset.name,
                "model": getattr(net.model, "name", ""),
                "method": run.choices["prune"],
                "seed": cfg.seed,
                "epochs": epochs(cfg),
                "batch_size": cfg.batch_size,
                "precision": cfg.precision,
            }
        )

    def targets(self, run: FinishedRun, net: Network) -> tuple[int | None, int | None]:
        """The requested number of zeros and the step of the last evaluation, if known."""
        claimed = self.row.get("target_sparsity", "")
        try:
            components = build_run(run.cfg, net.dataset)
        except SettingError as error:  # its mask or layer sparsities come from files that are missing here
            self.note("target_sparsity", claimed, f"not checked: {error}")
            return None, None
        pruner, target, steps = components.pruner, components.target_sparsity, components.clock.total_steps
        if pruner.trainings == 1 or target is None:
            self.compare({"target_sparsity": "" if target is None else target})
            return pruner.target_zeros(steps - 1), steps
        if run.training == pruner.trainings - 1:  # the targets of earlier rounds are in metrics.csv
            self.compare({"target_sparsity": run.cfg.sparsity})
        return zeros_for(float(claimed), pruner.weights.numel), steps

    def counts(self, net: Network, target_zeros: int | None) -> None:
        """Compare the zeros and costs with those counted in the tensors."""
        found = compute_cost_columns(
            net.model, net.prunable, net.layers, net.dataset.input_shape, target_zeros
        )
        self.compare(found)
        total = found["prunable"] - found["nonzero"]
        zeros = Zeros(total, pruned=total - int(self.row.get("kept_zeros") or 0))
        if self.row["sparsity_ok"] == "True" and not zeros.as_requested(target_zeros):
            self.fail("sparsity_ok", "True", f"{zeros.pruned} weights pruned, requested were {target_zeros}")
        self.masked = zeros.pruned / found["prunable"]

    def layers(self, net: Network, rows: list[dict[str, str]]) -> None:
        """Compare layers.csv with the values counted in the tensors."""
        claimed = {row["layer"]: row for row in rows}
        found = {row["layer"]: row for row in layer_rows(net.model, net.prunable, net.layers)}
        for layer in [*found, *(claimed.keys() - found.keys())]:
            if layer not in claimed or layer not in found:
                self.fail(f"{schema.LAYERS} {layer}", *("a row", "no row")[:: 1 if layer in claimed else -1])
                continue
            for column, value in found[layer].items():
                if not _same(claimed[layer].get(column), value):
                    self.fail(f"{schema.LAYERS} {layer} {column}", claimed[layer].get(column, ""), value)

    def history(self, target_zeros: int | None, steps: int | None, net: Network) -> None:
        """Compare the row with metrics.csv: the last evaluation, and the best one at the target."""
        if not self.evaluations:
            self.fail(schema.METRICS, "evaluations", "none")
            return
        last, why = self.evaluations[-1], f" ({schema.METRICS})"
        self.compare({"val_top1": last["val_top1"]}, why=why)
        if self.row["status"] != "finished":
            return
        if steps is not None and int(last["step"]) != steps:
            self.fail(f"{schema.METRICS} step", last["step"], steps)
        if self.row["target_sparsity"] and last["scheduled_sparsity"]:
            self.compare({"target_sparsity": last["scheduled_sparsity"]}, why=why)
        if self.row["sparsity_ok"] == "True" and not _same(last["sparsity"], self.masked, 1e-12):
            self.fail(f"{schema.METRICS} sparsity", last["sparsity"], f"{self.masked} (last evaluation)")
        numel = sum(p.numel() for p in net.prunable.values())
        at_target = [
            r
            for r in self.evaluations
            if target_zeros is not None and round(float(r["sparsity"]) * numel) == target_zeros
        ]
        at_target = at_target or ([last] if target_zeros is None else [])
        best = max((float(row["val_top1"]) for row in at_target), default="")
        self.compare({"best_val_top1": best}, why=f" ({schema.METRICS}, at the target)")
        if (
            at_target
            and [float(row["val_top1"]) == best for row in at_target].index(True) == len(at_target) - 1
        ):
            self.compare({"test_top1_at_best_val": self.row["top1"]}, why=" (top1: the last is the best)")

    def accuracies(self, run: FinishedRun, net: Network) -> None:
        """Evaluate accuracies and the loss in the run's precision."""
        if self.row["status"] != "finished":
            return
        here = {"device": net.device.label, "torch": torch.__version__}
        differing = [f"{name} {here[name]}" for name in here if self.row.get(name) != here[name]]
        within = self.tolerances[bool(differing)]
        where = f" (within {within} on {', '.join(differing) or 'the same device'})" if within else ""
        images = eval_batch_size(run.cfg, net.dataset)
        test, val = net.accuracy("test", images), net.accuracy("val", images)
        # 1e-9: percentages that were formatted in different ways
        self.compare({"top1": test.top1, "top5": test.top5, "val_top1": val.top1}, within or 1e-9, where)
        relative = max(LOSS, within / 10)  # 0.1 points and 1 % of the loss
        self.compare({"test_loss": test.loss}, relative * abs(test.loss), where)
        if differing:
            self.note(
                "device",
                f"{self.row['device']}, torch {self.row['torch']}",
                f"audited on {', '.join(differing)}",
            )


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a run's CSV.

    Raises:
        RunError: It is missing or unreadable.
    """
    try:
        return read_csv(path)
    except FileNotFoundError as error:
        raise RunError(f"{path.name}: missing") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path.name}: cannot be read: {error}") from error


def _same(claimed: str | None, found: object, within: float = 0.0) -> bool:
    """Whether the text of a CSV equals what was found: as text, or as a number up to ``within``."""
    if claimed is None:
        return False
    if claimed == str(found):
        return True
    try:
        a, b = float(claimed), float(str(found))
    except ValueError:
        return False
    return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= within
