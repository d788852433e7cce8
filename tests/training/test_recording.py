"""Recorded steps: equal programs do the same, and replaying them trains the same network, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from sparsebench.data.loader import batches
from sparsebench.data.mixing import Mix
from sparsebench.errors import SettingError
from sparsebench.pruning import allocation, dynamic, parameters
from sparsebench.pruning.methods.dpf import DPF
from sparsebench.runs.build import build_run
from sparsebench.training.checkpoint import Checkpoint
from sparsebench.training.ema import WeightAverage
from sparsebench.training.flops import TrainingFLOPs
from sparsebench.training.recording import KEPT, WARM_UP, Recorded, Recorder
from sparsebench.training.runner import RecordSettings, Runner, StepSettings, TrainingSetup
from tests.support.configs import options, train_config
from tests.support.emulator import Tape
from tests.support.training import SMALL, Quiet, Unsaved

EMULATED = ("device=auto", "device._target_=tests.support.emulator.Emulating", "batch_size=16", "epochs=4")
OPTIONS = {
    "ordinary": (),
    "adamw": ("optimizer=adamw",),
    "ema": ("ema=0.9",),
    "clipping": ("clip_norm=0.5",),
    "accumulate": ("accumulate=3",),
    "mixup": ("mixup=0.4",),
    "cutmix": ("cutmix=1.0",),
    "bf16": ("precision=bf16",),
    "fp16": ("precision=fp16",),
    "channels_last": ("channels_last=true",),
    "smoothing": ("label_smoothing=0.1",),
    "no_norm_decay": ("norm_weight_decay=false",),
}


def runner_of(method, more=(), graphs="auto", folder=None):
    """(assembled objects, runner) of a small training on a device that is used as a GPU."""
    small = [setting for setting in SMALL if not setting.startswith(("device=", "batch_size=", "epochs="))]
    default = train_config(f"prune={method}")[0]
    if "interval" not in default.schedule:
        small.remove("schedule.interval=4it")
    cfg, _ = train_config(*small, *EMULATED, f"device.graphs={graphs}", f"prune={method}", *more)
    made = build_run(cfg)
    mix = Mix(cfg.mixup, cfg.cutmix, made.dataset.num_classes, cfg.seed)
    setup = TrainingSetup(
        model=made.model, data=made.data, evaluation=lambda split: batches(made.dataset, split, 100),
        criterion=nn.CrossEntropyLoss(label_smoothing=cfg.label_smoothing), optimizer=made.optimizer,
        lr_schedule=made.lr_schedule, pruner=made.pruner, clock=made.clock,
        flops=TrainingFLOPs(made.layers, made.pruner.weights), first_step=made.pruner.begin(0, {}),
    )  # fmt: skip
    average = None if cfg.ema is None else WeightAverage(made.model, made.pruner.weights, cfg.ema)
    step = StepSettings(made.device, cfg.accumulate, cfg.clip_norm, mix if mix.kinds else None, average)
    saved = Checkpoint(folder, pytest.fail) if folder is not None else Unsaved()
    records = RecordSettings(
        checkpoint=saved, record=lambda rows: None, progress=lambda *_: Quiet(), eval_every=15, save_every=13,
        note=pytest.fail,
    )  # fmt: skip
    return made, Runner(setup, step, records)


def result(runner):
    """All tensors that a training leaves, by name, and its rows without measured times."""
    state = runner.state_dict()
    tensors = {}

    def walk(name, value):
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif isinstance(value, dict):
            for key, part in value.items():
                walk(f"{name}.{key}", part)
        elif isinstance(value, (list, tuple)):
            for number, part in enumerate(value):
                walk(f"{name}.{number}", part)

    walk("", {key: part for key, part in state.items() if key != "device"})
    rows = [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in runner.history.rows
    ]
    return tensors, rows


def assert_equal(ours, theirs):
    (tensors, rows), (expected, expected_rows) = ours, theirs
    assert rows == expected_rows
    assert tensors.keys() == expected.keys()
    different = [name for name, value in tensors.items() if not torch.equal(value, expected[name])]
    assert not different


def promised(runner):
    """The steps of a program beyond its warm-up."""
    seen = []
    for step in range(runner.step, runner.clock.total_steps):
        program = runner.pruner.program(step)
        if program is not None:
            seen.append((program, runner.data.size(step)))
    return sum(max(seen.count(program) - WARM_UP, 0) for program in set(seen))


def taped(runner):
    """Let every step with a program be recorded beside, and compare it with the program's first."""
    first, compute = {}, runner._compute

    def watched(batch, samples, count):
        kind = batch if isinstance(batch, int) else tuple(batch[1].shape)
        program = runner.pruner.program(runner.step)
        if program is None or runner.step < WARM_UP:  # the first steps make what stays
            return compute(batch, samples, count)
        if not isinstance(batch, int):
            batch = runner._keep(batch)
        with Tape() as tape:
            loss = compute(batch, samples, lambda: untaped(count))
        signature = tape.signature()
        expected = first.setdefault((program, kind), signature)
        assert len(signature) == len(expected)
        for ours, theirs in zip(signature, expected, strict=True):
            assert ours == theirs, f"step {runner.step} differs from an earlier one of program {program}"
        assert not tape.reads()
        return loss

    runner._compute = watched
    return first


def untaped(work):
    """Counting FLOPs is no part of a recorded step."""
    with _disable_current_modes():
        work()


@pytest.fixture(autouse=True)
def on_the_device(monkeypatch):
    """Selecting and counting as on a GPU, which read no value; a CPU's are the same (test_allocation)."""
    for module in (allocation, dynamic):
        monkeypatch.setattr(module, "lowest", allocation.lowest_by_sort)
    for module in (allocation, dynamic, parameters):
        if hasattr(module, "count_kept"):
            monkeypatch.setattr(
                module, "count_kept", lambda masks: torch.stack([mask.sum() for mask in masks])
            )


def check(method, more):
    _, runner = runner_of(method, more)
    if runner.recorder.active:
        runner.recorder.ready = lambda program: False
        taped(runner)
    runner.run()
    expected = result(runner)
    _, replaying = runner_of(method, more)
    possible = promised(replaying)
    replaying.run()
    assert_equal(result(replaying), expected)
    assert replaying.recorder.replayed == (0 if "precision=fp16" in more else possible)


def test_an_overflow_in_the_first_step_of_a_fused_optimizer_is_skipped():
    made, runner = runner_of("dense", ("precision=fp16",))
    before = [parameter.detach().clone() for parameter in made.model.parameters()]
    made.device.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    runner.progress = Quiet()
    runner.train_step()
    assert made.device.skipped_steps == 1
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), before, strict=True))
    made.device.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    runner.train_step()
    assert made.device.skipped_steps == 1
    assert all(parameter.isfinite().all() for parameter in made.model.parameters())


def test_with_graphs_a_run_is_what_it_is_without(monkeypatch):
    trained = []
    for graphs in ("auto", False):
        _, runner = runner_of("dpf", graphs=graphs)
        if not graphs:
            monkeypatch.undo()
        runner.run()
        assert bool(runner.recorder.replayed) == bool(graphs)
        trained.append(result(runner))
    assert_equal(*trained)


@pytest.mark.parametrize("method", options("prune"))
def test_replayed_steps_train_the_same_network_to_the_bit(method):
    check(method, ())


@pytest.mark.parametrize("option", [name for name in OPTIONS if name != "ordinary"])
def test_replayed_steps_train_the_same_with_every_part_of_a_step(option):
    check("dpf", OPTIONS[option])


CROSSED = [
    pytest.param(method, option, marks=pytest.mark.slow if (place + number) % 4 == 0 else pytest.mark.nightly)
    for place, method in enumerate(method for method in options("prune") if method != "dpf")
    for number, option in enumerate(name for name in OPTIONS if name != "ordinary")
]
"""Every method with every part of a step; a quarter of them at each change, all of them every night."""


@pytest.mark.parametrize(("method", "option"), CROSSED)
def test_replayed_steps_train_the_same_with_every_method_and_part_of_a_step(method, option):
    check(method, OPTIONS[option])


class FrozenNumber(DPF):
    """Says that steps are equal which multiply a gradient by the number of the step."""

    def after_backward(self, step):
        stepping = super().after_backward(step)
        next(iter(self.weights.parameters.values())).grad.mul_(1 + step / 1000)
        return stepping


class NewTensor(DPF):
    """Keeps a new tensor at every step that the next step needs."""

    def after_backward(self, step):
        stepping = super().after_backward(step)
        gradient = next(iter(self.weights.parameters.values())).grad
        gradient.add_(getattr(self, "before", gradient), alpha=0.01)
        self.before = gradient.clone()
        return stepping


@pytest.mark.parametrize("wrong", [FrozenNumber, NewTensor])
def test_a_method_that_promises_too_much_is_noticed(wrong):
    more = (f"prune._target_={__name__}.{wrong.__name__}",)
    with pytest.raises(AssertionError, match="differs from an earlier one"):
        check("dpf", more)
    trained = []
    for graphs in (False, "auto"):
        _, runner = runner_of("dpf", more, graphs)
        runner.run()
        trained.append(result(runner))
    with pytest.raises(AssertionError):
        assert_equal(*trained)


def test_a_stop_between_replayed_steps_resumes_to_the_bit(tmp_path):
    _, whole = runner_of("dpf", folder=tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole.run()
    for stop in (17, 30):
        _, runner = runner_of("dpf", folder=tmp_path / "broken")
        steps = runner.advance()
        while runner.step < stop:
            next(steps)
        assert runner.recorder.replayed
        steps.close()
    _, resumed = runner_of("dpf", folder=tmp_path / "broken")
    resumed.run()
    assert resumed.recorder.replayed < whole.recorder.replayed
    assert_equal(result(resumed), result(whole))


def test_a_checkpoint_of_recorded_steps_resumes_without_them_and_the_other_way_round(tmp_path):
    _, whole = runner_of("dpf")
    whole.run()
    for first, then in ((False, "auto"), ("auto", False)):
        folder = tmp_path / str(first)
        folder.mkdir()
        _, runner = runner_of("dpf", graphs=first, folder=folder)
        steps = runner.advance()
        while runner.step < 20:
            next(steps)
        steps.close()
        _, resumed = runner_of("dpf", graphs=then, folder=folder)
        resumed.run()
        assert_equal(result(resumed), result(whole))


def test_a_step_that_cannot_be_recorded_runs_as_it_is_and_one_line_says_so():
    _, expected = runner_of("dpf", graphs=False)
    expected.run()
    made, runner = runner_of("dpf")
    said, attempts = [], []

    def refuse(step):
        attempts.append(
            made.pruner.weights.hide_()
        )  # what a recording has done when it fails; no tensor has changed
        made.pruner.weights.restore_()
        made.pruner.weights.hidden = True
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    made.device.record, runner.note = refuse, said.append
    runner.run()
    assert said == [
        "training steps are not recorded as CUDA graphs: operation not permitted when stream is capturing"
    ]
    assert len(attempts) == 1
    assert runner.recorder.replayed == 0
    assert_equal(result(runner), result(expected))


def test_insisting_on_graphs_is_refused_where_no_step_can_be_recorded():
    for method, more, reason in (
        ("str", (), "the method changes its masks at every step"),
        ("dpf", ("precision=fp16",), "fp16 skips steps"),
        (
            "dpf",
            ("optimizer._target_=torch.optim.RMSprop", "~optimizer.nesterov"),
            "RMSprop has no fused step",
        ),
    ):
        assert runner_of(method, more)[1].graphs.startswith("no CUDA graphs")
        with pytest.raises(SettingError, match=f"device.graphs.*auto or false here: {reason}"):
            runner_of(method, more, graphs=True)


def test_a_recorder_keeps_the_programs_it_used_last():
    ran, recorded = [], []

    def record(step):
        recorded.append(step())
        return Recorded(recorded[-1], lambda: ran.append(recorded[-1]))

    recorder = Recorder(record, pytest.fail)
    for program in range(KEPT + 1):
        for _ in range(WARM_UP):
            assert not recorder.ready(program)
        assert recorder.ready(program)
        assert recorder.run(program, lambda program=program: program) == program
    assert recorder.ready(1)
    assert recorder.run(1, pytest.fail) == 1  # replayed
    assert recorder.run(0, lambda: 0) == 0  # dropped, and recorded again
    assert recorded == [*range(KEPT + 1), 0]
    assert not recorder.ready(None)
