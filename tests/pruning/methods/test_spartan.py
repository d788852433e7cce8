from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Global, Uniform
from sparsebench.pruning.methods.spartan import Spartan
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Constant, Linear
from sparsebench.pruning.soft_topk import soft_topk, soft_topk_gradient
from tests.support.small import Net, data, step_of


def soft(values, kept, beta):
    return soft_topk({"w": torch.tensor(values)}, torch.tensor(kept), beta)["w"]


def test_a_soft_mask_by_hand():
    # m = σ(β (v - τ)) sums to 1 for two values at τ half-way between them
    assert soft([0.0, 1.0], 1, 2.0).tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])
    assert soft([0.3, 0.3, 0.3, 0.3], 1, 5.0).tolist() == pytest.approx([0.25] * 4)
    assert soft([0.1, 0.2, 0.3], 3, 5.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("beta", [1.0, 10.0, 1000.0])
@pytest.mark.parametrize("kept", [1, 37, 500, 999])
def test_the_soft_mask_sums_to_k_and_grows_with_the_weight(kept, beta):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).abs()
    mask = soft_topk({"a": values[:300], "b": values[300:]}, torch.tensor(kept), beta)
    flat = torch.cat([mask["a"], mask["b"]])
    assert float(flat.sum()) == pytest.approx(kept, rel=1e-3)
    assert (flat[values.argsort()].diff() >= 0).all()


def test_a_sharp_soft_mask_is_the_hard_one():
    values = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).float()
    mask = soft(values.tolist(), 100, 100.0)
    assert torch.equal(mask.round().bool(), values >= 900) and (mask - mask.round()).abs().max() < 1e-6


def test_its_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    values, gradient = (torch.randn(12, generator=generator, dtype=torch.float64) for _ in range(2))
    beta, kept = 3.0, torch.tensor(4)

    def loss(v):
        return float((soft_topk({"w": v}, kept, beta)["w"] * gradient).sum())

    found = soft_topk_gradient({"w": gradient}, soft_topk({"w": values}, kept, beta), beta)["w"]
    for i, unit in enumerate(torch.eye(12, dtype=torch.float64) * 1e-4):
        assert (loss(values + unit) - loss(values - unit)) / 2e-4 == pytest.approx(float(found[i]), abs=1e-6)
    assert float(found.sum()) == pytest.approx(0, abs=1e-12)  # all the larger: the same mask


def test_two_weights_by_hand():
    """θ = [1, -2], k = 1, β = 1 at step 0: m = σ(∓1/2); v = [0, -2 σ(1/2)] and g = [1, 1]."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weights = MaskedParameters({"w": weight}, optimizer)
    pruner = Spartan(weights, Constant(Clock(2), 0.5, interval="1it", stop=0), Global(), beta=4.0)
    pruner.before_forward(0)
    p = 1 / (1 + math.exp(-0.5))
    assert weight.tolist() == pytest.approx([0, -2 * p])
    weight.sum().backward()
    assert pruner.after_backward(0)
    # h = g θ = [1, -2], both slopes p (1 - p), their mean -1/2: through m p (1 - p) [3/2, -3/2], times sign(θ)
    expected = [1 - p + 1.5 * p * (1 - p), p + 1.5 * p * (1 - p)]
    assert weight.grad.tolist() == pytest.approx(expected)
    optimizer.step()
    # after schedule.stop everything is frozen: only the kept weight learns, times its soft mask
    optimizer.zero_grad()
    pruner.before_forward(1)
    assert weight.tolist() == pytest.approx([0, (-2 - expected[1]) * p])
    weight.sum().backward()
    pruner.after_backward(1)
    assert weight.grad.tolist() == pytest.approx([0, p])


def make(target=0.8, allocation=None):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    parameters = {"conv1.weight": model.conv1.weight, "conv2.weight": model.conv2.weight}
    schedule = Linear(Clock(30), target, end="0.2", interval="1it", stop="0.8")
    weights = MaskedParameters(parameters, optimizer)
    return model, optimizer, Spartan(weights, schedule, allocation or Global())


@pytest.mark.parametrize("allocation", [Global, Uniform])
def test_soft_and_hard_masks_have_k_until_they_are_frozen(allocation):
    model, optimizer, pruner = make(allocation=allocation())
    frozen = None
    for step, batch in enumerate(data(30)):
        step_of(model, optimizer, pruner, step, *batch)
        weights = pruner.weights
        assert int((~weights.packed()).sum()) == pruner.target_zeros(step)
        kept, sums = weights.nonzero().tolist(), [float(m.sum()) for m in pruner.soft.m.values()]
        if allocation is Uniform:
            assert sums == pytest.approx(kept, rel=1e-3)
        assert sum(sums) == pytest.approx(sum(kept), rel=1e-3)
        assert step > 24 or pruner.sharpness(step) == pytest.approx(1 + 9 * step / 24)
        assert pruner.dense_gradient(step) == (step <= 24)
        if step > 24:
            now = (weights.fingerprint(), {name: m.clone() for name, m in pruner.soft.m.items()})
            frozen = frozen or now
            assert now[0] == frozen[0] and all(torch.equal(m, frozen[1][n]) for n, m in now[1].items())


def test_the_baked_model_computes_what_was_evaluated():
    model, optimizer, pruner = make()
    for step, batch in enumerate(data(30)):
        step_of(model, optimizer, pruner, step, *batch)
    inputs, _ = next(iter(data(1)))
    model.eval()
    with torch.no_grad(), pruner.evaluating():
        expected = model(inputs)
    pruner.on_end()
    with torch.no_grad(), pruner.evaluating():
        assert torch.equal(model(inputs), expected)
    assert sum(int((w != 0).sum()) for w in pruner.weights.parameters.values()) == 50  # 20 % of 252


def test_a_beta_below_1_is_refused():
    weights = MaskedParameters({"w": nn.Parameter(torch.ones(2))})
    with pytest.raises(SettingError, match=r"^beta=0.5: expected a sharpness of at least 1"):
        Spartan(weights, Constant(Clock(20), 0.5), Global(), beta=0.5)
