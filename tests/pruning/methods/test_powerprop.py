from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Global
from sparsebench.pruning.methods.gmp import GMP
from sparsebench.pruning.methods.powerprop import Powerprop
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.schedules import Cubic, OneShotSchedule
from sparsebench.pruning.scores import Magnitude
from tests.support.small import data, step_of, swap

PROBE = Probe(nn.Identity(), lambda: iter(()), nn.MSELoss(), torch.Generator(), lambda: None)


def started(values, alpha, at="0.5", **sgd):
    weight = nn.Parameter(torch.tensor(values))
    optimizer = torch.optim.SGD([weight], lr=0.1, **sgd)
    weights = MaskedParameters({"w": weight}, optimizer)
    pruner = Powerprop(weights, OneShotSchedule(Clock(2), 0.5, at=at), Global(), Magnitude(), alpha)
    pruner.on_start(PROBE)
    return weight, optimizer, pruner


def one_step(weight, optimizer, pruner, step):
    optimizer.zero_grad()
    pruner.before_forward(step)
    seen = weight.tolist()
    weight.sum().backward()
    assert pruner.after_backward(step)
    gradient = weight.grad.tolist()
    optimizer.step()
    pruner.after_step(step)
    return seen, gradient


def test_two_weights_by_hand():
    """w = [4, -1] from θ = [2, -1]; ∂L/∂w = 1 and decay 0.1: 1.4 · 2 · 2 and 0.9 · 2 · 1."""
    weight, optimizer, pruner = started([4.0, -1.0], 2.0, weight_decay=0.1)
    assert weight.tolist() == [2, -1]
    seen, gradient = one_step(weight, optimizer, pruner, 0)
    assert seen == [4, -1]  # the network starts as usual
    assert gradient == pytest.approx([5.6, 1.8])
    assert weight.tolist() == pytest.approx([1.44, -1.18])  # the larger one moves more
    seen, _ = one_step(weight, optimizer, pruner, 1)  # then half of them is pruned
    assert seen == pytest.approx([1.44**2, -(1.18**2)])
    # 1.44 - 0.1 (1 + 0.1 · 1.44²) · 2.88 = 1.0923 and -1.18 - 0.1 (1 - 0.1 · 1.18²) · 2.36 = -1.3831
    assert weight.tolist() == pytest.approx([0, -1.3831], abs=1e-4)
    with pruner.evaluating():
        assert weight.tolist() == pytest.approx([0, -(1.3831**2)], abs=1e-3)
    theta = weight.detach().clone()
    pruner.on_end()
    assert torch.equal(weight, theta * theta.abs())
    with pruner.evaluating():  # what is baked is not transformed again
        assert torch.equal(weight, theta * theta.abs())


def test_zero_is_a_critical_point():
    weight, optimizer, pruner = started([0.0, 1.0], 2.0)
    _, gradient = one_step(weight, optimizer, pruner, 0)
    assert gradient == [0, 2]


@pytest.mark.parametrize("alpha", [1.0, 1.375, 2.0, 4.0])
def test_the_network_starts_as_usual(alpha):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).tolist()
    *_, pruner = started(values, alpha)
    torch.testing.assert_close(pruner.values()["w"], torch.tensor(values))


def test_with_alpha_1_it_is_gmp_bitwise():
    sgd = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}
    runs = []
    for method, more in ((GMP, {}), (Powerprop, {"alpha": 1.0})):
        model, optimizer, pruner = swap(method, Cubic(Clock(30), 0.8, interval="2it"), sgd, **more)
        pruner.on_start(PROBE)
        losses = [step_of(model, optimizer, pruner, step, *batch) for step, batch in enumerate(data(30))]
        pruner.on_end()
        runs.append((losses, pruner.weights.fingerprint(), model.state_dict()))
    assert runs[0][:2] == runs[1][:2]
    torch.testing.assert_close(runs[0][2], runs[1][2], rtol=0, atol=0)


def test_what_is_pruned_never_comes_back():
    model, optimizer, pruner = swap(
        Powerprop, Cubic(Clock(30), 0.8, interval="2it"), {"lr": 0.1, "momentum": 0.9}
    )
    pruner.on_start(PROBE)
    last = pruner.weights.packed()
    for step, batch in enumerate(data(30)):
        step_of(model, optimizer, pruner, step, *batch)
        assert not (pruner.weights.packed() & ~last).any()
        last = pruner.weights.packed()
    assert int((~last).sum()) == pruner.target_zeros(29)


@pytest.mark.parametrize("alpha", [0.5, 0])
def test_an_alpha_below_1_is_refused(alpha):
    with pytest.raises(SettingError, match=rf"^alpha={alpha}: expected a power of at least 1"):
        started([1.0], alpha)
