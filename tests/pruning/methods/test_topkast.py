from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Uniform
from sparsebench.pruning.methods.dnw import DNW
from sparsebench.pruning.methods.topkast import TopKAST
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Constant
from sparsebench.pruning.scores import Magnitude
from sparsebench.training.flops import TrainingFLOPs, count_layers


def test_four_weights_by_hand():
    """D = 1/4, M = 1/2: A = {0}, B = {0, 1, 2}; gradients 1, decay 0.1."""
    weight = nn.Parameter(torch.tensor([4.0, -3.0, 2.0, 1.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5, weight_decay=0.1)
    weights = MaskedParameters({"w": weight}, optimizer)
    pruner = TopKAST(
        weights, Constant(Clock(4), 0.75, interval="1it"), Uniform(), Magnitude(), extra_density=0.5
    )
    pruner.before_forward(0)
    assert weight.tolist() == [4, 0, 0, 0]
    weight.sum().backward()
    assert pruner.after_backward(0)
    # ρ = 1, 4, 4, 0: 1 + 0.4, 1 - 1.2, 1 + 0.8, 0
    assert weight.grad.tolist() == pytest.approx([1.4, -0.2, 1.8, 0.0])
    optimizer.step()
    assert weight.tolist() == pytest.approx([3.3, -2.9, 1.1, 1.0])


def make(method=TopKAST, target=0.8, decay=1e-2, interval="3it", **more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=decay)
    weights = MaskedParameters({"0.weight": model[0].weight, "2.weight": model[2].weight}, optimizer)
    schedule = Constant(Clock(30), target, interval=interval)
    return model, optimizer, method(weights, schedule, Uniform(), Magnitude(), **more)


def train(model, optimizer, pruner, look=lambda step, before: None):
    generator = torch.Generator().manual_seed(1)
    for step in range(30):
        optimizer.zero_grad()
        pruner.before_forward(step)
        images, targets = torch.randn(16, 12, generator=generator), torch.arange(16) % 10
        nn.functional.cross_entropy(model(images), targets).backward()
        pruner.after_backward(step)
        before = {n: p.detach().clone() for n, p in pruner.weights.parameters.items()}
        optimizer.step()
        look(step, before)
        pruner.after_step(step)
    return [p.detach().clone() for p in model.parameters()]


def test_what_is_outside_b_never_moves_and_a_is_in_b():
    model, optimizer, pruner = make()
    moved = []

    def look(step, before):
        weights = pruner.weights
        assert weights.nonzero().tolist() == [48, 40]  # 20 % of 240 and of 200
        assert weights.in_gradient().tolist() == [72, 60]  # 30 %
        for name, parameter in weights.parameters.items():
            forward, backward = weights.masks[name], weights.backward[name]
            assert (forward <= backward).all()
            assert torch.equal(parameter[~backward], before[name][~backward])
            assert (optimizer.state[parameter]["momentum_buffer"][~backward] == 0).all()
            moved.append(bool((parameter != before[name])[backward & ~forward].all()))

    train(model, optimizer, pruner, look)
    assert all(moved)


def test_with_every_weight_in_b_and_no_decay_it_is_dnw():
    ours = train(*make(extra_density=1.0, decay=0.0, interval="1it"))
    theirs = train(*make(DNW, decay=0.0, interval="1it"))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_training_costs_two_forwards_of_a_and_one_of_b():
    model = nn.Linear(100, 10, bias=False)
    weights = MaskedParameters({"weight": model.weight}, torch.optim.SGD(model.parameters(), lr=0.1))
    pruner = TopKAST(weights, Constant(Clock(10), 0.9), Uniform(), Magnitude(), extra_density=0.2)
    counter = TrainingFLOPs(count_layers(model, (100,)), weights)
    for step in range(10):
        pruner.before_forward(step)
        counter.count(4, pruner.dense_gradient(step), pruner.dense_forward(step))
        weights.restore_()
    assert counter.totals()[1] == pytest.approx((2 * 0.1 + 0.3) / 3)


def test_the_sets_survive_a_checkpoint():
    model, optimizer, pruner = make()
    train(model, optimizer, pruner)
    *_, other = make()
    other.load_state_dict(pruner.state_dict())
    assert all(torch.equal(m, other.weights.backward[n]) for n, m in pruner.weights.backward.items())
    assert other.weights.fingerprint() == pruner.weights.fingerprint()


@pytest.mark.parametrize("extra", [-0.1, 1.5])
def test_an_extra_density_outside_0_to_1_is_refused(extra):
    with pytest.raises(SettingError, match=rf"^extra_density={extra}: expected"):
        make(extra_density=extra)
