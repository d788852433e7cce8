"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsebench.clock import Clock
from sparsebench.data.dataset import FixedStorageLoader, Loader
from sparsebench.distributed.device import Device
from sparsebench.errors import RunError, SettingError
from sparsebench.optim.lr_schedules import LRSchedule
from sparsebench.pruning.pruner import Probe, Pruner
from sparsebench.training.checkpoint import Checkpoint
from sparsebench.training.ema import WeightAverage
from sparsebench.training.flops import TrainingFLOPs
from sparsebench.training.metrics import Accuracy, MaskUpdates, TrainLoss, evaluate
from sparsebench.training.progress import Progress
from sparsebench.training.recording import Recorded, Recorder
from sparsebench.training.signals import StopSignals
from sparsebench.training.steps import Steps, finish

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
        note: Called with a line about how the training runs.
    """

    checkpoint: Checkpoint
    record: Callable[[list[dict[str, float | None]]], None]
    progress: Callable[[int, int], Progress]
    eval_every: int
    save_every: int
    save_seconds: float = math.inf
    signals: StopSignals = field(default_factory=StopSignals)
    note: Callable[[str], None] = lambda line: None


class Runner:
    """Trains, prunes, evaluates and records one run.

    Args:
        setup: The model, its data, the method, and the length of the training.
        step: Settings of a training step.
        records: When and where it is evaluated and saved.

    Raises:
        SettingError: CUDA graphs are insisted on, and the steps cannot be recorded.
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
        self.base_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.lr = self.base_lrs[0]
        device.own_state(self.optimizer)
        self.recorder: Recorder[Tensor] = Recorder(self._record(), self._recording_failed)
        self.note = records.note
        self._updates: dict[
            Hashable, tuple[int, int]
        ] = {}  # program -> mask updates before and after the forward
        self._inputs: dict[tuple[torch.Size, torch.Size], tuple[Tensor, Tensor]] = {}  # of recorded steps
        self.train_loss = TrainLoss(device.torch_device)
        self.history, self.mask_updates = History(), MaskUpdates()
        self.step = setup.first_step
        self.images = 0
        self._last_masks = self.pruner.weights.packed()

    def run(self) -> History:
        """Train to the end, or until the loss is not finite; resumes from a checkpoint if there is one."""
        return finish(self.advance())

    def advance(self) -> Steps[History]:
        """:meth:`run`, which stops after every step until it is advanced again; for several runs in one process.

        Yields its progress.
        """
        total = self.clock.total_steps
        with self.device.stream():
            if (state := self._restored()) is None:
                self.pruner.on_start(self._probe())
                self.device.broadcast_initial_state(self.pruner, self.model, self.seed)
            self.progress = self.make_progress(total, self.step)
            if state is None and self.step > 0:  # continues an earlier training: evaluate right after pruning
                self.evaluate_and_record(time.monotonic())
        started = before = self._saved = time.monotonic()
        spent = self.history.seconds
        while self.step < total and not self.history.diverged:
            with self.device.stream():
                self.train_step()
                self.step += 1  # counts finished steps from here on
                self.history.seconds = spent + time.monotonic() - started
                if self.step % self.eval_every == 0 or self.step == total or self.pruner.cuts(self.step - 1):
                    self.evaluate_and_record(before)
                    before = time.monotonic()
                if self.step < total and not self.history.diverged:
                    self._save_or_stop()
            yield self.progress
        self.history.seconds = spent + time.monotonic() - started
        self.progress.close()
        return self.history

    def train_step(self) -> None:
        """One optimiser step, on the batch of :attr:`step`. Nothing here waits for the device.

        A step whose tensor operations were recorded is replayed; the rest of it is the same.
        """
        step, samples = self.step, self.data.size(self.step)  # of the global batch
        masks = self.pruner.weights.version
        batch = self._next_batch()
        self._set_learning_rates()
        if self.recorder.active:
            self.pruner.prepare(step)
        program = self._program(batch)
        if self.recorder.ready(program):
            loss = self._recorded_step(program, self._keep(batch), samples)
        else:
            loss = self._ordinary_step(program, batch, samples)
        self.mask_updates.seen(step, masks, self.pruner.weights.version)
        self.images += samples
        self.train_loss.samples += samples
        self.progress.step(samples, loss, self.pruner.scheduled_sparsity(step))

    def _compute(self, batch: int | tuple[Tensor, Tensor], samples: int, count: Callable[[], None]) -> Tensor:
        """The tensor operations of one step; masks are applied and removed outside autocast.

        Args:
            batch: The batch, or the number of samples of this rank that the loader gathers.
            samples: Samples of the global batch.
            count: Called while the masks of the forward pass are in place.

        Returns:
            The mean loss, a tensor: ``.item()`` would wait for the device.
        """
        step = self.step
        inputs, targets = self.data.gather(batch) if isinstance(batch, int) else batch  # type: ignore[attr-defined]
        self.optimizer.zero_grad(set_to_none=True)  # the first backward writes instead of adding
        self.pruner.before_forward(step)  # mask updates; hides the dense weights
        count()
        loss = torch.zeros((), device=inputs.device)
        micro_batches = self.device.split(inputs, targets, self.accumulate)  # accumulate × ([m, ...], [m])
        for number, (inputs, targets) in enumerate(micro_batches, start=1):
            with self.device.micro_batch(step, last=number == len(micro_batches)):
                with self.device.autocast():
                    micro_loss = self.criterion(self.parallel(inputs), targets) * (len(targets) / samples)
                self.device.backward(micro_loss)  # scaled in fp16; accumulates into .grad
            if len(targets):  # the mean over no samples is NaN
                loss += micro_loss.detach()  # no graph, no synchronisation
        loss = self.device.sum(loss)  # over ranks; each has its part of the global mean
        self.device.unscale(self.optimizer)  # fp16: methods and clipping see true gradients
        # The dense weights are restored here, before the optimiser step, so that weight decay acts on them.
        stepping = self.pruner.after_backward(step)  # False: a mask update replaces this step (RigL)
        if stepping and self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)  # after masking
        self.device.step(self.optimizer, stepping)  # fp16 skips it if gradients overflowed
        self.pruner.after_step(step)  # mask updates after the step; masks weights and momentum
        if self.average is not None:
            self.average.update()  # of the dense weights, as the optimiser holds them
        self.train_loss.add(loss, samples)  # summed on the device, read at evaluations
        return loss

    def _next_batch(self) -> int | tuple[Tensor, Tensor]:
        """This rank's slice of the batch; for a loader that gathers it within the step, its number of samples."""
        at = (self.step, self.device.rank, self.device.world_size)
        if self.mix is None and isinstance(self.data, FixedStorageLoader):
            return self.data.seek(*at)
        inputs, targets = self.data.batch(*at)
        return (inputs, targets) if self.mix is None else self.mix(self.step, inputs, targets)

    def _count_flops(self, samples: int) -> None:
        self.flops.count(samples, self.pruner.dense_gradient(self.step), self.pruner.dense_forward(self.step))

    def _set_learning_rates(self) -> None:
        factor = self.pruner.lr_factor(self.step, self.lr_schedule)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(base * factor)
            else:
                group["lr"] = base * factor  # schedules are functions of the step alone
        self.lr = self.base_lrs[0] * factor

    # ------------------------------------------------------------------------------------- recorded steps

    def _program(self, batch: int | tuple[Tensor, Tensor]) -> Hashable | None:
        """Names what the step does: equal programs may share a recording; ``None`` for a step of its own."""
        method = self.pruner.program(self.step)
        kind = batch if isinstance(batch, int) else tuple((part.shape, part.dtype) for part in batch)
        return None if method is None else (method, kind)

    def _ordinary_step(
        self, program: Hashable | None, batch: int | tuple[Tensor, Tensor], samples: int
    ) -> Tensor:
        weights = self.pruner.weights
        versions = [weights.version]

        def count() -> None:
            self._count_flops(samples)
            versions.append(weights.version)

        loss = self._compute(batch, samples, count)
        if program is not None:
            self._updates[program] = versions[1] - versions[0], weights.version - versions[1]
        return loss

    def _recorded_step(self, program: Hashable, batch: int | tuple[Tensor, Tensor], samples: int) -> Tensor:
        """A step that is recorded or replayed, and what it does besides: mask updates and FLOPs are counted."""
        weights, (before, after) = self.pruner.weights, self._updates[program]
        version = weights.version
        if not before:
            self._count_flops(samples)  # with the masks that the step starts with
        loss = self.recorder.run(program, lambda: self._compute(batch, samples, lambda: None))
        weights.version = version + before + after
        if before:
            self._count_flops(samples)  # with the new masks
        return loss

    def _keep(self, batch: int | tuple[Tensor, Tensor]) -> int | tuple[Tensor, Tensor]:
        """Copy a batch that the loader did not gather within the step to where recorded steps read it."""
        if isinstance(batch, int):
            return batch
        kept = self._inputs.setdefault((batch[0].shape, batch[1].shape), batch)
        for part, new in zip(kept, batch, strict=True):
            if part is not new:
                part.copy_(new)
        return kept

    def _record(self) -> Callable[[Callable[[], Tensor]], Recorded[Tensor]] | None:
        reason = self.device.cannot_record(self.optimizer)
        programs = (self.pruner.program(step) for step in range(self.clock.total_steps))
        if reason is None and all(program is None for program in programs):
            reason = "the method changes its masks at every step, or does not say when its steps are equal"
        self.graphs = f"no CUDA graphs: {reason}" if reason else "CUDA graphs"
        if reason is None:
            return lambda step: Recorded(*self.device.record(step))
        if self.device.graphs is True:
            raise SettingError("device.graphs", True, f"auto or false here: {reason}")
        return None

    def _recording_failed(self, reason: str) -> None:
        self.pruner.weights.hidden = False  # the step was not executed
        self.pruner.step_numbers = None  # nothing is put there any more
        self.graphs = f"no CUDA graphs: {reason}"
        self.note(f"training steps are not recorded as CUDA graphs: {reason}")

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
            "lr": self.lr,
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
            "mask_updates": vars(self.mask_updates),
            "last_masks": self._last_masks,
            **({"average": self.average.state_dict()} if self.average is not None else {}),
        }

    def _restored(self) -> dict[str, Any] | None:
        """Resume from the checkpoint, if there is one of this training.

        Raises:
            RunError: It looks like one, but cannot be loaded; it has been set aside.
        """
        state = self.device.broadcast_from_main(lambda: self.checkpoint.load(self._misfit))
        if state is None:
            return None
        try:
            self.load_state_dict(state)
        except Exception as error:  # its parts can hold anything
            why = f"checkpoint that cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
            self.device.broadcast_from_main(lambda: self.checkpoint.refuse(why))
            raise RunError(f"{why}; the same command resumes from the previous one") from error
        return state

    def _misfit(self, state: dict[str, Any]) -> str:
        """Why a state is not one of this training, by its parts and the shapes of its weights."""
        parts = {"step", "images", "model", "pruner", "optimizer", "device", "flops", "train_loss", "history"}
        parts |= {"last_masks", *(() if self.average is None else ("average",))}
        if missing := sorted(parts - state.keys()):
            return f"checkpoint without {', '.join(missing)}"
        if not isinstance(state["model"], dict) or _shapes(state["model"]) != _shapes(
            self.model.state_dict()
        ):
            return "checkpoint of another model"
        if not isinstance(state["step"], int) or not 0 <= state["step"] <= self.clock.total_steps:
            return f"checkpoint of another training, at step {state['step']} of {self.clock.total_steps}"
        return ""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        self.step, self.images = state["step"], state["images"]
        self.model.load_state_dict(state["model"])
        self._load_optimizer(state["optimizer"])
        self.pruner.load_state_dict(state["pruner"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.flops.load_state_dict(state["flops"])
        self.train_loss.load_state_dict(state["train_loss"])
        self.history = History(**state["history"])
        self.mask_updates = MaskUpdates(**state.get("mask_updates", {"count": None}))
        self._last_masks = state["last_masks"].to(self._last_masks.device)
        for seen in state.get("data", []):
            self.data.load_state_dict(seen)
        self.device.resume(state["device"], self.seed, self.step)

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Load the optimiser's state; learning rates, and how this device computes a step, stay as they are."""
        kept = {"lr", "fused", "capturable", "foreach"}
        own = [{k: v for k, v in group.items() if k in kept} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state)
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)

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


def _shapes(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(tensor, "shape", None) for name, tensor in tensors.items()}
