from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.pruning.methods.str import STR
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.training.flops import TrainingFLOPs, count_layers
from tests.support.small import Net, data

PROBE = Probe(nn.Identity(), lambda: iter(()), nn.MSELoss(), torch.Generator(), lambda: None)


def make(s_init, lr=0.1, **sgd):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **sgd)
    parameters = {"conv1.weight": model.conv1.weight, "conv2.weight": model.conv2.weight}
    pruner = STR(MaskedParameters(parameters, optimizer), optimizer, s_init)
    pruner.on_start(PROBE)
    return model, optimizer, pruner


def step_of(model, optimizer, pruner, step, inputs, targets):
    optimizer.zero_grad(set_to_none=True)
    pruner.before_forward(step)
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    assert pruner.after_backward(step)
    optimizer.step()
    pruner.after_step(step)
    return loss.item()


def test_three_weights_by_hand():
    """σ(0) = 0.5, σ' = 0.25; v = [1.5, 0, -0.25] with gradients 1, 2, 4; decay 0.1 on both w and s."""
    weight = nn.Parameter(torch.tensor([2.0, 0.5, -0.75]))
    optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.1)
    pruner = STR(MaskedParameters({"w": weight}, optimizer), optimizer, s_init=0.0)
    pruner.on_start(PROBE)
    assert pruner.weights.masks["w"].tolist() == [True, False, True]  # at the threshold is under it
    pruner.before_forward(0)
    assert weight.tolist() == [1.5, 0, -0.25]
    (weight * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    assert pruner.after_backward(0)
    assert weight.grad.tolist() == [1, 0, 4]  # dv/dw = 1 where v is not 0
    assert pruner.s["w"].grad.item() == -0.25 * (1 - 4)
    optimizer.step()
    assert weight.tolist() == pytest.approx([2 - 0.12, 0.5 - 0.005, -0.75 - 0.3925])
    assert pruner.s["w"].item() == pytest.approx(-0.075)


def test_thresholds_decay_like_weights():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.5)
    pruner = STR(MaskedParameters({"w": weight}, optimizer), optimizer, s_init=-3200.0)
    pruner.before_forward(0)
    weight.sum().backward()
    pruner.after_backward(0)
    assert pruner.s["w"].grad.item() == 0  # σ(-3200) is 0 in float32: only the decay moves it
    optimizer.step()
    assert pruner.s["w"].item() == pytest.approx(-3200 * (1 - 0.05))


def test_the_papers_first_threshold_prunes_nothing_and_changes_nothing():
    model, optimizer, pruner = make(-3200.0)
    assert pruner.weights.packed().all()
    assert all(torch.equal(v, pruner.weights.parameters[name]) for name, v in pruner.values().items())
    dense = Net()
    dense.load_state_dict(model.state_dict())
    dense_optimizer = torch.optim.SGD(dense.parameters(), lr=0.1)
    for step, (inputs, targets) in enumerate(data(5)):
        loss = step_of(model, optimizer, pruner, step, inputs, targets)
        dense_optimizer.zero_grad()
        dense_loss = nn.functional.cross_entropy(dense(inputs), targets)
        dense_loss.backward()
        dense_optimizer.step()
        assert loss == dense_loss.item()


def test_the_gradients_are_those_of_autograd():
    model, _, pruner = make(-2.0)
    inputs, targets = next(iter(data(1)))
    s = {name: torch.tensor(-2.0, requires_grad=True) for name in pruner.s}
    w = {name: p.detach().clone().requires_grad_() for name, p in pruner.weights.parameters.items()}
    v = {name: w[name].sign() * (w[name].abs() - s[name].sigmoid()).relu() for name in s}
    nn.functional.cross_entropy(torch.func.functional_call(model, v, inputs), targets).backward()
    model.zero_grad()
    pruner.before_forward(0)
    nn.functional.cross_entropy(model(inputs), targets).backward()
    pruner.after_backward(0)
    for name, parameter in pruner.weights.parameters.items():
        torch.testing.assert_close(parameter.grad, w[name].grad)
        torch.testing.assert_close(pruner.s[name].grad, s[name].grad)


def test_a_weight_is_zero_exactly_where_it_is_not_above_the_threshold():
    model, optimizer, pruner = make(-2.5, momentum=0.9, weight_decay=1e-2)
    for step, batch in enumerate(data(30)):
        step_of(model, optimizer, pruner, step, *batch)
        for name, w in pruner.weights.parameters.items():
            above = w.detach().abs() > pruner.s[name].detach().sigmoid()
            assert torch.equal(pruner.weights.masks[name], above)
            assert torch.equal(pruner.values()[name] != 0, above)
    assert len({s.item() for s in pruner.s.values()}) == 2  # every layer has its own


def test_the_baked_model_computes_what_was_evaluated_with_smaller_weights():
    model, optimizer, pruner = make(-2.5, weight_decay=1e-2)
    for step, batch in enumerate(data(10)):
        step_of(model, optimizer, pruner, step, *batch)
    inputs, _ = next(iter(data(1)))
    model.eval()
    dense = {name: w.detach().clone() for name, w in pruner.weights.parameters.items()}
    with torch.no_grad(), pruner.evaluating():
        expected = model(inputs)
    pruner.on_end()
    plain = Net().eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad(), pruner.evaluating():
        assert torch.equal(plain(inputs), expected) and torch.equal(model(inputs), expected)
    for name, w in pruner.weights.parameters.items():
        kept = pruner.weights.masks[name]
        torch.testing.assert_close(
            dense[name].abs()[kept] - w.abs()[kept], pruner.s[name].sigmoid().expand(kept.sum())
        )


def test_training_costs_as_much_as_dense_training():
    model = nn.Linear(100, 10, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = MaskedParameters({"weight": model.weight}, optimizer)
    pruner = STR(weights, optimizer, -2.0)
    pruner.on_start(PROBE)
    counter = TrainingFLOPs(count_layers(model, (100,)), weights)
    counter.count(4, pruner.dense_gradient(0), pruner.dense_forward(0))
    assert counter.totals()[1:] == (1, 1)


def test_thresholds_survive_a_checkpoint():
    model, optimizer, pruner = make(-2.5)
    for step, batch in enumerate(data(5)):
        step_of(model, optimizer, pruner, step, *batch)
    *_, other = make(-2.5)
    other.load_state_dict(pruner.state_dict())
    assert all(torch.equal(s, other.s[name]) for name, s in pruner.s.items())
