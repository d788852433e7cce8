"""Nothing waits for the device in training, mask updates included. Methods, schedules and so on are found in conf."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from sparsebench.clock import Clock
from sparsebench.data.mixing import Mix
from sparsebench.paths import config_dir
from sparsebench.pruning.allocation import COMPAT
from sparsebench.pruning.methods.dense import Dense
from sparsebench.pruning.methods.dpf import DPF
from sparsebench.pruning.rounds import Rounds
from sparsebench.pruning.schedules import Cubic
from sparsebench.pruning.static import Static
from sparsebench.pruning.tickets import LearnedTicket
from sparsebench.runs.build import build_run
from sparsebench.training.ema import WeightAverage
from sparsebench.transfer import send, send_
from tests.support.configs import options, train_config
from tests.support.small import swap
from tests.support.training import Quiet, runner_of, small
from tests.support.waits import Wait, refusing_waits, to_meta_

READ_VALUES = {"dsr", "snfs"}
"""Methods whose mask updates have to read values; why is their ``reads_values``."""


TINY = ("dataset=digits", "model=resnet", "model.depth=8", "model.width=2", "epochs=7", "ramp_end=0.5",
        "schedule.interval=2it", "dataset.train_samples=80", "batch_size=32", "device=cpu")  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return build_run(train_config(*TINY)[0]).dataset


@pytest.fixture
def trainings(digits):
    """(method, *overrides) -> the trainings of the method that differ: the first and the last, about to start."""

    def of(method, *overrides):
        cfg, _ = train_config(*small(method, *overrides, base=TINY))
        before, number, last = {}, 0, False
        while not last:
            made = build_run(cfg, copy.deepcopy(digits))
            last = number == made.pruner.trainings - 1
            if number == 0 or last:
                yield started(made, made.pruner.begin(number, before))
                made = build_run(
                    cfg, copy.deepcopy(digits)
                )  # on the meta device there is nothing to hand over
            if not last:
                runner = started(made, made.pruner.begin(number, before))
                for step in range(runner.step, made.clock.total_steps):
                    hooks(runner, step)
                made.pruner.on_end()
                before, number = made.pruner.handover(), number + 1

    return of


def started(made, first_step):
    runner = runner_of(made, None, None, first_step)
    runner.progress = Quiet()
    made.pruner.on_start(runner._probe())
    return runner


def hooks(runner, step):
    """A step without the model, whose gradients are its weights."""
    pruner, optimizer = runner.pruner, runner.optimizer
    pruner.before_forward(step)
    runner.flops.count(32, pruner.dense_gradient(step), pruner.dense_forward(step))
    for parameter in runner.model.parameters():
        parameter.grad = parameter.detach().clone()
    if pruner.after_backward(step):
        optimizer.step()
    pruner.after_step(step)
    optimizer.zero_grad()


def on_meta(runner, step_of=hooks, answer=False):
    """(values read, whether masks changed) of every step, on the meta device."""
    to_meta_(runner)
    seen, weights = [(0, runner.pruner.weights.version)], runner.pruner.weights
    with refusing_waits(answer) as waits:
        for step in range(runner.step, runner.clock.total_steps):
            step_of(runner, step)
            seen.append((waits.reads, weights.version))
    assert len(seen) > 1 and all(w.is_meta for w in [*weights.parameters.values(), *weights.masks.values()])
    return [(b[0] - a[0], b[1] > a[1]) for a, b in pairwise(seen)]


@pytest.mark.parametrize("method", options("prune"))
def test_no_hook_of_a_method_waits(trainings, method):
    for runner in trainings(method):
        excused = runner.pruner.reads_values is not None
        assert excused == (method in READ_VALUES)
        steps = on_meta(runner, answer=excused)
        assert all(
            reads == (excused and updated) for reads, updated in steps
        )  # all values of an update at once
        fixed = isinstance(runner.pruner, (Static, Rounds, LearnedTicket, Dense))
        assert fixed != any(updated for _, updated in steps)


def switches(group):
    """(option, setting=other value) of every setting in the group's files that is true or false."""
    for option in options(group):
        settings = OmegaConf.load(config_dir() / group / f"{option}.yaml")
        for name in settings:
            if isinstance(OmegaConf.to_container(settings)[name], bool):
                yield option, f"{group}.{name}={str(not settings[name]).lower()}"


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        *switches("prune"),
        ("itop", "prune.growth=random"),
        ("dpf", "prune.gradient=masked"),
        ("one_shot", "prune.fine_tune=linear"),
        ("snfs", "optimizer=adamw"),
        ("gmp", "optimizer=adamw"),
    ],
    ids=str,
)
def test_no_setting_of_a_method_makes_it_wait(trainings, method, setting):
    for runner in trainings(method, setting):
        on_meta(runner, answer=method in READ_VALUES)


@pytest.mark.parametrize("schedule", options("schedule"))
def test_no_schedule_waits(trainings, schedule):
    for runner in trainings("dpf", f"schedule={schedule}"):
        assert any(updated for _, updated in on_meta(runner))


@pytest.mark.parametrize("name", options("allocation"))
def test_no_allocation_waits(digits, tmp_path, name):
    layers = build_run(train_config(*TINY)[0], digits).pruner.weights.parameters
    path = tmp_path / "layers.csv"
    path.write_text("layer,sparsity\n" + "".join(f"{layer},0.9\n" for layer in layers))
    more = [f"allocation.path={path}"] if name == "from_file" else []
    allocation = build_run(train_config(*TINY, f"allocation={name}", *more)[0], digits).pruner.allocation
    scores = {layer: torch.empty_like(w, device="meta").detach() for layer, w in layers.items()}
    for allocation.compat in (None, *COMPAT):
        for allocation.allow_layer_collapse in (False, True):
            with refusing_waits():
                masks = allocation(scores, 0.9)
            assert all(mask.is_meta and mask.dtype == torch.bool for mask in masks.values())


@pytest.mark.parametrize("score", options("score"))
def test_no_score_waits(trainings, tmp_path, score):
    more = []
    if score == "trained":
        save_file(build_run(train_config(*TINY)[0]).model.state_dict(), tmp_path / "model.safetensors")
        more.append(f"score.path={tmp_path}")
    for runner in trainings("gmp", f"score={score}", *more):
        assert any(updated for _, updated in on_meta(runner))


def whole(runner, step):
    runner.step = step
    runner.train_step()


def test_the_whole_training_step_with_its_data_does_not_wait(trainings):
    (runner,) = trainings("dpf")
    assert any(updated for _, updated in on_meta(runner, whole))


def test_the_step_does_not_wait_with_all_that_may_be_added_to_it(trainings):
    (runner,) = trainings("gmp", "dataset.pad=1", "dataset.flip=true", "optimizer=adamw")
    runner.accumulate, runner.clip_norm = 2, 1.0
    runner.average = WeightAverage(runner.model, runner.pruner.weights, 0.9)
    mix = Mix(0.2, 1.0, 10, seed=0)  # draws on the CPU

    def mixed(runner, step):
        runner.mix = mix
        whole(runner, step)

    assert any(updated for _, updated in on_meta(runner, mixed))


WAITS = {
    "item": lambda w, mask: int(mask.sum()),
    "if": lambda w, mask: w.sum() > 0 or w,
    "list": lambda w, mask: w.sum(1).tolist(),
    "to the CPU": lambda w, mask: w.cpu(),
    "nonzero": lambda w, mask: mask.nonzero(),
    "boolean index": lambda w, mask: w[mask],
    "assignment by a boolean index": lambda w, mask: w.__setitem__(mask, w[0, 0]),
    "index by a list": lambda w, mask: w[[0, 1]],
    "index by a tensor of the CPU": lambda w, mask: w[torch.tensor([0, 1])],
    "slice by a tensor": lambda w, mask: w[: mask.sum()],
    "copy from the CPU": lambda w, mask: torch.randn(w.shape).to(w.device),
    "copy from the CPU that is said not to block": lambda w, mask: torch.randn(3).to(
        w.device, non_blocking=True
    ),
    "copy from the CPU into a tensor": lambda w, mask: w.copy_(torch.randn(w.shape)),
    "copies from the CPU into tensors": lambda w, mask: torch._foreach_copy_([w], [torch.randn(w.shape)]),
    "one number from the CPU": lambda w, mask: w[0, 0].copy_(torch.tensor(1.0)),
    "new tensor": lambda w, mask: torch.tensor(1.0, device=w.device),
    "tensor of a list": lambda w, mask: torch.as_tensor([1.0, 2.0], device=w.device),
    "tensor like another": lambda w, mask: w.new_tensor([1.0, 2.0]),
}


def toy(doing):
    """A method on the meta device that does ``doing`` with a weight and its mask after a step."""

    class Toy(DPF):
        @torch.no_grad()
        def after_step(self, step):
            doing(
                self.weights.parameters["conv1.weight"].flatten(1),
                self.weights.masks["conv1.weight"].flatten(1),
            )

    parts = swap(Toy, Cubic(Clock(8), 0.5, end="4it", interval="2it"), {"lr": 0.1, "momentum": 0.9})
    to_meta_(*parts)
    return parts[2]


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_that_is_planted_in_a_method_is_found(wait):
    method = toy(wait)
    with refusing_waits(), pytest.raises(Wait):
        method.after_step(0)


def test_what_does_not_wait_is_not_refused():
    def fine(w, mask):
        w.mul_(torch.tensor(2.0)).add_(mask, alpha=0.5).clamp_min_(
            0.0
        )  # the CPU's number is handed over by value
        (
            w[0].copy_(w[1]),
            w.masked_fill_(mask, 0.0),
            torch.where(mask, 1.0, w),
            torch.full((3,), 2.0, device=w.device),
        )
        send_(w, send(torch.randn(w.shape), w.device))
        send_(w, torch.randn(w.shape))
        assert (
            torch.tensor([1.0]).tolist() == [1.0] and int(torch.arange(3).nonzero().sum()) == 3
        )  # on the CPU

    method = toy(fine)
    with refusing_waits():
        method.after_step(0)
