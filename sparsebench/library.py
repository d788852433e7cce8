"""Every method in your own training loop: ``sparsebench.pruner``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsebench.clock import Clock
from sparsebench.config.build import build, format_override
from sparsebench.config.open import compose_config
from sparsebench.config.signatures import accepted_arguments
from sparsebench.errors import SettingError, one_of
from sparsebench.optim.lr_schedules import LRSchedule
from sparsebench.pruning.loop import LoopPruner, unwrapped_modules
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.prunable import Prunable
from sparsebench.pruning.pruner import Probe, Pruner
from sparsebench.pruning.static import Sanity

if TYPE_CHECKING:
    from omegaconf import DictConfig

SETTINGS = ("sparsity", "ramp_end", "schedule", "allocation", "score", "prune", "prunable", "sanity")
"""Keys allowed in ``settings``; everything else is up to the loop."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def pruner(
    method: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    sparsity: float = 0.9,
    settings: Mapping[str, object] | Sequence[str] = (),
    steps_per_epoch: int | None = None,
    prunable: Iterable[str] | None = None,
    batches: Batches | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
    seed: int = 0,
) -> LoopPruner:
    """Build a method of ``sparsebench list methods`` for your own training loop.

    Args:
        method: As in ``prune=...``; may come from another package.
        model: On its device; may be compiled or wrapped in ``DistributedDataParallel``.
        optimizer: Holds the model's parameters. Create learning-rate schedulers after the pruner: some methods add
            a parameter group.
        steps: Optimiser steps of the whole training.
        sparsity: Target sparsity, the fraction of zeros among the prunable weights, in [0, 1).
        settings: As on the command line, ``{"schedule.interval": "32it", "allocation": "erk"}`` or
            ``["schedule.interval=32it", "allocation=erk"]``.
        steps_per_epoch: For times in epochs, such as ``"30ep"``.
        prunable: Names of the parameters that may be pruned; by default those that the settings ``prunable.*`` select.
        batches: Returns training batches (inputs, targets) on the model's device, the same ones at every call; for
            methods that look at data before the first step, such as SNIP. With several ranks, rank 0's are used.
        criterion: (outputs, targets) -> the mean loss, for the same methods.
        seed: Seed of random masks; the same on every rank.

    Raises:
        SettingError: A setting is wrong, or the method needs control of the training loop.

    Example:
        >>> import torch, sparsebench
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> pruner = sparsebench.pruner("dpf", model, optimizer, steps=40, sparsity=0.75,
        ...                             settings={"schedule.interval": "4it"})
        >>> for _ in range(40):
        ...     inputs = torch.randn(32, 8)
        ...     optimizer.zero_grad()
        ...     with pruner.training_step():
        ...         loss = (model(inputs).squeeze(1) - inputs[:, 0]).square().mean()
        ...         loss.backward()
        ...         if pruner.ready():
        ...             optimizer.step()
        >>> pruner.finish()
        >>> int((model[0].weight == 0).sum()), model[0].weight.numel()
        (96, 128)
    """
    overrides = (
        list(settings)
        if not isinstance(settings, Mapping)
        else [format_override(*item) for item in settings.items()]
    )
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].split(".")[0]
        if key not in SETTINGS or override.partition("=")[0] == "prune":
            raise SettingError(
                override.partition("=")[0], None, f"a setting of pruning: {one_of(SETTINGS, key)}"
            )
    cfg, _ = compose_config(
        [format_override("prune", method), format_override("sparsity", sparsity), *overrides]
    )
    unwrapped = unwrapped_modules(model)[-1]
    chosen = (
        Prunable(**cfg.prunable).select(unwrapped)
        if prunable is None
        else _select_by_name(unwrapped, prunable)
    )
    _check(chosen)
    clock = _StepClock(steps) if steps_per_epoch is None else Clock(steps, steps_per_epoch)
    groups = len(optimizer.param_groups)
    pruning_method = build_method(cfg, MaskedParameters(chosen, optimizer), optimizer, clock, model=unwrapped)
    if len(optimizer.param_groups) > groups and hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        allowed = (
            "one without a learning-rate scheduler yet: the method adds a parameter group that it would miss"
        )
        raise SettingError("optimizer", type(optimizer).__name__, allowed)
    if pruning_method.trainings > 1 or not _follows_lr_schedule(pruning_method, steps):
        allowed = (
            "a method with a single training that leaves the learning rate to the loop; use sparsebench train"
        )
        raise SettingError("prune", method, f"{allowed} prune={method}")
    probe = Probe(
        model=unwrapped,
        batches=lambda: iter(_require("batches", batches, method)()),
        criterion=lambda outputs, targets: _require("criterion", criterion, method)(outputs, targets),
        generator=torch.Generator().manual_seed(seed),
        reinitialize=_no_reinitialization,
    )
    return LoopPruner(method, model, optimizer, pruning_method, clock, probe)


def build_method(
    cfg: DictConfig, weights: MaskedParameters, optimizer: torch.optim.Optimizer, clock: Clock, **runtime: Any
) -> Pruner:
    """Build the method that ``cfg`` describes, with its schedule, allocation and score.

    Args:
        cfg: The composed config.
        weights: The prunable weights.
        optimizer: The one that updates them.
        clock: Length of the training.
        runtime: Other objects that a method may take by name.
    """
    # A method without a schedule accepts settings that a schedule would refuse.
    accepted = accepted_arguments(str(cfg.prune._target_))
    groups = [group for group in ("schedule", "allocation", "score") if accepted is None or group in accepted]
    rules = {group: build(cfg[group], group, clock=clock) for group in groups}
    runtime |= {"weights": weights, "optimizer": optimizer, "clock": clock, "sanity": Sanity(**cfg.sanity)}
    method: Pruner = build(cfg.prune, "prune", **rules, **runtime)
    return method


class _FactorIsStep(LRSchedule):
    """A learning-rate schedule whose factor is the step."""

    def factor(self, step: int) -> float:
        """The step itself."""
        return float(step)


def _follows_lr_schedule(method: Pruner, steps: int) -> bool:
    """Whether the method follows a given learning-rate schedule, checked at a hundred steps."""
    schedule = _FactorIsStep(Clock(steps))
    return all(
        method.lr_factor(step, schedule) == step for step in {*range(0, steps, -(-steps // 100)), steps - 1}
    )


class _StepClock(Clock):
    """A clock that does not know the length of an epoch and refuses times in epochs."""

    def _steps(self, time: str | float, setting: str, factor: float) -> int:
        if str(time).strip().endswith("ep"):
            raise SettingError(
                "steps_per_epoch", None, f"a number, because {setting}={time} is a time in epochs"
            )
        return super()._steps(time, setting, factor)


def _select_by_name(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    parameters = dict(model.named_parameters())
    chosen = set(names)
    if unknown := sorted(chosen - parameters.keys()):
        raise SettingError("prunable", unknown[0], one_of(parameters, unknown[0]))
    return {name: parameter for name, parameter in parameters.items() if name in chosen}


def _check(parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse parameters that masks cannot be applied to."""
    seen: dict[int, str] = {}
    for name, parameter in parameters.items():
        if not isinstance(parameter, nn.Parameter):
            raise SettingError("prunable", name, "plain parameters, but this one is computed from others")
        if hasattr(parameter, "device_mesh"):
            raise SettingError("prunable", name, "whole parameters on every rank, but this one is sharded")
        if seen.setdefault(id(parameter), name) != name:
            raise SettingError(
                "prunable", name, f"each parameter once, but this one is also {seen[id(parameter)]}"
            )
    if not parameters:
        raise SettingError("prunable", None, "at least one parameter")


def _require(argument: str, given: Any, method: str) -> Any:
    if given is None:
        raise SettingError(
            argument, None, f"a callable, because prune={method} looks at data before the first step"
        )
    return given


def _no_reinitialization() -> None:
    raise SettingError("sanity.reinit", True, "false: only sparsebench train can reinitialise the model")
