from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.models.mlp import MLP
from sparsebench.models.resnet import ResNet
from sparsebench.pruning.allocation import Global
from sparsebench.pruning.methods.sbp_sr import SBPSR
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.schedules import Constant
from sparsebench.pruning.scores import Magnitude

GENERATOR = torch.Generator()


def make(parameters, sparsity):
    weights = MaskedParameters(parameters)
    return SBPSR(weights, Constant(Clock(10), sparsity), Global(), Magnitude())


def alpha(weight):
    return weight[0].numel() * weight.double().square().mean().item()


def test_two_weights_by_hand():
    weight = nn.Parameter(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))  # fan-in 2, mean square 2.5: alpha 5
    make({"w": weight}, 0.5).rescale_()
    torch.testing.assert_close(weight.detach(), torch.tensor([[3.0, 0.0], [0.0, 1.0]]) * math.sqrt(2 / 5))


def test_a_pruned_layer_is_put_back_at_the_edge_of_chaos():
    GENERATOR.manual_seed(0)
    weight = nn.Parameter(torch.randn(1000, 1000, generator=GENERATOR) * math.sqrt(2 / 1000))
    dense = weight.detach().clone()
    pruner = make({"w": weight}, 0.9)
    pruner.rescale_()
    assert (weight / dense).mean().item() == pytest.approx(1, abs=0.002)  # a dense layer is there already
    with torch.no_grad():
        weight.copy_(dense * (torch.rand(1000, 1000, generator=GENERATOR) < 0.1))
    assert alpha(weight) == pytest.approx(0.2, abs=0.005)
    kept = weight.detach().clone()
    pruner.rescale_()
    rho = (weight[kept != 0] / kept[kept != 0]).unique().mean().item()
    assert rho == pytest.approx(3.15, abs=0.04)
    assert alpha(weight) == pytest.approx(2, rel=1e-6)


def test_a_layer_without_weights_stays_as_it_is():
    weight = nn.Parameter(torch.zeros(2, 2))
    make({"w": weight}, 0.5).rescale_()
    assert weight.tolist() == [[0, 0], [0, 0]]


def probe(model, inputs, targets):
    return Probe(model, lambda: iter([(inputs, targets)]), nn.CrossEntropyLoss(), GENERATOR, lambda: None)


def test_every_layer_starts_at_the_edge_of_chaos_is_pruned_by_snip_and_ends_there():
    GENERATOR.manual_seed(0)
    model = MLP((1, 8, 8), 10, hidden=[200, 200, 200])
    parameters = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    pruner = make(parameters, 0.8)
    pruner.on_start(probe(model, torch.randn(64, 1, 8, 8, generator=GENERATOR), torch.arange(64) % 10))
    assert int((~pruner.weights.packed()).sum()) == round(0.8 * pruner.weights.numel)
    for name, weight in parameters.items():
        assert alpha(weight) == pytest.approx(2, rel=1e-6)
        assert (weight[~pruner.weights.masks[name]] == 0).all()


def mean_square_scores(weight_variance, bias_variance, depth=16, width=200):
    """E[(W^l ∂L/∂W^l)²] of every layer of a ReLU network, for a loss with gradient N(0, 1) at the output."""
    GENERATOR.manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=GENERATOR)

    weights = [
        (normal(width, width) * math.sqrt(weight_variance / width)).requires_grad_() for _ in range(depth)
    ]
    x = normal(256, width)
    for weight in weights:
        x = torch.relu(x @ weight.T + normal(width) * math.sqrt(bias_variance))
    (x * normal(256, width)).sum().backward()
    return [(weight * weight.grad).square().mean().item() for weight in weights]


def test_scores_are_even_across_depth_at_the_edge_of_chaos_and_exponential_off_it():
    even, uneven = mean_square_scores(2.0, 0.0), mean_square_scores(1.0, 1.0)
    assert max(even) / min(even) < 5
    assert max(uneven) / min(uneven) > 1000
    # off the edge, χ = σ_w² / 2 = 1/2: the gradient halves with every layer on its way back
    assert (uneven[-1] / uneven[0]) ** (1 / 15) == pytest.approx(2, rel=0.15)


def test_a_stable_resnet_does_not_grow_with_depth():
    def growth(depth, stable):
        torch.manual_seed(0)
        model = ResNet((3, 16, 16), 10, depth=depth, width=8, stable=stable)
        x = model.relu(model.stem(torch.randn(32, 3, 16, 16)))
        before = x.square().mean().item()
        for block in model.stages[0]:  # no shape changes here
            x = block(x)
        return x.square().mean().item() / before, model

    (plain_20, _), (plain_110, _) = growth(20, False), growth(110, False)
    (stable_20, _), (stable_110, model) = growth(20, True), growth(110, True)
    assert plain_110 > 4 * plain_20
    assert stable_110 == pytest.approx(stable_20, rel=0.3) and stable_110 < math.exp(1.0)
    assert model.name == "resnet110_stable_w8"
    assert model.stages[0][0].scale == pytest.approx(54**-0.5)
