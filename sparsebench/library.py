"""Every method in a training loop of your own: ``sparsebench.pruner``."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsebench.clock import Clock
from sparsebench.config import accepted, as_word, build, composed
from sparsebench.errors import RunError, SettingError, one_of
from sparsebench.lr_schedules import LRSchedule
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.prunable import Prunable
from sparsebench.pruning.pruner import Probe, Pruner
from sparsebench.pruning.static import Sanity

if TYPE_CHECKING:
    from omegaconf import DictConfig

SETTINGS = ("sparsity", "ramp_end", "schedule", "allocation", "score", "prune", "prunable", "sanity")
"""What ``settings`` may set; the rest of a run is the loop's own."""

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
    """A method of ``sparsebench list methods``, for a training loop of your own.

    Args:
        method: As in ``prune=...``; also one of another package.
        model: On its device; also compiled, or wrapped by ``DistributedDataParallel``.
        optimizer: Holds the model's parameters.
        steps: Optimiser steps of the whole training.
        sparsity: Target, fraction of zeros among the prunable weights, in [0, 1).
        settings: As on the command line, ``{"schedule.interval": "32it", "allocation": "erk"}`` or
            ``["schedule.interval=32it", "allocation=erk"]``.
        steps_per_epoch: For times in epochs, such as ``"30ep"``.
        prunable: Names of the parameters that may be pruned; by default what the settings ``prunable.*`` say.
        batches: Gives training batches (inputs, targets) on the model's device, the same ones at every call: for
            methods that look at data before the first step, such as SNIP. With several ranks those of rank 0 count.
        criterion: (outputs, targets) -> the mean loss, for the same methods.
        seed: Of random masks; the same on every rank.

    Raises:
        SettingError: A setting is wrong, or the method does not fit into a loop that it does not control.

    Example:
        >>> import torch, sparsebench
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> pruner = sparsebench.pruner("dpf", model, optimizer, steps=40, sparsity=0.75,
        ...                             settings={"schedule.interval": 4})
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
    words = (
        list(settings) if not isinstance(settings, Mapping) else [as_word(*item) for item in settings.items()]
    )
    for word in words:
        key = word.lstrip("+~").partition("=")[0].split(".")[0]
        if key not in SETTINGS or word.partition("=")[0] == "prune":
            raise SettingError(word.partition("=")[0], None, f"a setting of pruning: {one_of(SETTINGS, key)}")
    cfg, _ = composed([as_word("prune", method), as_word("sparsity", sparsity), *words])
    plain = _layers_of_wrapping(model)[-1]
    chosen = Prunable(**cfg.prunable).select(plain) if prunable is None else _named(plain, prunable)
    _check(chosen)
    clock = _Steps(steps) if steps_per_epoch is None else Clock(steps, steps_per_epoch)
    made = build_method(cfg, MaskedParameters(chosen, optimizer), optimizer, clock, model=plain)
    if made.trainings > 1 or not _leaves_learning_rate(made, steps):
        allowed = "a method of one training that leaves the learning rate to the loop; use sparsebench train"
        raise SettingError("prune", method, f"{allowed} prune={method}")
    probe = Probe(
        model=plain,
        batches=lambda: iter(_needed("batches", batches, method)()),
        criterion=lambda outputs, targets: _needed("criterion", criterion, method)(outputs, targets),
        generator=torch.Generator().manual_seed(seed),
        reinitialize=_no_reinitialization,
    )
    return LoopPruner(method, model, optimizer, made, clock, probe)


def build_method(
    cfg: DictConfig, weights: MaskedParameters, optimizer: torch.optim.Optimizer, clock: Clock, **runtime: Any
) -> Pruner:
    """The method that ``cfg`` describes, with its schedule, allocation and score.

    Args:
        cfg: The composed config.
        weights: The prunable weights.
        optimizer: The one that updates them.
        clock: Length of the training.
        runtime: Other finished objects that a method may take by name.
    """
    taken = accepted(
        str(cfg.prune._target_)
    )  # a method without a schedule does not mind what one would refuse
    groups = [group for group in ("schedule", "allocation", "score") if taken is None or group in taken]
    rules = {group: build(cfg[group], group, clock=clock) for group in groups}
    runtime |= {"weights": weights, "optimizer": optimizer, "clock": clock, "sanity": Sanity(**cfg.sanity)}
    method: Pruner = build(cfg.prune, "prune", **rules, **runtime)
    return method


class LoopPruner:
    """A method around the steps of somebody's training loop; made by :func:`pruner`.

    The loop enters :meth:`training_step` for every optimiser step, outside autocast, and inside it runs one or several
    forwards and backwards, asks :meth:`ready` once, and lets the optimiser step if so::

        for inputs, targets in loader:
            optimizer.zero_grad()
            with pruner.training_step():
                with torch.autocast("cuda"):
                    loss = criterion(model(inputs), targets)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)  # masks look at true gradients
                if pruner.ready():
                    scaler.step(optimizer)
                scaler.update()
        pruner.finish()

    Learning rate, precision, clipping (after :meth:`ready`), accumulation and distribution stay the loop's. Where a
    mask update takes the place of an optimiser step, as in RigL, :meth:`ready` says no.

    Args:
        name: Of the method.
        model: As the loop calls it.
        optimizer: The loop's.
        method: The method itself.
        clock: Length of the training.
        probe: What the method may look at before the first step.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: Pruner,
        clock: Clock,
        probe: Probe,
    ) -> None:
        self.name, self.method, self.clock = name, method, clock
        self.step = 0
        self._model, self._optimizer, self._probe = model, optimizer, probe
        self._started = self._finished = self._inside = False
        self._ready: bool | None = None
        self._gradients: list[tuple[Tensor, int] | None] = []

    @contextmanager
    def training_step(self) -> Iterator[None]:
        """One optimiser step: forwards, backwards, :meth:`ready`, the optimiser. After an exception it does not count.

        Gradients have to stay until the end of the block: some methods look at them after the optimiser. Those of a
        step that was not :meth:`ready` are cleared there, so that they do not add to the next one's.
        """
        total = self.clock.total_steps
        if self._inside:
            raise RuntimeError("training_step() cannot be entered inside another one")
        if self._finished or self.step >= total:
            raise RuntimeError(f"all {total} steps are done: sparsebench.pruner was made with steps={total}")
        self._refuse_autocast("training_step()")
        if not self._started:
            self._start()
        self._inside = True
        try:
            self.method.before_forward(self.step)
            yield
            if self._ready is None:
                raise RuntimeError("ready() has to be asked in every training step, after its last backward")
            self._refuse_autocast("training_step()")
            self._refuse_lost_gradients()
            self.method.after_step(self.step)
            if not self._ready:
                self._optimizer.zero_grad(set_to_none=True)
            self.step += 1
        finally:
            self._inside, self._ready, self._gradients = False, None, []
            if self.method.weights.hidden:
                self.method.weights.restore_()

    def ready(self) -> bool:
        """Whether the optimiser may step now: asked once a step, after its last backward, with unscaled gradients."""
        if not self._inside or self._ready is not None:
            raise RuntimeError("ready() is asked once, inside training_step(), after the last backward")
        self._refuse_autocast("ready()")
        self._ready = self.method.after_backward(self.step)
        gradients = (p.grad for p in self.method.weights.parameters.values())
        self._gradients = [None if grad is None else (grad, grad._version) for grad in gradients]
        return self._ready

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model has the sparse weights that the method would deploy; after, its own to the bit."""
        if self._inside:
            raise RuntimeError("evaluating() cannot be entered inside training_step()")
        self._refuse_autocast("evaluating()")
        with self.method.evaluating():
            yield

    def finish(self) -> None:
        """After the last step: the model's plain ``state_dict`` is the sparse network from now on.

        Raises:
            RunError: The number of zeros is not the asked one.
        """
        total, weights = self.clock.total_steps, self.method.weights
        if self._finished:
            return
        if self.step < total:
            raise RuntimeError(
                f"{self.step} of {total} steps are done; sparse_state_dict() has the sparse weights before the end"
            )
        self.method.on_end()
        self._finished = True
        asked, pruned = self.method.zeros(total - 1), int((~weights.packed()).sum())
        leaked = sum(int(torch.count_nonzero(p[~weights.masks[n]])) for n, p in weights.parameters.items())
        if asked not in (None, pruned) or leaked:
            raise RunError(f"{self.name} missed its sparsity: {pruned - leaked} zeros, asked for {asked}")

    @property
    def masks(self) -> dict[str, Tensor]:
        """Name of the parameter -> its mask, bool, True = kept; to be looked at, not changed."""
        return dict(self.method.weights.masks)

    @property
    def explored(self) -> float:
        """Fraction of the prunable weights that any mask so far has kept."""
        return self.method.weights.explored()

    @property
    def pruning_error(self) -> float:
        """||w - m⊙w||² / ||w||² over the prunable weights."""
        return float(self.method.weights.pruning_error())

    def fingerprint(self) -> str:
        """SHA-256 of the masks; equal on every rank."""
        return self.method.weights.fingerprint()

    def summary(self) -> dict[str, Any]:
        """Asked and reached sparsity, zeros, the method's own numbers, and the same for every layer.

        The names are those of the columns in results/README.md; ``layers`` has one entry for every prunable parameter.
        """
        masks, kept = self.method.weights.masks, self.method.weights.nonzero().tolist()
        zeros = {name: mask.numel() - left for (name, mask), left in zip(masks.items(), kept, strict=True)}
        prunable, pruned = self.method.weights.numel, sum(zeros.values())
        return {
            "method": self.name, "step": self.step, "steps": self.clock.total_steps,
            "target_sparsity": self.method.target(self.clock.total_steps - 1),
            "scheduled_sparsity": self.method.target(self.step - 1),
            "sparsity": pruned / prunable, "prunable": prunable, "zeros": pruned,
            "explored": self.explored, "pruning_error": self.pruning_error, **self.method.summary(),
            "layers": {
                name: {"weights": mask.numel(), "zeros": zeros[name], "sparsity": zeros[name] / mask.numel()}
                for name, mask in masks.items()
            },
        }  # fmt: skip

    def sparse_state_dict(self) -> dict[str, Tensor]:
        """A copy of the model's ``state_dict`` with the sparse weights; the training goes on undisturbed."""
        with self.evaluating():
            state = copy.deepcopy(self._probe.model.state_dict())
        for name, mask in self.method.weights.masks.items():
            state[name].masked_fill_(~mask, 0.0)
        return state

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, beside the model's and the optimiser's; between two steps."""
        return {
            "name": self.name, "steps": self.clock.total_steps, "step": self.step, "started": self._started,
            "finished": self._finished, "method": self.method.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`; model and optimiser are loaded with theirs.

        Raises:
            SettingError: The state is another method's, or of a training of another length.
        """
        for setting, saved, own in (
            ("method", state["name"], self.name),
            ("steps", state["steps"], self.clock.total_steps),
        ):
            if saved != own:
                raise SettingError(setting, own, f"{saved}, as in the state that is loaded")
        self.method.load_state_dict(state["method"])
        self.step, self._started, self._finished = state["step"], state["started"], state["finished"]

    def _start(self) -> None:
        """The method's first masks. With several ranks, those of the first one, for each looks at its own data."""
        self.method.on_start(self._probe)
        self._started = True
        wrapping = _layers_of_wrapping(self._model)
        ranks = [layer for layer in wrapping if isinstance(layer, nn.parallel.DistributedDataParallel)]
        if not ranks:
            return
        distributed, group = torch.distributed, ranks[0].process_group
        first = distributed.get_global_rank(group, 0)
        buffer = io.BytesIO()
        torch.save(self.method.state_dict(), buffer)
        message = [buffer.getvalue()]
        distributed.broadcast_object_list(message, src=first, group=group)
        self.method.load_state_dict(torch.load(io.BytesIO(message[0]), map_location="cpu", weights_only=True))
        for parameter in self._probe.model.parameters():
            distributed.broadcast(parameter.detach(), src=first, group=group)

    def _refuse_autocast(self, what: str) -> None:
        device = next(iter(self.method.weights.parameters.values())).device.type
        if torch.is_autocast_enabled(device):  # it caches weights, and does not see them change in place
            raise RuntimeError(f"{what} has to be outside autocast: put autocast around the forward alone")

    def _refuse_lost_gradients(self) -> None:
        parameters = self.method.weights.parameters.values()
        for parameter, before in zip(parameters, self._gradients, strict=True):
            changed = before and not self._ready and (before[0]._version != before[1])
            if before and (parameter.grad is None or changed):
                raise RuntimeError(
                    "gradients have to stay until the end of training_step(): call optimizer.zero_grad() outside it"
                )


class _Counting(LRSchedule):
    """A factor of its own for every step."""

    def factor(self, step: int) -> float:
        """The step itself."""
        return float(step)


def _leaves_learning_rate(method: Pruner, steps: int) -> bool:
    """Whether the method follows the learning-rate schedule that it is given, at a hundred steps of the training."""
    schedule = _Counting(Clock(steps))
    return all(
        method.lr_factor(step, schedule) == step for step in {*range(0, steps, -(-steps // 100)), steps - 1}
    )


class _Steps(Clock):
    """A clock that was told nothing of epochs."""

    def steps(self, time: str | float, setting: str = "time") -> int:
        """As :meth:`Clock.steps`, but a time in epochs is refused."""
        if str(time).strip().endswith("ep"):
            raise SettingError("steps_per_epoch", None, f"a number, for {setting}={time} is a time in epochs")
        return super().steps(time, setting)


def _layers_of_wrapping(model: nn.Module) -> list[nn.Module]:
    """The model as it was given, and what it wraps down to the model itself, whose parameters have plain names."""
    found = [model]
    while True:
        if isinstance(found[-1], (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            found.append(found[-1].module)
        elif isinstance(inner := getattr(found[-1], "_orig_mod", None), nn.Module):  # of torch.compile
            found.append(inner)
        else:
            return found


def _named(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    parameters = dict(model.named_parameters())
    chosen = set(names)
    if unknown := sorted(chosen - parameters.keys()):
        raise SettingError("prunable", unknown[0], one_of(parameters, unknown[0]))
    return {name: parameter for name, parameter in parameters.items() if name in chosen}


def _check(parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse what masks cannot be written into."""
    seen: dict[int, str] = {}
    for name, parameter in parameters.items():
        if not isinstance(parameter, nn.Parameter):
            raise SettingError(
                "prunable", name, "parameters of their own, but this one is computed from others"
            )
        if hasattr(parameter, "device_mesh"):
            raise SettingError("prunable", name, "whole parameters on every rank, but this one is sharded")
        if seen.setdefault(id(parameter), name) != name:
            raise SettingError(
                "prunable", name, f"each parameter once, but this one is also {seen[id(parameter)]}"
            )
    if not parameters:
        raise SettingError("prunable", None, "at least one parameter")


def _needed(argument: str, given: Any, method: str) -> Any:
    if given is None:
        raise SettingError(
            argument, None, f"a callable, for prune={method} looks at data before the first step"
        )
    return given


def _no_reinitialization() -> None:
    raise SettingError("sanity.reinit", True, "false: only sparsebench train can make the model anew")
