"""One training of a run: train, write the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

import sparsebench
from sparsebench.config.build import build
from sparsebench.config.identity import hash_of, id_of, json_hash
from sparsebench.data.mixing import Mix
from sparsebench.errors import printable
from sparsebench.paths import expanded, file_name
from sparsebench.records import provenance
from sparsebench.records.lease import Lease
from sparsebench.records.run_folder import RunFolder
from sparsebench.records.schema import SCHEMA
from sparsebench.records.settings import typed_config_dirs
from sparsebench.runs.build import RunComponents, epochs, eval_batch_size
from sparsebench.runs.hashes.initial import init_hash
from sparsebench.runs.hashes.order import order_hash
from sparsebench.runs.hashes.splits import split_hash
from sparsebench.runs.hashes.weights import weights_hash
from sparsebench.runs.numerics import (
    CHANGED_AT,
    as_text,
    differences,
    numerics_of,
    stored_numerics,
)
from sparsebench.runs.result import (
    Network,
    accuracy_columns,
    compute_cost_columns,
    layer_rows,
    show,
    training_columns,
    training_layers,
)
from sparsebench.runs.run_lock import check_still_held
from sparsebench.trackers.tracker import TrackedRun, Tracker, Tracking
from sparsebench.training.checkpoint import Checkpoint
from sparsebench.training.ema import WeightAverage
from sparsebench.training.flops import TrainingFLOPs
from sparsebench.training.progress import Progress
from sparsebench.training.runner import RecordSettings, Runner, StepSettings, TrainingSetup
from sparsebench.training.signals import StopSignals
from sparsebench.training.steps import Steps

Record = Callable[[list[dict[str, float | None]]], None]


class Training:
    """One training of a run, with its own folder and row."""

    def __init__(
        self,
        cfg: DictConfig,
        choices: Mapping[str, str | None],
        overrides: list[str],
        components: RunComponents,
        found: Mapping[str, Any],
        number: int,
    ) -> None:
        self.cfg, self.choices, self.number = cfg, choices, number
        self.numerics = numerics_of(components.device, cfg)
        self.row: dict[str, Any] = {
            "schema": SCHEMA,
            "run_id": id_of(found, number),
            "dataset": components.dataset.name,
            "model": components.model.name,
            "method": choices["prune"],
            "seed": cfg.seed,
            "epochs": epochs(cfg),
            "batch_size": cfg.batch_size,
            "precision": cfg.precision,
            "device": components.device.label,
            "version": sparsebench.__version__,
            "torch": torch.__version__,
            "config_hash": hash_of(found, number),
            "command": provenance.command(_without_sweep_overrides(overrides)),
        }
        several = components.pruner.trainings > 1
        target = components.target_sparsity
        if several and target is not None:
            target = cfg.sparsity  # of the last training
        model = f"{components.dataset.name}-{components.model.name}"
        method = f"{choices['prune']}{'' if target is None else f'-s{target:g}'}"
        label = f"{model}-{method}-seed{cfg.seed}{f'-training{number}' if several else ''}"
        self.label = printable(label)
        self.folder = RunFolder(
            expanded(cfg.results_dir, "results_dir"), file_name(f"{label}-{self.row['run_id']}")
        )
        self.identity, self.code = dict(found), provenance.code()
        self.owner = {"run_id": self.row["run_id"], "code": json_hash(self.code)}
        self.handover = Checkpoint(self.folder.path, self._warn, "handover", self.owner)

    def run(
        self,
        components: RunComponents,
        before: dict[str, Any],
        evaluate: Callable[..., dict[str, Any]],
        tracker: Tracker,
        lease: Lease | None,
        signals: StopSignals,
        ids: list[str],
    ) -> Steps[tuple[dict[str, Any], dict[str, Any]]]:
        """Train and write the results; returns the row, and the state for the next training."""
        cfg, folder = self.cfg, self.folder
        first_step = components.pruner.begin(self.number, before)
        row = {
            **self.row,
            "target_sparsity": "" if components.target_sparsity is None else components.target_sparsity,
        }
        config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
        resumed = not cfg.overwrite and bool(folder.provenance())
        run_info = TrackedRun(folder.path, self.label, self.row["run_id"], config, resumed)
        tracking = Tracking(tracker, run_info, self._warn)

        def record(rows: list[dict[str, float | None]]) -> None:
            check_still_held(lease)
            folder.write_metrics(rows)
            tracking.record(rows)

        def progress(total: int, done: int) -> Progress:
            length, log = components.clock.total_steps / components.clock.steps_per_epoch, folder.log
            if lease is None:  # not the main rank
                return Progress(self.label, total, done, length, shown=False)
            self._note_first_step(components, first_step, done)
            shown = Progress(self.label, total, done, length, log)
            log(f"{self.label}: from step {done} of {total}, {components.device.label}, {lease.holder}")
            lease.progress = lambda: {"folder": folder.path.name, **shown.snapshot()}
            lease.renew()
            return shown

        runner = self._runner(components, first_step, record, progress, signals)
        if before:
            runner.flops.continue_from(before["flops"])
        row |= components.device.broadcast_from_main(
            lambda: self._open_folder(components, row, first_step, runner.graphs, tracking, ids)
        )
        try:
            history = yield from runner.advance()
            for seen in components.device.all_gather(components.data.state_dict()):
                components.data.load_state_dict(seen)
        except BaseException as error:  # including stop signals
            how = "stopped by " if isinstance(error, (SystemExit, KeyboardInterrupt)) else ""
            if lease is not None:
                folder.log(f"step {runner.step}: {how}{type(error).__name__}: {error}")
            raise
        row |= accuracy_columns(history, components.device, runner.images) | {
            "steps": runner.step - first_step
        }

        def end() -> tuple[dict[str, Any], dict[str, Any]]:
            check_still_held(lease)
            return self._write_results(components, row, runner, evaluate, tracking)

        return components.device.broadcast_from_main(end)

    def _open_folder(
        self,
        components: RunComponents,
        row: Mapping[str, Any],
        first_step: int,
        graphs: str,
        tracking: Tracking,
        ids: list[str],
    ) -> dict[str, Any]:
        """Open the folder; returns the provenance columns."""
        cfg, folder = self.cfg, self.folder
        if cfg.overwrite or folder.summary() is not None:
            folder.clear()
        folder.open()
        kept = stored_numerics([folder.path])
        self.other_numerics = bool(differences(kept, self.numerics))
        more = {"ranks": components.device.world_size, "numerics": self.numerics}
        more |= {"identity": self.identity, "code": self.code}
        more |= {"split_hash": split_hash(components.dataset), "order_hash": order_hash(components.data)}
        origin = _write_origin(folder, cfg, self.choices, {**row, **more}, ids)
        if components.dataset.note and self.number == 0:
            print(printable(f"sparsebench: {components.dataset.note}"), flush=True)
        tracking.start()
        steps = components.clock.total_steps - first_step
        how = cfg.precision if components.device.type == "cpu" else f"{cfg.precision}, {graphs}"
        print(f"{self.label}: {steps} steps on {components.device.label}, {how}", flush=True)
        return origin

    def _note_first_step(self, components: RunComponents, first_step: int, step: int) -> None:
        """Add to run.json what is known when the loop is about to take its first step in this process.

        That is a hash of what the training starts from; or, where it goes on with other numerics, the step.
        """
        origin = self.folder.provenance()
        if step == first_step:
            masks = components.pruner.weights.masks
            origin |= {"init_hash": init_hash(components.model.state_dict(), masks), CHANGED_AT: []}
        elif self.other_numerics:
            origin[CHANGED_AT] = [*dict.fromkeys([*origin.get(CHANGED_AT, []), step])]
        self.folder.write_provenance(origin)

    def _repeatability(self, components: RunComponents) -> dict[str, str]:
        """Columns by which it is seen whether another execution of the run is the same."""
        origin = self.folder.provenance()
        return {
            **{name: origin.get(name, "") for name in ("init_hash", "split_hash", "order_hash")},
            "weights_hash": weights_hash(components.model.state_dict()),
            "numerics": as_text(self.numerics),
            CHANGED_AT: " ".join(map(str, origin.get(CHANGED_AT, []))),
        }

    def _write_results(
        self,
        components: RunComponents,
        measurements: dict[str, Any],
        runner: Runner,
        evaluate: Callable[..., dict[str, Any]],
        tracking: Tracking,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write the results; returns the row, and the state for the next training."""
        folder, names = self.folder, list(components.pruner.weights.parameters)
        target_zeros = components.pruner.target_zeros(components.clock.total_steps - 1)
        row = measurements | compute_cost_columns(
            components.model, names, components.layers, components.dataset.input_shape, target_zeros
        )
        row |= training_columns(components.pruner.weights, target_zeros, runner.flops)
        folder.write_layers(layer_rows(components.model, names, components.layers))
        folder.write_model(components.model.state_dict())
        state = components.pruner.handover()
        if state:
            state["flops"] = runner.flops.state_dict()
            self.handover.save(state)
        extra = self._repeatability(components) | runner.mask_updates.columns() | components.pruner.summary()
        extra |= components.dataset.summary() | components.device.summary()
        if components.device.type == "cuda":
            extra["replayed_steps"] = runner.recorder.replayed
        if row["status"] == "finished":
            net = Network(
                components.device,
                components.dataset,
                components.model,
                components.pruner.weights.parameters,
                components.layers,
            )
            extra |= evaluate(net=net, folder=folder.path)
        folder.write_summary({**row, **extra}, extra)
        tracking.finish({**row, **extra})
        runner.checkpoint.remove()
        folder.log(f"{row['status']}: top1 {row['top1']}, sparsity {row['sparsity']}")
        show(row, folder.path)
        return row, state

    def _runner(
        self,
        components: RunComponents,
        first_step: int,
        record: Record,
        progress: Callable[[int, int], Progress],
        signals: StopSignals,
    ) -> Runner:
        """The training loop over the components."""
        cfg, device = self.cfg, components.device
        average = (
            None if cfg.ema is None else WeightAverage(components.model, components.pruner.weights, cfg.ema)
        )
        evaluation = partial(
            components.dataset.batches,
            batch_size=eval_batch_size(cfg, components.dataset),
            channels_last=device.channels_last,
            rank=device.rank,
            world_size=device.world_size,
        )

        def reinitialize() -> None:
            shape, classes = components.dataset.input_shape, components.dataset.num_classes
            fresh: nn.Module = build(cfg.model, "model", input_shape=shape, num_classes=classes)
            components.model.load_state_dict(fresh.state_dict())

        mix = Mix(cfg.mixup, cfg.cutmix, components.dataset.num_classes, cfg.seed)
        layers = training_layers(components.model, components.dataset, components.layers)
        setup = TrainingSetup(
            model=components.model,
            data=components.data,
            evaluation=evaluation,
            criterion=nn.CrossEntropyLoss(label_smoothing=cfg.label_smoothing),
            optimizer=components.optimizer,
            lr_schedule=components.lr_schedule,
            pruner=components.pruner,
            clock=components.clock,
            flops=TrainingFLOPs(layers, components.pruner.weights),
            seed=cfg.seed,
            reinitialize=reinitialize,
            first_step=first_step,
        )
        step = StepSettings(
            device=device,
            accumulate=cfg.accumulate,
            clip_norm=cfg.clip_norm,
            mix=mix if mix.kinds else None,
            average=average,
        )
        records = RecordSettings(
            checkpoint=Checkpoint(self.folder.path, self._warn, owner=self.owner),
            record=record,
            progress=progress,
            eval_every=components.eval_every,
            save_every=components.save_every,
            save_seconds=cfg.save_seconds,
            signals=signals,
            note=self._warn,
        )
        return Runner(setup, step, records)

    def _warn(self, text: str) -> None:
        print(printable(f"sparsebench: {text}"), file=sys.stderr)
        self.folder.log(text)


def _without_sweep_overrides(overrides: list[str]) -> list[str]:
    """Remove the overrides that a sweep adds, and what is said to one execution."""
    return [
        override
        for override in overrides
        if override.partition("=")[0] not in ("wait", "allow_other_numerics", "redo_older")
    ]


def _write_origin(
    folder: RunFolder,
    cfg: DictConfig,
    choices: Mapping[str, str | None],
    row: Mapping[str, Any],
    trainings: list[str],
) -> dict[str, Any]:
    before = folder.provenance()  # if the run was interrupted
    commit, dirty = provenance.git_state()
    origin = {"started": before.get("started", provenance.now()), "git_commit": commit, "git_dirty": dirty}
    folder.write_config(OmegaConf.to_yaml(cfg, resolve=True))
    resumed = [*before.get("resumed", []), provenance.now()] if before else []
    kept = {name: before[name] for name in ("init_hash", CHANGED_AT) if name in before}
    parts = {"trainings": trainings} if len(trainings) > 1 else {}
    folder.write_provenance(
        {
            **row,
            **origin,
            **parts,
            **kept,
            "resumed": resumed,
            "choices": dict(choices),
            "config_dirs": typed_config_dirs(row["command"]),
            "libraries": provenance.libraries(),
            "machine": provenance.machine(),
            "threads": torch.get_num_threads(),
        }
    )
    return origin
