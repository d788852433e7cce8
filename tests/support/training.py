"""A training of some seconds in this process."""

from __future__ import annotations

from torch import nn

from sparsebench.training.flops import TrainingFLOPs
from sparsebench.training.runner import RecordSettings, Runner, StepSettings, TrainingSetup
from tests.support.configs import train_config

SMALL = ("dataset=digits", "model=resnet", "model.depth=8", "model.width=4", "epochs=5", "ramp_end=0.5",
         "schedule.interval=4it", "dataset.train_samples=150", "batch_size=32", "device=cpu")  # fmt: skip


def small(method, *overrides, base=SMALL):
    """Overrides of a training of some seconds with the method."""
    groups = [override for override in overrides if override.startswith("schedule=")]
    default, _ = train_config(f"prune={method}", *groups)
    chosen = [*base, f"prune={method}", *overrides]
    if "interval" not in default.schedule:
        chosen = [override for override in chosen if not override.startswith("schedule.interval=")]
    if default.prune.get("rounds", 1) is None:  # of trainings
        chosen.append("prune.rounds=2")
    if "retrain" in default.prune:
        chosen.append("prune.retrain=0.75")
    return chosen


class Quiet:
    """Progress without output."""

    def step(self, *_):
        pass

    evaluated = step

    def close(self):
        pass


class Unsaved:
    """A checkpoint of nothing."""

    def load(self, misfit):
        return None

    def save(self, state):
        pass


def runner_of(made, evaluation, checkpoint=None, first_step=0, eval_every=10**9, save_every=10**9):
    """The training loop over assembled objects, with an ordinary step, that records nothing."""
    setup = TrainingSetup(
        model=made.model,
        data=made.data,
        evaluation=evaluation,
        criterion=nn.CrossEntropyLoss(),
        optimizer=made.optimizer,
        lr_schedule=made.lr_schedule,
        pruner=made.pruner,
        clock=made.clock,
        flops=TrainingFLOPs(made.layers, made.pruner.weights),
        first_step=first_step,
    )
    records = RecordSettings(
        checkpoint=checkpoint,
        record=lambda rows: None,
        progress=lambda total, done: Quiet(),
        eval_every=eval_every,
        save_every=save_every,
    )
    return Runner(setup, StepSettings(made.device), records)
