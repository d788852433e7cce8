"""Build the objects of a run from its config."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from omegaconf import DictConfig
from torch import nn

from sparsebench.clock import Clock
from sparsebench.config.build import build
from sparsebench.data.dataset import Dataset, Loader
from sparsebench.distributed.device import Device, seed_everything
from sparsebench.errors import SettingError
from sparsebench.library import build_method
from sparsebench.optim.lr_schedules import LRSchedule
from sparsebench.optim.param_groups import parameter_groups
from sparsebench.optim.uncompiled import without_compiler
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.prunable import Prunable
from sparsebench.pruning.pruner import Pruner
from sparsebench.runs.result import Network
from sparsebench.training.flops import Layer, count_layers


@dataclass(frozen=True)
class RunComponents:
    """The objects of a run."""

    device: Device
    dataset: Dataset
    data: Loader
    model: nn.Module
    clock: Clock
    optimizer: torch.optim.Optimizer
    lr_schedule: LRSchedule
    pruner: Pruner
    layers: list[Layer]
    eval_every: int  # steps
    save_every: int

    @property
    def target_sparsity(self) -> float | None:
        """The target sparsity, if the method has one."""
        return self.pruner.scheduled_sparsity(self.clock.total_steps - 1)


def build_run(cfg: DictConfig, dataset: Dataset | None = None) -> RunComponents:
    """Build everything that ``cfg`` describes; seeds are set before the model is built. Writes nothing.

    Args:
        cfg: The composed config.
        dataset: Used instead of the one that ``cfg`` describes.
    """
    net = network(cfg, dataset)
    if cfg.batch_size < 2 * net.device.world_size > 2:
        least = f"at least {2 * net.device.world_size}, two images for each of {net.device.world_size} ranks"
        raise SettingError("batch_size", cfg.batch_size, least)
    if cfg.accumulate > cfg.batch_size:
        raise SettingError("accumulate", cfg.accumulate, f"at most batch_size, {cfg.batch_size} images")
    data = net.dataset.loader(cfg.batch_size, cfg.seed, channels_last=net.device.channels_last)
    clock = Clock(data.steps_per_epoch * epochs(cfg), data.steps_per_epoch, cfg.extend)
    parameters = parameter_groups(net.model, cfg.optimizer.get("weight_decay", 0.0), cfg.norm_weight_decay)
    make = partial(build, cfg.optimizer, "optimizer", params=parameters, **net.device.optimizer_options)
    optimizer = make() if net.device.compile else without_compiler(make)
    weights = MaskedParameters(dict(net.prunable), optimizer)
    lr_schedule = build(cfg.lr_schedule, "lr_schedule", clock=clock)
    return RunComponents(
        device=net.device,
        dataset=net.dataset,
        data=data,
        model=net.model,
        clock=clock,
        optimizer=optimizer,
        lr_schedule=lr_schedule,
        pruner=build_method(cfg, weights, optimizer, clock, model=net.model, lr_schedule=lr_schedule),
        layers=net.layers,
        eval_every=max(clock.duration(cfg.eval_every, "eval_every"), 1),
        save_every=max(clock.duration(cfg.save_every, "save_every"), 1),
    )


def network(cfg: DictConfig, dataset: Dataset | None = None) -> Network:
    """The part of :func:`build_run` that an audit needs: the initial model and its data."""
    device: Device = build(cfg.device)
    seed_everything(cfg.seed)
    # The main rank downloads, if needed.
    dataset = dataset or device.main_rank_first(
        lambda: build(cfg.dataset, "dataset", device=device.torch_device)
    )
    model = build(cfg.model, "model", input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    device.to_device(model)
    prunable = Prunable(**cfg.prunable).select(model)
    layers = count_layers(model, dataset.input_shape)
    if unknown := sorted(prunable.keys() - {layer.name for layer in layers}):
        allowed = f"a model that calls its layers; what {unknown[0]} costs cannot be counted"
        raise SettingError("model", model.name, allowed)
    return Network(device, dataset, model, prunable, layers)


def eval_batch_size(cfg: DictConfig, dataset: Dataset) -> int:
    """Images per forward pass in evaluation: many small ones, because they leave a device idle otherwise."""
    small = max(dataset.input_shape[1:]) <= 64
    return int(cfg.eval_batch_size or (1000 if small else cfg.batch_size))


def epochs(cfg: DictConfig) -> int:
    """Length of a training in epochs, rounded to an integer."""
    return max(round(cfg.epochs * cfg.extend), 1)
