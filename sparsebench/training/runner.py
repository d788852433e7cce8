"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsebench.clock import Clock
from sparsebench.data.dataset import Loader
from sparsebench.distributed.device import Device
from sparsebench.optim.lr_schedules import LRSchedule
from sparsebench.pruning.pruner import Probe, Pruner
from sparsebench.training.checkpoint import Checkpoint
from sparsebench.training.ema import WeightAverage
from sparsebench.training.flops import TrainingFLOPs
from sparsebench.training.metrics import Accuracy, TrainLoss, evaluate
from sparsebench.training.progress import Progress
from sparsebench.training.signals import StopSignals

Batches = Iterator[tuple[Tensor, Tensor]]
Mixing = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass
class History:
    """Measurements so far; part of the checkpoint."""

    rows: list[dict[str, float | None]] = field(default_factory=list)
    best_val_top1: float = math.nan  # among evaluations at the target sparsity
    test_top1_at_best_val: float = math.nan
    seconds: float = 0.0
    diverged: bool = False
    val: Accuracy | None = None
    test: Accuracy | None = None


@dataclass(frozen=True)
class TrainingSetup:
    """The model, its data, the method, and the length of the training.

    Args:
        model: On its device, in its memory format.
        data: Training batches by position.
        evaluation: ``"val"`` or ``"test"`` -> all its samples, once, in order; with several ranks, this rank's.
        criterion: (logits, targets) -> mean loss.
        optimizer: Holds the dense weights.
        lr_schedule: Learning-rate factor of each step.
        pruner: The method.
        clock: Length of the training.
        flops: Counts the training's cost.
        seed: Seed of the generator that methods draw from.
        reinitialize: Reinitialises the model's weights, for methods that request it.
        first_step: First step of the training; not 0 if it continues an earlier one.
    """

    model: nn.Module
    data: Loader
    evaluation: Callable[[Literal["val", "test"]], Batches]
    criterion: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    lr_schedule: LRSchedule
    pruner: Pruner
    clock: Clock
    flops: TrainingFLOPs
    seed: int = 0
    reinitialize: Callable[[], None] = lambda: None
    first_step: int = 0


@dataclass(frozen=True)
class StepSettings:
    """Settings of a training step.

    Args:
        device: Precision, random generators, and collectives.
        accumulate: Micro-batches per batch, one backward each.
        clip_norm: Maximum norm of the gradient; ``None`` for no clipping.
        mix: (step, inputs, targets) -> mixed inputs and targets; methods that look at data see them unmixed.
        average: Average of the weights, which is then evaluated, and kept at the end.
    """

    device: Device
    accumulate: int = 1
    clip_norm: float | None = None
    mix: Mixing | None = None
    average: WeightAverage | None = None


@dataclass(frozen=True)
class RecordSettings:
    """When and where a training is evaluated, recorded and saved.

    Args:
        checkpoint: Stores the state.
        record: Called with all rows of metrics.csv after every evaluation.
        progress: (steps of the run, steps done) -> progress output.
        eval_every: Steps between evaluations.
        save_every: Steps between checkpoints.
        save_seconds: Longest time between checkpoints.
        signals: Checked between steps.
    """

    checkpoint: Checkpoint
    record: Callable[[list[dict[str, float | None]]], None]
    progress: Callable[[int, int], Progress]
    eval_every: int
    save_every: int
    save_seconds: float = math.inf
    signals: StopSignals = field(default_factory=StopSignals)


class Runner:
    """Trains, prunes, evaluates and records one run.

    Args:
        setup: The model, its data, the method, and the length of the training.
        step: Settings of a training step.
        records: When and where it is evaluated and saved.
    """

    def __init__(self, setup: TrainingSetup, step: StepSettings, records: RecordSettings) -> None:
        device, model, data = step.device, setup.model, setup.data
        self.model, self.forward = model, device.callable(model)
        self.parallel = device.parallel(model, self.forward, lambda: data.batch(0)[0][:2])
        self.data, self.evaluation, self.criterion = data, setup.evaluation, setup.criterion
        self.optimizer, self.lr_schedule, self.pruner = setup.optimizer, setup.lr_schedule, setup.pruner
        self.clock, self.flops = setup.clock, setup.flops
        self.seed, self.reinitialize = setup.seed, setup.reinitialize
        self.device, self.accumulate, self.clip_norm = device, step.accumulate, step.clip_norm
        self.mix, self.average = step.mix, step.average
        self.checkpoint, self.record, self.make_progress = (
            records.checkpoint,
            records.record,
            records.progress,
        )
        self.eval_every, self.save_every = records.eval_every, records.save_every
        self.save_seconds, self.signals = records.save_seconds, records.signals
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.train_loss = TrainLoss(device.torch_device)
        self.history = History()
        self.step = setup.first_step
        self.images = 0
        self._last_masks = self.pruner.weights.packed()

    def run(self) -> History:
        """Train to the end, or until the loss is not finite; resumes from a checkpoint if there is one."""
        total = self.clock.total_steps
        if (state := self.device.broadcast_from_main(self.checkpoint.load)) is not None:
            self.load_state_dict(state)
        else:
            self.pruner.on_start(self._probe())
            self.device.broadcast_initial_state(self.pruner, self.model, self.seed)
        self.progress = self.make_progress(total, self.step)
        if state is None and self.step > 0:  # continues an earlier training: evaluate right after pruning
            self.evaluate_and_record(time.monotonic())
        started = before = self._saved = time.monotonic()
        spent = self.history.seconds
        while self.step < total and not self.history.diverged:
            inputs, targets = self.data.batch(self.step, self.device.rank, self.device.world_size)
            if self.mix is not None:
                inputs, targets = self.mix(self.step, inputs, targets)  # targets: [b, classes] if mixed
            self.train_step(inputs, targets, self.data.size(self.step))  # data.size: of the global batch
            self.step += 1  # counts finished steps from here on
            self.history.seconds = spent + time.monotonic() - started
            if self.step % self.eval_every == 0 or self.step == total or self.pruner.cuts(self.step - 1):
                self.evaluate_and_record(before)
                before = time.monotonic()
            if self.step < total and not self.history.diverged:
                self._save_or_stop()
        self.history.seconds = spent + time.monotonic() - started
        self.progress.close()
        return self.history

    def train_step(self, inputs: Tensor, targets: Tensor, samples: int | None = None) -> None:
        """One optimiser step. Masks are applied and removed outside autocast; nothing here waits for the device.

        Args:
            inputs: Inputs of the batch, or of this rank's slice of it.
            targets: Targets of the same samples.
            samples: Samples of the global batch, if it has more.
        """
        samples = len(targets) if samples is None else samples
        self.optimizer.zero_grad(set_to_none=True)  # the first backward writes instead of adding
        self._set_learning_rates()
        self.pruner.before_forward(self.step)  # mask updates; hides the dense weights
        self.flops.count(samples, self.pruner.dense_gradient(self.step), self.pruner.dense_forward(self.step))
        loss = torch.zeros((), device=inputs.device)  # a tensor: .item() would synchronise
        micro_batches = self.device.split(inputs, targets, self.accumulate)  # accumulate × ([m, ...], [m])
        for number, (inputs, targets) in enumerate(micro_batches, start=1):
            with self.device.micro_batch(self.step, last=number == len(micro_batches)):
                with self.device.autocast():
                    micro_loss = self.criterion(self.parallel(inputs), targets) * (len(targets) / samples)
                self.device.backward(micro_loss)  # scaled in fp16; accumulates into .grad
            if len(targets):  # the mean over no samples is NaN
                loss += micro_loss.detach()  # no graph, no synchronisation
        loss = self.device.sum(loss)  # over ranks; each has its part of the global mean
        self.device.unscale(self.optimizer)  # fp16: methods and clipping see true gradients
        # The dense weights are restored here, before the optimiser step, so that weight decay acts on them.
        stepping = self.pruner.after_backward(self.step)  # False: a mask update replaces this step (RigL)
        if stepping and self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)  # after masking
        self.device.step(self.optimizer, stepping)  # fp16 skips it if gradients overflowed
        self.pruner.after_step(self.step)  # mask updates after the step; masks weights and momentum
        if self.average is not None:
            self.average.update()  # of the dense weights, as the optimiser holds them
        self.images += samples
        self.train_loss.update(loss, samples)  # summed on the device, read at evaluations
        self.progress.step(samples, loss, self.pruner.scheduled_sparsity(self.step))

    def _set_learning_rates(self) -> None:
        factor = self.pruner.lr_factor(self.step, self.lr_schedule)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor  # schedules are functions of the step alone

    @torch.no_grad()
    def evaluate_and_record(self, since: float) -> None:
        """Evaluate the weights that the method would deploy; at the end, bake them in first."""
        weights, samples = self.pruner.weights, self.train_loss.samples
        self.device.check_equal_on_all_ranks(weights.fingerprint, "masks", self.step)
        self.device.broadcast_buffers(self.model)
        train_loss = self.train_loss.read()
        rate = samples / max(time.monotonic() - since, 1e-9)
        pruning_error = float(weights.pruning_error())
        final = self.step == self.clock.total_steps
        if final:
            if self.average is not None:
                self.average.install()
            self.pruner.on_end()
        masks = weights.packed()
        flips = float((masks != self._last_masks).double().mean())
        self._last_masks = masks
        self.history.val = val = self._evaluate("val")
        zeros = int((~masks).sum())
        self.history.diverged = not (math.isfinite(train_loss) and math.isfinite(val.loss))
        row = {
            "step": self.step,
            "epoch": self.step / self.clock.steps_per_epoch,
            "scheduled_sparsity": self.pruner.scheduled_sparsity(self.step - 1),
            "sparsity": zeros / weights.numel,
            "train_loss": train_loss if samples else None,
            "val_loss": val.loss,
            "val_top1": val.top1,
            "val_top5": val.top5,
            "lr": self.optimizer.param_groups[0]["lr"],
            "mask_flips": flips,
            "pruning_error": pruning_error,
            "explored": weights.exploration_rate(),
            "images_per_second": round(rate, 1),
            "seconds": round(self.history.seconds, 3),
        }
        self.history.rows.append(row)
        target_zeros = self.pruner.target_zeros(self.clock.total_steps - 1)
        reached = final if target_zeros is None else zeros == target_zeros
        better = reached and not self.history.diverged and not val.top1 <= self.history.best_val_top1
        if final or better:
            self.history.test = self._evaluate("test")
        if better and self.history.test is not None:  # chosen on validation; test accuracy is only reported
            self.history.best_val_top1, self.history.test_top1_at_best_val = val.top1, self.history.test.top1
        self.device.broadcast_from_main(lambda: self.record(self.history.rows))
        self.progress.evaluated(row)

    def _save_or_stop(self) -> None:
        """Save a checkpoint if it is due or if a signal requests a stop, and then stop."""
        long_ago = time.monotonic() - self._saved > self.save_seconds
        stop, due = self.device.all_reduce_max((self.signals.pending, int(long_ago)), self.step)
        if stop or due or self.step % self.save_every == 0:
            state = self.state_dict()
            self.device.broadcast_from_main(partial(self.checkpoint.save, state))
            self._saved = time.monotonic()
        if stop:
            self.signals.act(stop)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; the weights are dense and not hidden."""
        history = {**vars(self.history), "val": None, "test": None}
        return {
            "step": self.step,
            "images": self.images,
            "model": self.model.state_dict(),
            "pruner": self.pruner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "device": self.device.all_gather(self.device.state_dict()),
            "flops": self.flops.state_dict(),
            "data": self.device.all_gather(self.data.state_dict()),
            "train_loss": self.train_loss.state_dict(),
            "history": history,
            "last_masks": self._last_masks,
            **({"average": self.average.state_dict()} if self.average is not None else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        self.step, self.images = state["step"], state["images"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pruner.load_state_dict(state["pruner"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.flops.load_state_dict(state["flops"])
        self.train_loss.load_state_dict(state["train_loss"])
        self.history = History(**state["history"])
        self._last_masks = state["last_masks"].to(self._last_masks.device)
        for seen in state.get("data", []):
            self.data.load_state_dict(seen)
        self.device.resume(state["device"], self.seed, self.step)

    def _evaluate(self, split: Literal["val", "test"]) -> Accuracy:
        self.model.eval()
        try:
            with self.average.applied() if self.average is not None else nullcontext():
                if self.average is not None:
                    self.device.broadcast_buffers(self.model)  # ranks have averaged their own buffers
                with self.pruner.evaluating(), self.device.autocast():
                    return evaluate(self.forward, self.evaluation(split), self.device.sum)
        finally:
            self.model.train()

    def _probe(self) -> Probe:
        def batches() -> Batches:
            return (self.data.batch(step) for step in range(self.clock.total_steps))

        generator = torch.Generator().manual_seed(self.seed)
        return Probe(self.model, batches, self.criterion, generator, self.reinitialize)
