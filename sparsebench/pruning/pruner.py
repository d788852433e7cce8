"""The interface between a method and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparsebench.errors import SettingError
from sparsebench.optim.lr_schedules import LRSchedule
from sparsebench.pruning.allocation import Allocation, zeros_for
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Schedule
from sparsebench.pruning.scores import Score
from sparsebench.transfer import send_


@dataclass(frozen=True)
class Probe:
    """What a method can use before training starts.

    Args:
        model: The initial model.
        batches: Returns the training batches (inputs, targets) of the first steps, the same ones at every call.
        criterion: (logits, targets) -> the mean training loss.
        generator: A seeded CPU generator.
        reinitialize: Reinitialises all weights of the model in place.
    """

    model: nn.Module
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    criterion: Callable[[Tensor, Tensor], Tensor]
    generator: torch.Generator
    reinitialize: Callable[[], None]

    @contextmanager
    def scoring(self, training_mode: bool) -> Iterator[None]:
        """Put the model into the given mode; modes, buffers and generators are restored afterwards."""
        modes = {module: module.training for module in self.model.modules()}
        buffers = {buffer: buffer.clone() for buffer in self.model.buffers()}
        cuda = sorted({p.device for p in self.model.parameters() if p.device.type == "cuda"}, key=str)
        self.model.train(training_mode)
        try:
            with torch.random.fork_rng(cuda):
                yield
        finally:
            for module, training in modes.items():
                module.training = training
            with torch.no_grad():
                for buffer, before in buffers.items():
                    buffer.copy_(before)

    def gradients(self, parameters: Mapping[str, nn.Parameter], batches: int) -> dict[str, Tensor]:
        """Gradient of the mean loss over the first ``batches`` training batches, in full precision."""
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for inputs, targets in islice(self.batches(), batches):
            loss = self.criterion(self.model(inputs), targets) / batches
            for sum_, part in zip(
                total.values(), torch.autograd.grad(loss, list(parameters.values())), strict=True
            ):
                sum_ += part
        return total

    def balanced(self, per_class: int) -> tuple[Tensor, Tensor]:
        """The first ``per_class`` training images of every class, ordered by their index within the class.

        Raises:
            SettingError: There are fewer images of a class.
        """
        found: dict[int, list[Tensor]] = {}
        classes = 0
        for inputs, targets in self.batches():
            if not classes:
                with torch.no_grad(), self.scoring(False):
                    classes = self.model(inputs[:1]).shape[1]
            for image, target in zip(inputs, targets.tolist(), strict=True):
                if len(found.setdefault(target, [])) < per_class:
                    found[target].append(image)
            if len(found) == classes and all(len(images) == per_class for images in found.values()):
                order = [(target, found[target][i]) for i in range(per_class) for target in sorted(found)]
                labels = torch.tensor([target for target, _ in order], device=targets.device)
                return torch.stack([image for _, image in order]), labels
        raise SettingError(
            "samples_per_class", per_class, "at most the number of training images of each class"
        )


class Pruner:
    """A method, as hooks around the training step; the defaults do nothing.

    The loop calls, for every ``step`` (0-based): ``before_forward``, forward and backward, ``after_backward``,
    the optimiser, ``after_step``; ``on_start`` once before and ``on_end`` once after. Hooks run outside autocast.

    Args:
        weights: The prunable weights and their masks.
        schedule: When masks change, and to which sparsity.
        allocation: Turns scores and a sparsity into masks.
        score: What to keep: higher means keep.

    Raises:
        SettingError: The allocation cannot reach the target sparsity with these layers, or the score cannot score them.
    """

    def __init__(
        self, weights: MaskedParameters, schedule: Schedule, allocation: Allocation, score: Score
    ) -> None:
        self.weights = weights
        self.schedule = schedule
        self.allocation = allocation
        self.score = score
        shapes = {name: tuple(p.shape) for name, p in weights.parameters.items()}
        allocation.check(shapes, schedule.target_sparsity)
        score.check(shapes)

    asks_schedule: ClassVar[str] = "updates"
    """What it asks of its schedule: the ``target``, the ``sparsity`` of every step, or also its ``updates``.

    Settings of the schedule that matter for more than that are not used, and refused on the command line.
    """
    ignores: ClassVar[dict[str, dict[str, object]]] = {}
    """Setting, or part that it is given -> values of others with which it has no effect: ``{}`` if it never has one."""
    trainings = 1
    """Number of consecutive trainings that make up one result; each is a run with its own row."""
    training = 0
    """Number of the present one, set by :meth:`begin`; schedules may depend on it."""
    gradient_masks: ClassVar[bool] = False
    """Whether weight gradients have masks of their own, larger than the weights'; for counting training FLOPs."""
    reads_values: ClassVar[str | None] = None
    """Why mask updates have to read values from the device, once each, and so wait for it; no other hook does."""
    step_numbers: Tensor | None = None
    """Where a recorded mask update finds the numbers of its step, float64 [k] on the device; ``None`` without any."""
    _sent: list[float] | None = None  # the numbers that are there
    _counted: tuple[float, list[float]] | None = None  # the last sparsity, and its numbers of zeros
    reparametrizes = False
    """Whether training differs from dense training even at target sparsity 0."""

    def check_length(self, total_steps: int) -> None:
        """Called by ``sparsebench train`` before it writes anything.

        Raises:
            SettingError: The training is too short for the method to do what it is named after.
        """

    def begin(self, training: int, before: Mapping[str, Any]) -> int:
        """Called first in each training; returns its first step.

        Args:
            training: Number of the training, from 0.
            before: Result of :meth:`handover` of the previous training; empty for the first.
        """
        return 0

    def handover(self) -> dict[str, Any]:
        """Called after :meth:`on_end`; the state that the next training needs."""
        return {}

    def on_start(self, probe: Probe) -> None:
        """Called before the first step of a new run, not when a run is resumed."""

    def lr_factor(self, step: int, lr_schedule: LRSchedule) -> float:
        """Learning-rate factor of ``step``."""
        return lr_schedule.factor(step)

    def before_forward(self, step: int) -> None:
        """Called before the forward pass of ``step``; may put pruned weights into the model."""

    def after_backward(self, step: int) -> bool:
        """Called after the last backward of ``step`` with unscaled gradients; returns whether to call the optimiser."""
        return True

    def after_step(self, step: int) -> None:
        """Called after the optimiser step."""

    def program(self, step: int) -> Hashable | None:
        """Names what the hooks do at ``step``, so that the step may be recorded and replayed; ``None`` if it may not.

        Equal names promise the same tensor operations, with the same Python numbers, on the same storage: none that
        reads a tensor's values, draws on the CPU, or lets an attribute refer to a new tensor that a later step needs.
        Numbers that change from update to update are found in :attr:`step_numbers`.
        """
        return None

    def numbers(self, step: int) -> list[float]:
        """Numbers that a recorded mask update of ``step`` depends on, as many each time; empty for other steps."""
        return []

    def prepare(self, step: int) -> None:
        """Put the :meth:`numbers` of ``step`` where a recorded step finds them; called before each step that may be."""
        numbers = self.numbers(step)
        if not numbers or numbers == self._sent:
            return
        values = torch.tensor(numbers, dtype=torch.float64)
        if self.step_numbers is None:
            device = next(iter(self.weights.masks.values())).device
            self.step_numbers = torch.empty_like(values, device=device)
        send_(self.step_numbers, values)
        self._sent = numbers

    @property
    def records_updates(self) -> bool:
        """Whether a mask update by :meth:`update_masks` can be recorded."""
        return self.allocation.recordable and self.score.recordable

    def zeros(self, step: int) -> list[float]:
        """The :meth:`numbers` of :meth:`allocate`: numbers of zeros at ``step``."""
        if not self.records_updates:
            return []
        sparsity = self._sparsity(step)
        if self._counted is None or self._counted[0] != sparsity:
            shapes = {name: tuple(p.shape) for name, p in self.weights.parameters.items()}
            self._counted = sparsity, [float(count) for count in self.allocation.counts(shapes, sparsity)]
        return self._counted[1]

    def allocate(self, scores: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Masks of ``step`` from scores; with the numbers of zeros in :attr:`step_numbers`, if they were put there."""
        if self.step_numbers is None:
            return self.allocation(scores, self._sparsity(step))
        return self.allocation.prune(scores, self.step_numbers.long().unbind())

    def _sparsity(self, step: int) -> float:
        scheduled = self.scheduled_sparsity(step)
        return self.schedule.sparsity(step) if scheduled is None else scheduled

    def cuts(self, step: int) -> bool:
        """Whether ``step`` prunes so much that an evaluation right after it is useful."""
        return False

    def on_end(self) -> None:
        """Called after the last step; leaves the final sparse weights in the model."""
        self.weights.bake_()

    def evaluating(self) -> AbstractContextManager[None]:
        """Context for evaluation, with the weights that the method would deploy."""
        return nullcontext()

    def dense_gradient(self, step: int) -> bool:
        """Whether ``step`` needs the gradient of every weight, including pruned ones; for counting training FLOPs."""
        return False

    def dense_forward(self, step: int) -> bool:
        """Whether ``step`` computes with every weight; for counting training FLOPs."""
        return False

    def scheduled_sparsity(self, step: int) -> float | None:
        """The sparsity of the masks during ``step``; ``None`` for a method without a target sparsity."""
        return self.schedule.sparsity(step)

    def target_zeros(self, step: int) -> int | None:
        """The number of pruned weights during ``step``; ``None`` if the method does not guarantee one."""
        scheduled = self.scheduled_sparsity(step)
        if scheduled is None or self.allocation.compat is not None:
            return None
        return zeros_for(scheduled, self.weights.numel)

    def update_masks(self, step: int, generator: torch.Generator | None = None) -> None:
        """Recompute the masks for ``step`` from the scores of the dense weights."""
        self.weights.set_masks(self.allocate(self.score(self.weights.weights(), generator), step))

    def summary(self) -> dict[str, float | int | str]:
        """Additional columns for the result row."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything the method needs to resume."""
        return self.weights.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        self.weights.load_state_dict(state)
