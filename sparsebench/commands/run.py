"""One run: build the objects, train, write the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

import sparsebench
from sparsebench import provenance
from sparsebench.accounting import Layer, TrainingFLOPs, count_layers
from sparsebench.averaging import WeightAverage
from sparsebench.checkpoint import Checkpoint
from sparsebench.clock import Clock
from sparsebench.commands.extras import FOLDER as EVALUATION
from sparsebench.commands.extras import apply, dense_run, extras
from sparsebench.commands.result import Network, check, counted, layer_rows, measured, show, trained
from sparsebench.config import build, config_hash, run_id, validate
from sparsebench.data.dataset import Dataset, Loader
from sparsebench.device import Device, seed_everything
from sparsebench.errors import SettingError
from sparsebench.library import build_method
from sparsebench.lr_schedules import LRSchedule
from sparsebench.optim import parameter_groups
from sparsebench.progress import Progress
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.prunable import Prunable
from sparsebench.pruning.pruner import Pruner
from sparsebench.records.run_folder import RunFolder
from sparsebench.records.schema import SCHEMA
from sparsebench.runner import Mixing, Runner
from sparsebench.trackers.tracker import TrackedRun, Tracker, Tracking

Record = Callable[[list[dict[str, float | None]]], None]


@dataclass(frozen=True)
class Assembly:
    """The finished objects of a run."""

    device: Device
    dataset: Dataset
    data: Loader
    model: nn.Module
    clock: Clock
    optimizer: torch.optim.Optimizer
    lr_schedule: LRSchedule
    pruner: Pruner
    layers: list[Layer]

    @property
    def target(self) -> float | None:
        """The sparsity that the run is to end with, if it is asked for one."""
        return self.pruner.target(self.clock.total_steps - 1)


def assemble(cfg: DictConfig, dataset: Dataset | None = None) -> Assembly:
    """Build everything that ``cfg`` describes; seeds are set before the model is built. Writes nothing.

    Args:
        cfg: The composed config.
        dataset: Taken instead of the one that ``cfg`` describes.
    """
    net = network(cfg, dataset)
    data = net.dataset.loader(cfg.batch_size, cfg.seed, channels_last=net.device.channels_last)
    clock = Clock(data.steps_per_epoch * epochs(cfg), data.steps_per_epoch, cfg.extend)
    parameters = parameter_groups(net.model, cfg.optimizer.get("weight_decay", 0.0), cfg.norm_weight_decay)
    optimizer = build(cfg.optimizer, "optimizer", params=parameters)
    weights = MaskedParameters(dict(net.prunable), optimizer)
    lr_schedule = build(cfg.lr_schedule, "lr_schedule", clock=clock)
    return Assembly(
        device=net.device, dataset=net.dataset, data=data, model=net.model, clock=clock, optimizer=optimizer,
        lr_schedule=lr_schedule,
        pruner=build_method(cfg, weights, optimizer, clock, model=net.model, lr_schedule=lr_schedule),
        layers=net.layers,
    )  # fmt: skip


def network(cfg: DictConfig, dataset: Dataset | None = None) -> Network:
    """The part of :func:`assemble` that a finished run is checked with: the model as it starts, and its data."""
    device: Device = build(cfg.device)
    seed_everything(cfg.seed)
    dataset = dataset or build(cfg.dataset, "dataset", device=device.torch_device)
    model = build(cfg.model, "model", input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    device.place(model)
    prunable = Prunable(**cfg.prunable).select(model)
    layers = count_layers(model, dataset.input_shape)
    if unknown := sorted(prunable.keys() - {layer.name for layer in layers}):
        allowed = f"a model that calls its layers; what {unknown[0]} costs cannot be counted"
        raise SettingError("model", model.name, allowed)
    return Network(device, dataset, model, prunable, layers)


def run(cfg: DictConfig, choices: Mapping[str, str | None], overrides: list[str]) -> float:
    """As :func:`complete`; returns the validation accuracy, in per cent: what a search may optimise."""
    return float((complete(cfg, choices, overrides).summary() or {})["val_top1"])


def complete(cfg: DictConfig, choices: Mapping[str, str | None], overrides: list[str]) -> RunFolder:
    """Make, resume or find finished the run that ``cfg`` describes, or the runs of a method of several trainings.

    Args:
        cfg: The composed config.
        choices: Config group -> chosen option.
        overrides: Of the command line, to name the command that makes the run again.

    Returns:
        The folder of the run; of several trainings, of the last.

    Raises:
        SettingError: A setting is wrong; nothing has been written.
        RunError: The run diverged, or its number of zeros is not the asked one.
    """
    validate(cfg, choices)
    made, chosen = assemble(cfg), extras(cfg)
    tracker: Tracker = build(cfg.tracker, "tracker")
    trainings = [_Training(cfg, choices, overrides, made, number) for number in range(made.pruner.trainings)]
    last = trainings[-1]
    results = last.folder.results_dir
    dense = dense_run(chosen, cfg, choices, results)
    if (finished := last.folder.summary()) is not None and not cfg.overwrite:
        _tidy(trainings)
        print(f"{last.folder.path}: already finished; nothing done (overwrite=true to do it again)")
        if missing := [
            name for name in chosen if not (last.folder.path / EVALUATION / f"{name}.csv").exists()
        ]:
            print(f"sparsebench evaluate {last.folder.path} evaluate=[{','.join(missing)}] evaluates it")
        check(finished)
        return last.folder
    # Go on after the last training that is finished and has left what the next one needs.
    left = [training.handover.load() for training in trainings] if not cfg.overwrite else []
    start = max((n + 1 for n, state in enumerate(left) if state and trainings[n].folder.summary()), default=0)
    before: dict[str, Any] = left[start - 1] or {} if start else {}
    for training in trainings[start:]:
        if training is not trainings[start]:
            made = assemble(cfg, made.dataset)
        evaluate = partial(apply, chosen, batch_size=cfg.batch_size, dense=dense)
        row, before = training.run(made, before, evaluate, tracker)
        check({key: str(value) for key, value in row.items()})
    _tidy(trainings)
    return last.folder


class _Training:
    """One training of a run, with a folder and a row of its own."""

    def __init__(
        self,
        cfg: DictConfig,
        choices: Mapping[str, str | None],
        overrides: list[str],
        made: Assembly,
        number: int,
    ) -> None:
        self.cfg, self.choices, self.number = cfg, choices, number
        self.row: dict[str, Any] = {
            "schema": SCHEMA, "run_id": run_id(cfg, choices, number), "dataset": made.dataset.name,
            "model": made.model.name, "method": choices["prune"], "seed": cfg.seed, "epochs": epochs(cfg),
            "batch_size": cfg.batch_size, "precision": cfg.precision, "device": made.device.label,
            "version": sparsebench.__version__, "torch": torch.__version__,
            "config_hash": config_hash(cfg, choices, number), "command": provenance.command(overrides),
        }  # fmt: skip
        target = (
            made.target if made.pruner.trainings == 1 or made.target is None else cfg.sparsity
        )  # of the last
        asked = "" if target is None else f"-s{target:g}"
        part = f"-training{number}" if made.pruner.trainings > 1 else ""
        self.label = f"{made.dataset.name}-{made.model.name}-{choices['prune']}{asked}-seed{cfg.seed}{part}"
        self.folder = RunFolder(Path(cfg.results_dir).expanduser(), f"{self.label}-{self.row['run_id']}")
        self.handover = Checkpoint(self.folder.path, _warn, name="handover")

    def run(
        self,
        made: Assembly,
        before: dict[str, Any],
        evaluate: Callable[..., dict[str, Any]],
        tracker: Tracker,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train and write the results; returns the row, and what the next training needs."""
        cfg, folder = self.cfg, self.folder
        first_step = made.pruner.begin(self.number, before)
        row = {**self.row, "target_sparsity": "" if made.target is None else made.target}
        config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
        resumed = not cfg.overwrite and bool(folder.provenance())
        told = TrackedRun(folder.path, self.label, self.row["run_id"], config, resumed)
        tracking = Tracking(tracker, told, _warn)

        def record(rows: list[dict[str, float | None]]) -> None:
            folder.write_metrics(rows)
            tracking.record(rows)

        runner = _runner(cfg, made, folder, self.label, first_step, record)
        if before:
            runner.flops.go_on_from(before["flops"])
        try:
            if cfg.overwrite or folder.summary() is not None:
                folder.clear()
            folder.open()
            row |= _write_origin(folder, cfg, self.choices, row)
            if made.dataset.note and self.number == 0:
                print(f"sparsebench: {made.dataset.note}", flush=True)
            tracking.start()
            steps = made.clock.total_steps - first_step
            print(f"{self.label}: {steps} steps on {made.device.label}, {cfg.precision}", flush=True)
            history = runner.run()
            row |= measured(history, made.device, runner.images) | {"steps": runner.step - first_step}
            names, asked = list(made.pruner.weights.parameters), made.pruner.zeros(made.clock.total_steps - 1)
            row |= counted(made.model, names, made.layers, made.dataset.input_shape, asked)
            row |= trained(made.pruner.weights, asked, runner.flops)
            folder.write_layers(layer_rows(made.model, names, made.layers))
            folder.write_model(made.model.state_dict())
            state = made.pruner.handover()
            if state:
                state["flops"] = runner.flops.state_dict()
                self.handover.save(state)
            extra = made.pruner.summary() | made.dataset.summary() | made.device.summary()
            if row["status"] == "finished":
                net = Network(
                    made.device, made.dataset, made.model, made.pruner.weights.parameters, made.layers
                )
                extra |= evaluate(made=net, folder=folder.path)
            folder.write_summary({**row, **extra}, extra)
            tracking.finish({**row, **extra})
            runner.checkpoint.remove()
        except OSError as error:
            if str(error.filename or "").startswith(str(folder.results_dir)):
                raise SettingError(
                    "results_dir", cfg.results_dir, f"a folder to write to: {error.strerror}"
                ) from error
            raise
        show(row, folder.path)
        return row, state


def epochs(cfg: DictConfig) -> int:
    """Length of a training in whole epochs."""
    return max(round(cfg.epochs * cfg.extend), 1)


def _tidy(trainings: list[_Training]) -> None:
    """Remove what finished trainings no longer need; one that was killed right after its last row has left it."""
    for training in trainings:
        training.handover.remove()
        Checkpoint(training.folder.path, _warn).remove()


def _warn(text: str) -> None:
    print(f"sparsebench: {text}", file=sys.stderr)


def _runner(
    cfg: DictConfig, made: Assembly, folder: RunFolder, label: str, first_step: int, record: Record
) -> Runner:
    """The loop over the assembled objects."""
    average = None if cfg.ema is None else WeightAverage(made.model, made.pruner.weights, cfg.ema)

    def reinitialize() -> None:
        shape, classes = made.dataset.input_shape, made.dataset.num_classes
        fresh: nn.Module = build(cfg.model, "model", input_shape=shape, num_classes=classes)
        made.model.load_state_dict(fresh.state_dict())

    return Runner(
        model=made.model, data=made.data, optimizer=made.optimizer,
        evaluation=partial(
            made.dataset.batches, batch_size=cfg.batch_size, channels_last=made.device.channels_last
        ),
        lr_schedule=made.lr_schedule, pruner=made.pruner, device=made.device, clock=made.clock,
        flops=TrainingFLOPs(training_layers(made), made.pruner.weights),
        criterion=nn.CrossEntropyLoss(label_smoothing=cfg.label_smoothing),
        checkpoint=Checkpoint(folder.path, _warn),
        record=record,
        progress=lambda total, done: Progress(label, total, done),
        eval_every=max(made.clock.duration(cfg.eval_every, "eval_every"), 1),
        save_every=max(made.clock.duration(cfg.save_every, "save_every"), 1),
        accumulate=cfg.accumulate, clip_norm=cfg.clip_norm, seed=cfg.seed, reinitialize=reinitialize,
        first_step=first_step, mix=_mixing(cfg, made), average=average,
    )  # fmt: skip


def training_layers(made: Assembly) -> list[Layer]:
    """The layers with their cost at the size of training images, which may not be that of evaluation.

    Raises:
        SettingError: The model takes no images of another size.
    """
    size, evaluated = made.dataset.train_shape, made.dataset.input_shape
    if size == evaluated:
        return made.layers
    try:
        return count_layers(made.model, size)
    except (RuntimeError, AssertionError) as error:
        allowed = f"{evaluated[-1]}, the size of evaluation, for {made.model.name}, which takes no two sizes"
        raise SettingError("dataset.size", size[-1], allowed) from error


def _mixing(cfg: DictConfig, made: Assembly) -> Mixing | None:
    if not (cfg.mixup or cfg.cutmix):
        return None
    from sparsebench.data.mixing import Mix  # here: torchvision is slow to import

    return Mix(cfg.mixup, cfg.cutmix, made.dataset.num_classes, cfg.seed)


def _write_origin(
    folder: RunFolder, cfg: DictConfig, choices: Mapping[str, str | None], row: Mapping[str, Any]
) -> dict[str, Any]:
    before = folder.provenance()  # of the same run, interrupted
    commit, dirty = provenance.git_state()
    origin = {"started": before.get("started", provenance.now()), "git_commit": commit, "git_dirty": dirty}
    folder.write_config(OmegaConf.to_yaml(cfg, resolve=True))
    resumed = [*before.get("resumed", []), provenance.now()] if before else []
    folder.write_provenance(
        {**row, **origin, "resumed": resumed, "choices": dict(choices), "libraries": provenance.libraries(),
         "machine": provenance.machine(), "threads": torch.get_num_threads()}
    )  # fmt: skip
    return origin
