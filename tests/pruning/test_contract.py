"""What every method keeps to. The methods are found in conf/prune, not listed."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from sparsebench.config.build import accepted_arguments, build
from sparsebench.data.loader import batches
from sparsebench.pruning.allocation import zeros_for
from sparsebench.pruning.pruner import Pruner
from sparsebench.runs.build import build_run
from sparsebench.training.checkpoint import Checkpoint
from sparsebench.training.flops import TrainingFLOPs
from sparsebench.training.runner import Runner
from tests.support.configs import options
from tests.support.training import SMALL, Quiet

METHODS = options("prune")


@pytest.fixture
def make(hydra_config, tmp_path):
    """(method, *overrides) -> (assembled objects, runner)."""

    def build(method, *overrides, folder="run"):
        """The last training of the method, ready to run; those before it are done."""
        small, default = [*SMALL, f"prune={method}", *overrides], hydra_config(f"prune={method}")[0]
        if "interval" not in default.schedule:
            small.remove("schedule.interval=4it")
        if default.prune.get("rounds", 1) is None:  # of trainings
            small.append("prune.rounds=2")
        if "retrain" in default.prune:
            small.append("prune.retrain=0.75")
        cfg, _ = hydra_config(*small)
        before = {}
        for training in range(build_run(cfg).pruner.trainings):
            made = build_run(cfg)
            first_step = made.pruner.begin(training, before)
            runner = loop(
                made, folder if training == made.pruner.trainings - 1 else f"{folder}{training}", first_step
            )
            if training < made.pruner.trainings - 1:
                runner.run()
                before = made.pruner.handover()
        return made, runner

    def loop(made, folder, first_step):
        (tmp_path / folder).mkdir(exist_ok=True)
        return Runner(
            model=made.model, data=made.data, evaluation=lambda split: batches(made.dataset, split, 100),
            optimizer=made.optimizer, lr_schedule=made.lr_schedule, pruner=made.pruner, device=made.device,
            clock=made.clock, criterion=nn.CrossEntropyLoss(), checkpoint=Checkpoint(tmp_path / folder, pytest.fail),
            record=lambda rows: None, flops=TrainingFLOPs(
                made.layers, made.pruner.weights
            ),
            progress=lambda total, done: Quiet(), eval_every=5, save_every=5, first_step=first_step,
        )  # fmt: skip

    return build


def watch(made, runner, look):
    """Run to the end; ``look(moment, step)`` in the forward, at the optimiser's step, and after each step."""
    made.model.register_forward_pre_hook(
        lambda *_: look("forward", runner.step) if made.model.training else None
    )
    made.optimizer.register_step_pre_hook(lambda *_: look("optimizer", runner.step))
    after = made.pruner.after_step

    def after_step(step):
        after(step)
        look("after", step)

    made.pruner.after_step = after_step
    return runner.run()


class Grown:
    """Of all prunable weights, those that have at some time been grown, at zero."""

    def __init__(self, weights):
        self.weights, self.last = weights, None
        self.ever = torch.zeros(weights.numel, dtype=torch.bool)

    def look(self):
        kept = self.weights.packed()
        if self.last is not None:
            values = torch.cat([w.detach().reshape(-1) for w in self.weights.parameters.values()])
            self.ever |= kept & ~self.last & (values == 0)
        self.last = kept


def zeros(made):
    return sum(int((p == 0).sum()) for p in made.pruner.weights.parameters.values())


@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_zeros_on_the_way_is_exactly_the_scheduled_one(make, method):
    made, runner = make(method)
    weights = made.pruner.weights
    grown = Grown(weights)

    def look(moment, step):
        if moment in ("forward", "after"):
            grown.look()
        if moment == "after":
            pruned, target_zeros = int((~weights.packed()).sum()), made.pruner.target_zeros(step)
            assert target_zeros in (pruned, None)
            with weights.applied():  # what has just been grown is zero too
                assert zeros(made) >= pruned
                assert all((w[~weights.masks[n]] == 0).all() for n, w in weights.parameters.items())

    history = watch(made, runner, look)
    assert made.target_sparsity in (0.0 if method == "dense" else 0.9, None)
    pruned, target_zeros = (
        int((~weights.packed()).sum()),
        made.pruner.target_zeros(made.clock.total_steps - 1),
    )
    assert target_zeros in (pruned, None)
    if made.target_sparsity is not None and target_zeros is not None:
        assert target_zeros == zeros_for(made.target_sparsity, weights.numel)
    values = torch.cat([p.detach().reshape(-1) for p in weights.parameters.values()])
    kept_zeros = (values == 0) & weights.packed()
    assert zeros(made) == pruned + int(kept_zeros.sum())
    assert not (kept_zeros & ~grown.ever).any()  # nothing but growing makes a kept weight exactly zero
    assert history.rows[-1]["step"] == made.clock.total_steps
    assert history.rows[-1]["sparsity"] == pruned / weights.numel


@pytest.mark.parametrize("method", METHODS)
def test_the_forward_sees_pruned_weights_and_the_optimizer_its_own(make, method):
    made, runner = make(method)
    weights = made.pruner.weights

    def look(moment, _step):
        if moment == "forward":
            assert all((w[~weights.masks[name]] == 0).all() for name, w in weights.parameters.items())
        if moment == "optimizer":
            assert not weights.hidden

    watch(made, runner, look)


@pytest.mark.parametrize("method", METHODS)
def test_hard_masks_leave_nothing_in_weight_momentum_or_gradient(make, method):
    made, runner = make(method)
    weights, in_weights, in_momentum, gathers, hides = made.pruner.weights, [], [], [], []

    def look(moment, step):
        if moment != "after":
            return
        gathers.append(made.pruner.dense_gradient(step))
        for name, parameter in weights.parameters.items():
            pruned = ~weights.masks[name]
            state = made.optimizer.state[parameter].get("momentum_buffer", torch.zeros_like(parameter))
            in_weights.append(bool((parameter[pruned] != 0).any()))
            in_momentum.append(bool((state[pruned] != 0).any()))
        with made.pruner.evaluating():
            hides.append(weights.hidden)

    watch(made, runner, look)
    # a method either never leaks, or keeps its dense weights on purpose and hides them in evaluation;
    # one that reparametrises may hide its parameters in any case
    assert any(in_weights) == any(hides) or (made.pruner.reparametrizes and any(hides))
    # momentum of what is pruned is either zero, or gathered from dense gradients that are accounted for
    assert not any(in_momentum) or any(in_weights) or all(gathers)


@pytest.mark.parametrize("method", METHODS)
def test_target_0_is_dense_training_to_the_bit(make, method):
    made, runner = make(method, "sparsity=0.0")
    if made.pruner.reparametrizes:
        pytest.skip("differs from dense training even where nothing is pruned")
    if made.pruner.trainings > 1:
        pytest.skip("goes on training after a whole dense training")
    history = runner.run()
    dense, dense_runner = make("dense", folder="dense")
    dense_history = dense_runner.run()
    assert all(
        torch.equal(a, b)
        for a, b in zip(made.model.state_dict().values(), dense.model.state_dict().values(), strict=True)
    )
    assert (history.val, history.test) == (dense_history.val, dense_history.test)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_prunable_is_never_touched_by_masks(make, method):
    made, runner = make(method)
    runner.run()
    names = set(made.pruner.weights.parameters)
    assert not [n for n in names if "bn" in n or n.endswith("bias")]
    classifier = [name for name, module in made.model.named_modules() if isinstance(module, nn.Linear)][-1]
    assert f"{classifier}.weight" not in names
    others = {n: p for n, p in made.model.named_parameters() if n not in names and p.dim() > 1}
    assert others and all((p != 0).all() for p in others.values())


@pytest.mark.parametrize("method", METHODS)
def test_equal_weights_get_equal_masks(make, method):
    prints = []
    for folder in ("a", "b"):
        made, runner = make(method, folder=folder)
        runner.run()
        prints.append(made.pruner.weights.fingerprint())
    assert prints[0] == prints[1]


@pytest.mark.parametrize("method", METHODS)
def test_stop_and_resume_equals_an_unbroken_run_to_the_bit(make, method):
    unbroken, runner = make(method, folder="unbroken")
    expected = runner.run()
    expected_flops = runner.flops.totals()
    for stop in (7, 10):  # between two checkpoints, and after going on at one
        _, runner = make(method, folder="broken")
        watching = runner.train_step

        def stop_there(*batch, runner=runner, watching=watching, stop=stop):
            if runner.step == stop:
                raise KeyboardInterrupt
            watching(*batch)

        runner.train_step = stop_there
        with pytest.raises(KeyboardInterrupt):
            runner.run()
    resumed, runner = make(method, folder="broken")
    torch.manual_seed(123)  # the generator comes from the checkpoint
    history = runner.run()
    assert runner.step == unbroken.clock.total_steps
    for key, value in unbroken.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    times = ("seconds", "images_per_second")
    rows, expected_rows = (
        [{k: v for k, v in row.items() if k not in times} for row in h.rows] for h in (history, expected)
    )
    assert rows == expected_rows
    assert (history.test, history.best_val_top1) == (expected.test, expected.best_val_top1)
    assert runner.flops.totals() == expected_flops


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_changes_nothing(make, method):
    made, runner = make(method)
    runner.progress = Quiet()
    made.pruner.on_start(runner._probe())
    for _ in range(8):
        runner.train_step(*made.data.batch(runner.step))
        runner.step += 1
    before = copy.deepcopy((made.model.state_dict(), made.optimizer.state_dict(), made.pruner.state_dict()))
    generator = torch.get_rng_state()
    first = runner._evaluate("val")
    after = (made.model.state_dict(), made.optimizer.state_dict(), made.pruner.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert runner._evaluate("val") == first


@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_several_trainings_says_which_it_is(make, method):
    made, _ = make(method)
    last = made.pruner.trainings - 1
    summary = made.pruner.summary()
    assert (summary.get("round"), summary.get("rounds")) == ((last, last) if last else (None, None))


@pytest.mark.parametrize("method", METHODS)
def test_the_plain_state_dict_evaluates_to_the_reported_accuracy(make, hydra_config, method):
    made, runner = make(method)
    history = runner.run()
    _, other = make("dense", folder="plain")
    cfg, _ = hydra_config(
        "dataset=digits", "model=resnet", "model.depth=8", "model.width=4", f"prune={method}"
    )
    plain = build(cfg.model, input_shape=made.dataset.input_shape, num_classes=made.dataset.num_classes)
    plain.load_state_dict(made.model.state_dict())
    other.model = other.forward = plain
    assert other._evaluate("test") == history.test
    assert other._evaluate("val") == history.val


@pytest.mark.parametrize("method", METHODS)
def test_the_yaml_and_the_class_say_the_same(hydra_config, method):
    from hydra.utils import get_class

    cfg, _ = hydra_config(f"prune={method}")
    cls = get_class(cfg.prune._target_)
    assert issubclass(cls, Pruner)
    runtime = {
        "weights",
        "schedule",
        "allocation",
        "score",
        "sanity",
        "optimizer",
        "clock",
        "lr_schedule",
        "model",
    }
    settings = {key for key in OmegaConf.to_container(cfg.prune) if not key.startswith("_")}
    assert accepted_arguments(cfg.prune._target_) - runtime == settings
    text = inspect.getdoc(cls)
    assert "References:" in text and text.splitlines()[0].endswith(".")
    code = inspect.getsource(inspect.getmodule(cls)).splitlines()
    assert len(code) <= 90  # fits on a screen, docstrings included
