from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.methods.continuous_sparsification import ContinuousSparsification
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.training.flops import TrainingFLOPs, count_layers
from tests.support.small import Net, data

STEPS = 12


def make(**settings):
    """On a network of 252 prunable weights; 3 epochs of 4 steps a training."""
    torch.manual_seed(0)
    model = Net()
    sgd = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
    optimizer = torch.optim.SGD(model.parameters(), **sgd)
    weights = MaskedParameters(
        {"conv1.weight": model.conv1.weight, "conv2.weight": model.conv2.weight}, optimizer
    )
    settings = {"rewind": "1ep", "s_lr": 10.0, **settings}
    return (
        model,
        optimizer,
        ContinuousSparsification(model, weights, optimizer, Clock(STEPS, 4), **settings),
    )


def train(model, optimizer, pruner, look=lambda step: None):
    for step, (inputs, targets) in enumerate(data(STEPS)):
        optimizer.zero_grad(set_to_none=True)
        pruner.before_forward(step)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        assert pruner.after_backward(step)
        optimizer.step()
        pruner.after_step(step)
        look(step)
    pruner.on_end()
    return pruner.handover()


def test_two_weights_by_hand():
    """s_0 = ln 3, σ = 3/4: v = w at first, also with v = w (3/4) / (3/4); gradients 1 and 2, λ = 0.5."""
    weight = nn.Parameter(torch.tensor([2.0, -1.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.1)
    pruner = ContinuousSparsification(
        nn.Identity(), MaskedParameters({"w": weight}, optimizer), optimizer, Clock(4), s_init=math.log(3),
        penalty=0.5, s_lr=1.0,
    )  # fmt: skip
    pruner.rewind = 1  # not in this step
    pruner.before_forward(0)
    assert weight.tolist() == pytest.approx([2, -1])
    (weight * torch.tensor([1.0, 2.0])).sum().backward()
    assert pruner.after_backward(0)
    assert weight.grad.tolist() == pytest.approx([1, 2])
    # (g w / σ(s_0) + λ) β m (1 - m) = (2 · 4/3 + 1/2) 3/16 and (-2 · 4/3 + 1/2) 3/16
    assert pruner.s["w"].grad.tolist() == pytest.approx([19 / 32, -13 / 32])
    optimizer.step()
    assert weight.tolist() == pytest.approx([2 - 0.12, -1 - 0.19])
    assert pruner.s["w"].tolist() == pytest.approx([math.log(3) - 19 / 32, math.log(3) + 13 / 32])  # no decay


def test_the_gradients_are_those_of_autograd():
    model, _, pruner = make(s_init=-0.1, penalty=1e-3)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for s in pruner.s.values():
            s.copy_(torch.randn(s.shape, generator=generator))
    inputs, targets = next(iter(data(1)))
    s = {name: s.detach().clone().requires_grad_() for name, s in pruner.s.items()}
    w = {name: p.detach().clone().requires_grad_() for name, p in pruner.weights.parameters.items()}
    pruner.before_forward(5)  # the second of three epochs
    assert pruner.beta == pytest.approx(200**0.5)
    masks = {name: (pruner.beta * s[name]).sigmoid() for name in s}
    v = {name: w[name] * masks[name] / torch.tensor(-0.1).sigmoid() for name in s}
    loss = nn.functional.cross_entropy(torch.func.functional_call(model, v, inputs), targets)
    (loss + 1e-3 * sum(mask.sum() for mask in masks.values())).backward()
    model.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    pruner.after_backward(5)
    for name, parameter in pruner.weights.parameters.items():
        torch.testing.assert_close(parameter.grad, w[name].grad)
        torch.testing.assert_close(pruner.s[name].grad, s[name].grad)


def test_the_temperature_rises_by_the_same_factor_every_epoch():
    *_, pruner = make()
    pruner.clock = Clock(850, 10)
    found = []
    for epoch in range(85):
        pruner.before_forward(10 * epoch)
        pruner.weights.restore_()
        found.append(pruner.beta)
    assert (found[0], found[-1]) == (1, pytest.approx(200))
    assert [b / a for a, b in pairwise(found)] == pytest.approx([1.065107] * 84, abs=1e-6)


def test_at_the_end_of_a_round_soft_and_hard_masks_agree_and_the_factor_stays():
    *_, pruner = make(s_init=-0.1)
    s = pruner.s["conv1.weight"]
    with torch.no_grad():
        s.copy_(torch.linspace(-1, 1, s.numel()).view(s.shape))
    pruner.beta = 200.0
    soft, w = pruner.mask("conv1.weight"), pruner.weights.parameters["conv1.weight"].detach()
    pruner.weights.set_masks(pruner.ticket())
    pruner.fixed = True
    hard = pruner.mask("conv1.weight")
    assert torch.equal(hard, (s > 0).float())
    assert ((soft - hard).abs()[s.abs() > 0.05] < 1e-3).all()
    torch.testing.assert_close(pruner.value("conv1.weight", w), w * hard / torch.tensor(-0.1).sigmoid())


def test_rounds_go_on_and_the_ticket_starts_at_the_early_point():
    early = {}

    def keep(step):
        if step == 3:  # the last step of the first epoch
            early.update({name: value.clone() for name, value in model.state_dict().items()})

    model, optimizer, pruner = make(rounds=2)
    assert pruner.trainings == 3
    assert pruner.begin(0, {}) == 0
    before = train(model, optimizer, pruner, keep)
    assert early and all(torch.equal(value, before["early"][name]) for name, value in early.items())

    model, optimizer, pruner = make(rounds=2)
    pruner.begin(1, before)
    assert all(torch.equal(value, before["last"][name]) for name, value in model.state_dict().items())
    for name, s in pruner.s.items():
        assert torch.equal(s.detach(), (200 * before["s"][name]).clamp(max=0))  # min(β s, s_0)
    before = train(model, optimizer, pruner)
    assert all(torch.equal(value, before["early"][name]) for name, value in early.items())

    model, optimizer, pruner = make(rounds=2)
    assert pruner.begin(2, before) == 0
    assert pruner.summary() == {"round": 2, "rounds": 2}
    kept = {name: s > 0 for name, s in before["s"].items()}
    assert 0 < sum(int(mask.sum()) for mask in kept.values()) < 252
    for name, value in model.state_dict().items():
        assert torch.equal(value, early[name] * kept.get(name, torch.tensor(True)))
    s = {name: s.detach().clone() for name, s in pruner.s.items()}
    handed = train(model, optimizer, pruner)
    assert handed == {}  # the last
    for name, w in pruner.weights.parameters.items():
        assert torch.equal(pruner.s[name], s[name])  # only w is trained
        assert torch.equal(pruner.weights.masks[name], kept[name])
        assert torch.equal(w != 0, kept[name])


def test_rounds_cost_as_much_as_dense_training_and_the_ticket_its_share():
    model = nn.Linear(100, 10, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = MaskedParameters({"weight": model.weight}, optimizer)
    pruner = ContinuousSparsification(model, weights, optimizer, Clock(10, 4), rounds=1)
    counter = TrainingFLOPs(count_layers(model, (100,)), weights)
    for training in range(2):
        pruner.fixed = training == 1
        if pruner.fixed:
            state = counter.state_dict()
            weights.set_masks({"weight": torch.arange(1000).view(10, 100) < 100})
            counter = TrainingFLOPs(count_layers(model, (100,)), weights)
            counter.continue_from(state)
        for step in range(10):
            counter.count(4, pruner.dense_gradient(step), pruner.dense_forward(step))
    assert counter.totals()[1] == pytest.approx(1 + 0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "rounds=0: expected an integer, at least 1"),
        ({"rewind": "3ep"}, "rewind=3ep: expected a time before the end, step 12"),
        ({"beta": 0.5}, "beta=0.5: expected a temperature of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(SettingError, match=f"^{message}"):
        make(**settings)
