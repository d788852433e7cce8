"""A method in the user's own training loop."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsebench.clock import Clock
from sparsebench.distributed.collectives import broadcast_state
from sparsebench.errors import RunError, SettingError
from sparsebench.pruning.pruner import Probe, Pruner


class LoopPruner:
    """A method in the user's own training loop; created by ``sparsebench.pruner``.

    The loop enters :meth:`training_step` for every optimiser step, outside autocast; inside, it runs one or several
    forward and backward passes, calls :meth:`ready` once, and steps the optimiser if that returns True::

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

    Learning rate, precision, clipping (after :meth:`ready`), accumulation and distribution are up to the loop. If a
    mask update replaces an optimiser step, as in RigL, :meth:`ready` returns False.

    Args:
        name: Name of the method.
        model: The model as the loop calls it.
        optimizer: The loop's optimiser.
        method: The method.
        clock: Length of the training.
        probe: What the method may use before the first step.
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
        """One optimiser step: forward, backward, :meth:`ready`, optimiser. A step that raises does not count.

        Gradients have to stay until the end of the block, because some methods use them after the optimiser. If
        :meth:`ready` returned False, they are cleared there.
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
                raise RuntimeError("ready() has to be called in every training step, after its last backward")
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
        """Whether the optimiser may step; call once per step, after its last backward, with unscaled gradients."""
        if not self._inside or self._ready is not None:
            raise RuntimeError(
                "ready() has to be called once, inside training_step(), after the last backward"
            )
        self._refuse_autocast("ready()")
        self._ready = self.method.after_backward(self.step)
        gradients = (p.grad for p in self.method.weights.parameters.values())
        self._gradients = [None if grad is None else (grad, grad._version) for grad in gradients]
        return self._ready

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the deployable sparse weights into the model inside the block; its own are restored afterwards."""
        if self._inside:
            raise RuntimeError("evaluating() cannot be entered inside training_step()")
        self._refuse_autocast("evaluating()")
        with self.method.evaluating():
            yield

    def finish(self) -> None:
        """Call after the last step; the model's plain ``state_dict`` is then the sparse network.

        Raises:
            RunError: The number of zeros is not the requested one.
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
        target_zeros, zeros = self.method.target_zeros(total - 1), weights.zeros()
        if not zeros.as_requested(target_zeros):
            found = f"{zeros.pruned - zeros.leaked} zeros, requested were {target_zeros}"
            raise RunError(f"{self.name} missed its sparsity: {found}")

    @property
    def masks(self) -> dict[str, Tensor]:
        """Name of the parameter -> its mask, bool, True = kept; do not modify."""
        return dict(self.method.weights.masks)

    @property
    def exploration_rate(self) -> float:
        """Fraction of the prunable weights that were kept by any mask so far."""
        return self.method.weights.exploration_rate()

    @property
    def pruning_error(self) -> float:
        """||w - m⊙w||² / ||w||² over the prunable weights."""
        return float(self.method.weights.pruning_error())

    def fingerprint(self) -> str:
        """SHA-256 of the masks; equal on every rank."""
        return self.method.weights.fingerprint()

    def summary(self) -> dict[str, Any]:
        """Requested and achieved sparsity, zeros, the method's own numbers, and the sparsity of every layer.

        Names are those of the columns in results/README.md; ``layers`` has one entry per prunable parameter.
        """
        masks, kept = self.method.weights.masks, self.method.weights.nonzero().tolist()
        zeros = {name: mask.numel() - left for (name, mask), left in zip(masks.items(), kept, strict=True)}
        prunable, pruned = self.method.weights.numel, sum(zeros.values())
        return {
            "method": self.name, "step": self.step, "steps": self.clock.total_steps,
            "target_sparsity": self.method.scheduled_sparsity(self.clock.total_steps - 1),
            "scheduled_sparsity": self.method.scheduled_sparsity(self.step - 1),
            "sparsity": pruned / prunable, "prunable": prunable, "zeros": pruned,
            "explored": self.exploration_rate, "pruning_error": self.pruning_error, **self.method.summary(),
            "layers": {
                name: {"weights": mask.numel(), "zeros": zeros[name], "sparsity": zeros[name] / mask.numel()}
                for name, mask in masks.items()
            },
        }  # fmt: skip

    def sparse_state_dict(self) -> dict[str, Tensor]:
        """A copy of the model's ``state_dict`` with the sparse weights; does not affect the training."""
        with self.evaluating():
            state = copy.deepcopy(self._probe.model.state_dict())
        for name, mask in self.method.weights.masks.items():
            state[name].masked_fill_(~mask, 0.0)
        return state

    def state_dict(self) -> dict[str, Any]:
        """State for resuming, in addition to the model's and the optimiser's; call between steps."""
        return {
            "name": self.name, "steps": self.clock.total_steps, "step": self.step, "started": self._started,
            "finished": self._finished, "method": self.method.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`; load model and optimiser separately.

        Raises:
            SettingError: The state belongs to another method, or to a training of another length.
        """
        for setting, saved, own in (
            ("method", state["name"], self.name),
            ("steps", state["steps"], self.clock.total_steps),
        ):
            if saved != own:
                raise SettingError(setting, own, f"{saved}, as in the loaded state")
        self.method.load_state_dict(state["method"])
        self.step, self._started, self._finished = state["step"], state["started"], state["finished"]

    def _start(self) -> None:
        """Initialise masks; with several ranks they are broadcast, because each rank sees its own data."""
        self.method.on_start(self._probe)
        self._started = True
        wrapping = unwrapped_modules(self._model)
        ranks = [layer for layer in wrapping if isinstance(layer, nn.parallel.DistributedDataParallel)]
        if ranks:
            broadcast_state(self.method, self._probe.model, ranks[0].process_group)

    def _refuse_autocast(self, what: str) -> None:
        device = next(iter(self.method.weights.parameters.values())).device.type
        if torch.is_autocast_enabled(device):  # it caches casts of weights and misses in-place changes
            raise RuntimeError(f"{what} has to be outside autocast: put autocast around the forward alone")

    def _refuse_lost_gradients(self) -> None:
        parameters = self.method.weights.parameters.values()
        for parameter, before in zip(parameters, self._gradients, strict=True):
            changed = before and not self._ready and (before[0]._version != before[1])
            if before and (parameter.grad is None or changed):
                raise RuntimeError(
                    "gradients have to stay until the end of training_step(): call optimizer.zero_grad() outside of it"
                )


def unwrapped_modules(model: nn.Module) -> list[nn.Module]:
    """The given model and the modules it wraps, down to the plain model."""
    found = [model]
    while True:
        if isinstance(found[-1], (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            found.append(found[-1].module)
        elif isinstance(inner := getattr(found[-1], "_orig_mod", None), nn.Module):  # of torch.compile
            found.append(inner)
        else:
            return found
