"""What every method keeps to. The methods are found in conf/prune, not listed."""

from __future__ import annotations

import ast
import copy
import inspect
import io
import tokenize

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
from sparsebench.training.metrics import evaluate
from tests.support.configs import options, train_config
from tests.support.training import SMALL, Quiet, runner_of


@pytest.fixture(scope="module", params=options("prune"))
def method(request):
    """Of the module, so that all tests of a method are in a row, and share its training."""
    return request.param


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """(method, *overrides) -> (assembled objects, runner)."""
    place = tmp_path_factory.mktemp("contract")

    def build(method, *overrides, folder="run"):
        """The last training of the method, ready to run; those before it are done."""
        small, default = [*SMALL, f"prune={method}", *overrides], train_config(f"prune={method}")[0]
        if "interval" not in default.schedule:
            small.remove("schedule.interval=4it")
        if default.prune.get("rounds", 1) is None:  # of trainings
            small.append("prune.rounds=2")
        if "retrain" in default.prune:
            small.append("prune.retrain=0.75")
        cfg, _ = train_config(*small)
        training, before, made = 0, {}, build_run(cfg)
        while True:
            first_step = made.pruner.begin(training, before)
            last = training == made.pruner.trainings - 1
            runner = loop(made, f"{method}-{folder}{'' if last else training}", first_step)
            if last:
                return made, runner
            runner.run()
            training, before, made = training + 1, made.pruner.handover(), build_run(cfg)

    def loop(made, folder, first_step):
        (place / folder).mkdir(exist_ok=True)
        checkpoint = Checkpoint(place / folder, pytest.fail)
        evaluation = lambda split: batches(made.dataset, split, 100)  # noqa: E731
        return runner_of(made, evaluation, checkpoint, first_step, eval_every=5, save_every=3)

    return build


class Watched:
    """A whole training, with what was seen in the forward, at the optimiser's step, and after each step."""

    def __init__(self, made, runner):
        self.made, self.runner, self.first_step = made, runner, runner.step
        self.grown = Grown(made.pruner.weights)
        self.pruned_seen, self.hidden = [], []  # by the forward; at the optimiser's step
        self.pruned, self.target_zeros, self.zeros, self.clean = [], [], [], []  # after each step
        self.in_weights, self.in_momentum, self.gathers, self.hides = [], [], [], []
        made.model.register_forward_pre_hook(lambda *_: self.forward() if made.model.training else None)
        made.optimizer.register_step_pre_hook(lambda *_: self.hidden.append(made.pruner.weights.hidden))
        after = made.pruner.after_step

        def after_step(step):
            after(step)
            self.after(step)

        made.pruner.after_step = after_step
        self.history = runner.run()

    def zero_where_pruned(self):
        weights = self.made.pruner.weights
        return all((w[~weights.masks[name]] == 0).all() for name, w in weights.parameters.items())

    def forward(self):
        self.grown.look()
        self.pruned_seen.append(self.zero_where_pruned())

    def after(self, step):
        pruner, optimizer = self.made.pruner, self.made.optimizer
        weights = pruner.weights
        self.grown.look()
        self.pruned.append(int((~weights.packed()).sum()))
        self.target_zeros.append(pruner.target_zeros(step))
        with weights.applied():  # what has just been grown is zero too
            self.zeros.append(zeros(self.made))
            self.clean.append(self.zero_where_pruned())
        self.gathers.append(pruner.dense_gradient(step))
        for name, parameter in weights.parameters.items():
            pruned = ~weights.masks[name]
            state = optimizer.state[parameter].get("momentum_buffer", torch.zeros_like(parameter))
            self.in_weights.append(bool((parameter[pruned] != 0).any()))
            self.in_momentum.append(bool((state[pruned] != 0).any()))
        with pruner.evaluating():
            self.hides.append(weights.hidden)


@pytest.fixture(scope="module")
def watched(make, method):
    """The training that most tests of a method look at; none may change it."""
    return Watched(*make(method, folder="watched"))


@pytest.fixture(scope="module")
def dense(make):
    """(assembled objects, history) of dense training."""
    made, runner = make("dense", folder="dense")
    return made, runner.run()


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


def test_every_number_of_zeros_on_the_way_is_exactly_the_scheduled_one(watched, method):
    made, weights = watched.made, watched.made.pruner.weights
    steps = made.clock.total_steps - watched.first_step
    assert len(watched.pruned) == len(watched.zeros) == steps > 0
    for pruned, target_zeros, found in zip(watched.pruned, watched.target_zeros, watched.zeros, strict=True):
        assert target_zeros in (pruned, None)
        assert found >= pruned
    assert all(watched.clean)
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
    assert not (
        kept_zeros & ~watched.grown.ever
    ).any()  # nothing but growing makes a kept weight exactly zero
    rows = watched.history.rows
    assert rows[-1]["step"] == made.clock.total_steps
    assert rows[-1]["sparsity"] == pruned / weights.numel


def test_the_forward_sees_pruned_weights_and_the_optimizer_its_own(watched):
    assert watched.pruned_seen and all(watched.pruned_seen)
    assert watched.hidden and not any(watched.hidden)


def test_hard_masks_leave_nothing_in_weight_momentum_or_gradient(watched):
    # a method either never leaks, or keeps its dense weights on purpose and hides them in evaluation;
    # one that reparametrises may hide its parameters in any case
    leaks, hides = any(watched.in_weights), any(watched.hides)
    assert leaks == hides or (watched.made.pruner.reparametrizes and hides)
    # momentum of what is pruned is either zero, or gathered from dense gradients that are accounted for
    assert not any(watched.in_momentum) or leaks or all(watched.gathers)


def test_target_0_is_dense_training_bitwise(make, method, dense):
    made, runner = make(method, "sparsity=0.0", folder="target0")
    if made.pruner.reparametrizes:
        pytest.skip("differs from dense training even if nothing is pruned")
    if made.pruner.trainings > 1:
        pytest.skip("goes on training after a whole dense training")
    history = runner.run()
    other, dense_history = dense
    assert all(
        torch.equal(a, b)
        for a, b in zip(made.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    )
    assert (history.val, history.test) == (dense_history.val, dense_history.test)


def test_what_is_not_prunable_is_never_touched_by_masks(watched):
    made = watched.made
    names = set(made.pruner.weights.parameters)
    assert not [n for n in names if "bn" in n or n.endswith("bias")]
    classifier = [name for name, module in made.model.named_modules() if isinstance(module, nn.Linear)][-1]
    assert f"{classifier}.weight" not in names
    others = {n: p for n, p in made.model.named_parameters() if n not in names and p.dim() > 1}
    assert others and all((p != 0).all() for p in others.values())


def test_equal_weights_get_equal_masks_and_watching_changes_nothing(make, method, watched):
    again, runner = make(method, folder="again")
    runner.run()
    assert again.pruner.weights.fingerprint() == watched.made.pruner.weights.fingerprint()
    for key, value in watched.made.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key


def test_stop_and_resume_equals_an_uninterrupted_run_bitwise(make, method, watched):
    stop_and_resume(make, method, "whole", (watched.made, watched.runner))


def test_what_a_model_draws_in_training_resumes_after_a_stop_as_in_an_uninterrupted_run(make):
    argv = ("model=wide_resnet", "model.depth=10", "model.width=1", "model.dropout=0.3", "epochs=3")
    uninterrupted, runner = make("dense", *argv, folder="drawing-uninterrupted")
    runner.run()
    stop_and_resume(make, "dense", "drawing", (uninterrupted, runner), *argv)


def stop_and_resume(make, method, name, whole, *argv):
    uninterrupted, runner = whole
    expected, expected_flops = runner.history, runner.flops.totals()
    for stop in (7, 9):  # between two checkpoints, and after going on at one; both between two evaluations
        _, runner = make(method, *argv, folder=f"{name}-broken")
        watching = runner.train_step

        def stop_there(runner=runner, watching=watching, stop=stop):
            if runner.step == stop:
                raise KeyboardInterrupt
            watching()

        runner.train_step = stop_there
        with pytest.raises(KeyboardInterrupt):
            runner.run()
    resumed, runner = make(method, *argv, folder=f"{name}-broken")
    torch.manual_seed(123)  # the generator comes from the checkpoint
    history = runner.run()
    assert runner.step == uninterrupted.clock.total_steps
    for key, value in uninterrupted.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    times = ("seconds", "images_per_second")
    rows, expected_rows = (
        [{k: v for k, v in row.items() if k not in times} for row in h.rows] for h in (history, expected)
    )
    assert rows == expected_rows
    assert (history.test, history.best_val_top1) == (expected.test, expected.best_val_top1)
    assert runner.flops.totals() == expected_flops


def test_evaluation_changes_nothing(make, method):
    made, runner = make(method, folder="evaluated")
    runner.progress = Quiet()
    made.pruner.on_start(runner._probe())
    for _ in range(8):
        runner.train_step()
        runner.step += 1
    before = copy.deepcopy((made.model.state_dict(), made.optimizer.state_dict(), made.pruner.state_dict()))
    generator = torch.get_rng_state()
    first = runner._evaluate("val")
    after = (made.model.state_dict(), made.optimizer.state_dict(), made.pruner.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert runner._evaluate("val") == first


def test_evaluations_on_the_way_are_of_the_pruned_weights_and_the_best_is_the_best_at_the_target(make):
    made, runner = make("dpf", "sparsity=0.98", folder="looked-at")
    weights, seen, flips, masks = made.pruner.weights, [], [], [made.pruner.weights.packed()]
    after_step = made.pruner.after_step

    def look(step):
        after_step(step)
        if step % 5 == 4:  # evaluated next
            pruned = copy.deepcopy(made.model).eval()
            for name, mask in weights.masks.items():
                pruned.get_parameter(name).data *= mask
            seen.append([evaluate(pruned, batches(made.dataset, split, 100)) for split in ("val", "test")])
            flips.append(float((weights.packed() != masks[-1]).double().mean()))
            masks.append(weights.packed())

    made.pruner.after_step = look
    history = runner.run()
    assert [row["val_loss"] for row in history.rows] == [val.loss for val, _ in seen]
    assert [row["mask_flips"] for row in history.rows] == flips
    target = [n for n, row in enumerate(history.rows) if row["sparsity"] == history.rows[-1]["sparsity"]]
    best = max(target, key=lambda n: seen[n][0].top1)
    assert history.best_val_top1 == seen[best][0].top1 < max(val.top1 for val, _ in seen)  # less sparse
    assert history.test_top1_at_best_val == seen[best][1].top1


def test_a_row_of_several_trainings_says_which_it_is(watched):
    made = watched.made
    last = made.pruner.trainings - 1
    summary = made.pruner.summary()
    assert (summary.get("round"), summary.get("rounds")) == ((last, last) if last else (None, None))


def test_the_plain_state_dict_evaluates_to_the_reported_accuracy(make, method, watched):
    made, history = watched.made, watched.history
    _, other = make("dense", folder="plain")
    cfg, _ = train_config(
        "dataset=digits", "model=resnet", "model.depth=8", "model.width=4", f"prune={method}"
    )
    plain = build(cfg.model, input_shape=made.dataset.input_shape, num_classes=made.dataset.num_classes)
    plain.load_state_dict(made.model.state_dict())
    other.model = other.forward = plain
    assert other._evaluate("test") == history.test
    assert other._evaluate("val") == history.val


def test_the_yaml_and_the_class_say_the_same(method):
    from hydra.utils import get_class

    cfg, _ = train_config(f"prune={method}")
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
    assert len(lines_of_code(inspect.getsource(inspect.getmodule(cls)))) <= 60  # fits on a screen


def lines_of_code(source):
    """Lines that hold code: no docstring, no comment, not blank."""
    layout = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for t in tokens if t.type not in layout for line in range(t.start[0], t.end[0] + 1)}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = (
        n.body[0] for n in ast.walk(ast.parse(source)) if isinstance(n, documented) and ast.get_docstring(n)
    )
    return lines - {line for string in docstrings for line in range(string.lineno, string.end_lineno + 1)}
