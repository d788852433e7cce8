"""One run: build the objects, train, write the results."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

import sparsebench
from sparsebench import provenance
from sparsebench.accounting import (
    Layer,
    TrainingFLOPs,
    count_layers,
    dead_outputs,
    effective_nonzeros,
    nonzeros,
)
from sparsebench.checkpoint import Checkpoint
from sparsebench.clock import Clock
from sparsebench.config import build, config_hash, run_id, validate
from sparsebench.data.arrays import ImageDataset
from sparsebench.data.loader import TrainLoader, batches
from sparsebench.device import Device, seed_everything
from sparsebench.errors import RunError, SettingError
from sparsebench.library import build_method
from sparsebench.lr_schedules import LRSchedule
from sparsebench.optim import parameter_groups
from sparsebench.progress import Progress
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.prunable import Prunable
from sparsebench.pruning.pruner import Pruner
from sparsebench.records.run_folder import RunFolder
from sparsebench.records.schema import SCHEMA
from sparsebench.runner import History, Runner


@dataclass(frozen=True)
class Assembly:
    """The finished objects of a run."""

    device: Device
    dataset: ImageDataset
    data: TrainLoader
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


def assemble(cfg: DictConfig, dataset: ImageDataset | None = None) -> Assembly:
    """Build everything that ``cfg`` describes; seeds are set before the model is built. Writes nothing.

    Args:
        cfg: The composed config.
        dataset: Taken instead of the one that ``cfg`` describes.
    """
    device: Device = build(cfg.device)
    seed_everything(cfg.seed)
    dataset = dataset or build(cfg.dataset, "dataset", device=device.torch_device)
    model = build(cfg.model, "model", input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    device.place(model)
    data = TrainLoader(dataset, cfg.batch_size, cfg.seed, channels_last=device.channels_last)
    clock = Clock(data.steps_per_epoch * _epochs(cfg), data.steps_per_epoch, cfg.extend)
    parameters = parameter_groups(model, cfg.optimizer.get("weight_decay", 0.0), cfg.norm_weight_decay)
    optimizer = build(cfg.optimizer, "optimizer", params=parameters)
    weights = MaskedParameters(Prunable(**cfg.prunable).select(model), optimizer)
    lr_schedule = build(cfg.lr_schedule, "lr_schedule", clock=clock)
    return Assembly(
        device=device, dataset=dataset, data=data, model=model, clock=clock, optimizer=optimizer,
        lr_schedule=lr_schedule,
        pruner=build_method(cfg, weights, optimizer, clock, model=model, lr_schedule=lr_schedule),
        layers=count_layers(model, dataset.input_shape),
    )  # fmt: skip


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
    made = assemble(cfg)
    trainings = [_Training(cfg, choices, overrides, made, number) for number in range(made.pruner.trainings)]
    last = trainings[-1]
    if (finished := last.folder.summary()) is not None and not cfg.overwrite:
        _tidy(trainings)
        print(f"{last.folder.path}: already finished; nothing done (overwrite=true to do it again)")
        _check(finished)
        return last.folder
    # Go on after the last training that is finished and has left what the next one needs.
    left = [training.handover.load() for training in trainings] if not cfg.overwrite else []
    start = max((n + 1 for n, state in enumerate(left) if state and trainings[n].folder.summary()), default=0)
    before: dict[str, Any] = left[start - 1] or {} if start else {}
    for training in trainings[start:]:
        if training is not trainings[start]:
            made = assemble(cfg, made.dataset)
        row, before = training.run(made, before)
        _check({key: str(value) for key, value in row.items()})
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
            "model": made.model.name, "method": choices["prune"], "seed": cfg.seed, "epochs": _epochs(cfg),
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

    def run(self, made: Assembly, before: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train and write the results; returns the row, and what the next training needs."""
        cfg, folder = self.cfg, self.folder
        first_step = made.pruner.begin(self.number, before)
        row = {**self.row, "target_sparsity": "" if made.target is None else made.target}
        runner = _runner(cfg, made, folder, self.label, first_step)
        if before:
            runner.flops.go_on_from(before["flops"])
        try:
            if cfg.overwrite or folder.summary() is not None:
                folder.clear()
            folder.open()
            row |= _write_origin(folder, cfg, self.choices, row)
            if made.dataset.note and self.number == 0:
                print(f"sparsebench: {made.dataset.note}", flush=True)
            steps = made.clock.total_steps - first_step
            print(f"{self.label}: {steps} steps on {made.device.label}, {cfg.precision}", flush=True)
            history = runner.run()
            row |= _measured(history, made.device, runner.images) | {"steps": runner.step - first_step}
            row |= _counted(made, runner.flops)
            folder.write_layers(_layer_rows(made))
            folder.write_model(made.model.state_dict())
            state = made.pruner.handover()
            if state:
                state["flops"] = runner.flops.state_dict()
                self.handover.save(state)
            extra = made.pruner.summary()
            folder.write_summary({**row, **extra}, extra)
            runner.checkpoint.remove()
        except OSError as error:
            if str(error.filename or "").startswith(str(folder.results_dir)):
                raise SettingError(
                    "results_dir", cfg.results_dir, f"a folder to write to: {error.strerror}"
                ) from error
            raise
        show(row, folder.path)
        return row, state


def _epochs(cfg: DictConfig) -> int:
    """Length of a training in whole epochs."""
    return max(round(cfg.epochs * cfg.extend), 1)


def _tidy(trainings: list[_Training]) -> None:
    """Remove what finished trainings no longer need; one that was killed right after its last row has left it."""
    for training in trainings:
        training.handover.remove()
        Checkpoint(training.folder.path, _warn).remove()


def _warn(text: str) -> None:
    print(f"sparsebench: {text}", file=sys.stderr)


def _runner(cfg: DictConfig, made: Assembly, folder: RunFolder, label: str, first_step: int) -> Runner:
    """The loop over the assembled objects."""

    def evaluation(split: Literal["val", "test"]) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(made.dataset, split, cfg.batch_size, channels_last=made.device.channels_last)

    def reinitialize() -> None:
        shape, classes = made.dataset.input_shape, made.dataset.num_classes
        fresh: nn.Module = build(cfg.model, "model", input_shape=shape, num_classes=classes)
        made.model.load_state_dict(fresh.state_dict())

    return Runner(
        model=made.model, data=made.data, evaluation=evaluation, optimizer=made.optimizer,
        lr_schedule=made.lr_schedule, pruner=made.pruner, device=made.device, clock=made.clock,
        flops=TrainingFLOPs(made.layers, made.pruner.weights),
        criterion=nn.CrossEntropyLoss(label_smoothing=cfg.label_smoothing),
        checkpoint=Checkpoint(folder.path, _warn),
        record=folder.write_metrics,
        progress=lambda total, done: Progress(label, total, done),
        eval_every=max(made.clock.duration(cfg.eval_every, "eval_every"), 1),
        save_every=max(made.clock.duration(cfg.save_every, "save_every"), 1),
        accumulate=cfg.accumulate, clip_norm=cfg.clip_norm, seed=cfg.seed, reinitialize=reinitialize,
        first_step=first_step,
    )  # fmt: skip


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


def _measured(history: History, device: Device, samples: int) -> dict[str, Any]:
    """Accuracy columns: of the final weights at the target sparsity, and of the best validation epoch."""
    val, test = history.val, None if history.diverged else history.test
    return {
        "status": "diverged" if history.diverged else "finished",
        "top1": test.top1 if test else "", "top5": test.top5 if test else "",
        "test_loss": test.loss if test else "", "val_top1": val.top1 if val else "",
        "best_val_top1": "" if math.isnan(history.best_val_top1) else history.best_val_top1,
        "test_top1_at_best_val": "" if math.isnan(history.best_val_top1) else history.test_top1_at_best_val,
        "seconds": round(history.seconds, 3), "images_per_second": round(samples / max(history.seconds, 1e-9), 1),
        "peak_memory_mb": round(device.peak_memory_mb(), 1),
    }  # fmt: skip


def _counted(made: Assembly, flops: TrainingFLOPs) -> dict[str, Any]:
    """Sparsity and cost columns, counted in the final tensors."""
    model, weights, layers = made.model, made.pruner.weights, made.layers
    asked = made.pruner.zeros(made.clock.total_steps - 1)
    kept, names = nonzeros(model), list(weights.parameters)
    parameters, prunable = sum(p.numel() for p in model.parameters()), weights.numel
    nonzero = sum(kept[name] for name in names)
    zeros, pruned = prunable - nonzero, int((~weights.packed()).sum())
    leaked = sum(int(torch.count_nonzero(p[~weights.masks[name]])) for name, p in weights.parameters.items())
    effective = effective_nonzeros(model, made.dataset.input_shape, names)
    dense_macs = sum(layer.macs for layer in layers)
    sparse_macs = sum(kept[layer.name] * layer.positions for layer in layers if layer.name in names)
    sparse_macs += sum(layer.macs for layer in layers if layer.name not in names)
    train_flops, ratio, ratio_dense_gradient = flops.totals()
    guarded = 0 if asked == 0 else 1  # the one weight that an allocation keeps in a layer it would empty
    return {
        "parameters": parameters, "prunable": prunable, "nonzero": nonzero, "sparsity": 1 - nonzero / prunable,
        "model_sparsity": 1 - sum(kept.values()) / parameters,
        "conv_linear_sparsity": 1 - sum(kept[x.name] for x in layers) / sum(x.weights for x in layers),
        "effective_sparsity": "" if effective is None else 1 - effective / prunable,
        "sparsity_ok": asked in (None, pruned) and leaked == 0, "kept_zeros": zeros - (pruned - leaked),
        "collapsed_layers": " ".join(name for name in names if kept[name] <= guarded),
        "compression": prunable / nonzero if nonzero else math.inf,
        "macs": dense_macs, "macs_sparse": sparse_macs,
        "speedup_theoretical": dense_macs / sparse_macs if sparse_macs else math.inf,
        "train_flops": train_flops, "train_flops_ratio": ratio,
        "train_flops_ratio_dense_gradient": ratio_dense_gradient,
    }  # fmt: skip


def _layer_rows(made: Assembly) -> list[dict[str, Any]]:
    parameters, rows = dict(made.model.named_parameters()), []
    for layer in made.layers:
        weight, prunable = parameters[layer.name], layer.name in made.pruner.weights.parameters
        nonzero = int(torch.count_nonzero(weight))
        rows.append({
            "layer": layer.name, "shape": "x".join(map(str, layer.shape)), "prunable": prunable,
            "weights": layer.weights, "nonzero": nonzero, "sparsity": 1 - nonzero / layer.weights,
            "macs": layer.macs, "macs_sparse": nonzero * layer.positions, "dead_outputs": dead_outputs(weight),
        })  # fmt: skip
    return rows


def show(row: Mapping[str, Any], path: Path) -> None:
    """The result, of numbers or of their texts, as a small table, and the folder."""
    lines = [
        ("status", row["status"]),
        ("sparsity", f"{float(row['sparsity']):.4f} of {int(row['prunable']):,} prunable weights"),
    ]
    if row["status"] == "finished":
        lines += [
            ("test top1", f"{float(row['top1']):.2f} %"),
            ("val top1", f"{float(row['val_top1']):.2f} %"),
            ("inference", f"{int(row['macs_sparse']):,} of {int(row['macs']):,} MACs"),
            ("training", f"{float(row['train_flops_ratio']):.3f} of the dense FLOPs"),
            ("time", f"{float(row['seconds']):.1f} s, {float(row['images_per_second']):,.0f} images/s"),
        ]
    if row["collapsed_layers"]:
        lines.append(("collapsed", row["collapsed_layers"]))
    print("\n".join(f"  {name:<10} {value}" for name, value in [*lines, ("results", path)]), flush=True)


def _check(row: Mapping[str, str]) -> None:
    """Refuse a finished row that is an error."""
    if row["status"] != "finished":
        raise RunError(f"run {row['run_id']} {row['status']}: its loss is not a finite number")
    if row["sparsity_ok"] != "True":
        raise RunError(
            f"run {row['run_id']} missed its sparsity: {row['nonzero']} of {row['prunable']} weights are not zero, "
            f"target_sparsity={row['target_sparsity']}"
        )
