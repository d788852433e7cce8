from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Uniform
from sparsebench.pruning.dynamic import best_inputs
from sparsebench.pruning.methods.srigl import SRigL
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Constant
from sparsebench.pruning.scores import Random
from sparsebench.training.flops import TrainingFLOPs, count_layers
from tests.support.small import probe

STEPS = 21


def pruner_of(weights, sparsity, optimizer=None, **more):
    masked = MaskedParameters(weights, optimizer)
    return SRigL(
        masked, Constant(Clock(STEPS), sparsity, interval="2it", stop="14it"), Uniform(), Random(), **more
    )


def test_best_inputs_by_hand():
    score = torch.tensor([[1.0, 3, 3], [2, 2, 2], [9, 8, 7]])
    active = torch.tensor([True, True, False])
    assert best_inputs(score, active, 1).int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert best_inputs(score, active, 2).int().tolist() == [[0, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert not best_inputs(score, active, 0).any()


def layer_by_hand():
    """Three neurons of four inputs, two of them kept, before the swap of two weights; and a last layer."""
    pruner = pruner_of({"a": nn.Parameter(torch.ones(3, 4)), "last": nn.Parameter(torch.ones(3, 4))}, 0.5)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    pruner.weights.set_masks({"a": mask, "last": mask})
    size = torch.tensor([[0.9, 0.8, 0, 0], [0.7, 0.6, 0, 0], [0.1, 0.2, 0, 0]])
    assert pruner.budgets == {"a": 6, "last": 6}
    return pruner, size


def test_a_neuron_without_salient_weights_is_ablated_by_hand():
    pruner, size = layer_by_hand()
    gradient = torch.tensor([[0, 0, 0.5, 0.4], [0, 0, 0.1, 0.2], [0, 0, 0, 0.3]])
    # two of six are swapped: both of neuron 2 go, and both gradients are in neuron 0, so 2 has none that is salient;
    # two neurons are left and k = 3: neuron 0 adds its input 2, neuron 1 its input 3
    mask = pruner.swap("a", size, gradient, 1 / 3)
    assert mask.int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]]


def test_the_last_layer_keeps_its_neurons_by_hand():
    pruner, size = layer_by_hand()
    gradient = torch.tensor([[0, 0, 0.5, 0.4], [0, 0, 0.1, 0.2], [0, 0, 0.1, 0.3]])
    mask = pruner.swap("last", size, gradient, 1 / 3)
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]


def test_an_ablated_neuron_comes_back_by_hand():
    pruner, size = layer_by_hand()
    pruner.weights.set_masks(
        {**pruner.weights.masks, "a": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]]) > 0}
    )
    gradient = torch.tensor([[0, 0, 0.1, 0], [0, 0, 0, 0.1], [0.9, 0.8, 0.7, 0.6]])
    mask = pruner.swap("a", size, gradient, 1 / 3)
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_so_many_neurons_stay_that_the_budget_fits():
    pruner, size = layer_by_hand()
    size[1:] = 0  # neuron 0 has everything: alone it has room for 4 of the 6 weights
    gradient = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0, 0, 0.1, 0.2], [0, 0, 0, 0.3]])
    mask = pruner.swap("a", size, gradient, 2 / 3)
    assert mask.sum(1).tolist() == [3, 3, 0]


def make(sparsity=0.8, **more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16, bias=False), nn.ReLU(), nn.Linear(16, 5, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    parameters = {"0.weight": model[0].weight, "2.weight": model[2].weight}
    pruner = pruner_of(parameters, sparsity, optimizer, **more)
    pruner.on_start(probe())
    return model, optimizer, pruner


def test_every_neuron_has_the_same_fan_in_or_none_and_layers_stay_just_below_their_share():
    model, optimizer, pruner = make(min_salient=1.0)
    assert pruner.budgets == {"0.weight": 64, "2.weight": 16}
    flops = TrainingFLOPs(count_layers(model, (20,)), pruner.weights)
    generator, stepped, kept, active = torch.Generator().manual_seed(1), [], [], []
    for step in range(STEPS):
        for name, mask in pruner.weights.masks.items():
            fan_in = mask.sum(1)
            on = int((fan_in > 0).sum())
            assert set(fan_in.tolist()) <= {0, int(fan_in.max())}
            assert pruner.budgets[name] - on < int(mask.sum()) <= pruner.budgets[name]
            assert name == "0.weight" or on == 5
            active.append(on)
        optimizer.zero_grad()
        flops.count(1, pruner.dense_gradient(step))
        kept.append((int(pruner.weights.packed().sum()), pruner.dense_gradient(step)))
        nn.functional.cross_entropy(
            model(torch.randn(16, 20, generator=generator)), torch.randint(0, 5, (16,), generator=generator)
        ).backward()
        if pruner.after_backward(step):
            optimizer.step()
            stepped.append(step)
        pruner.after_step(step)
        for name, parameter in pruner.weights.parameters.items():
            assert (parameter[~pruner.weights.masks[name]] == 0).all()
    assert [t for t in range(STEPS) if t not in stepped] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert min(active[::2]) < 16  # some neuron was ablated
    by_hand = sum(2 * n + (400 if dense else n) for n, dense in kept)
    assert flops.totals()[1] == pytest.approx(by_hand / (3 * 400 * STEPS))
    assert pruner.target_zeros(0) is None and pruner.scheduled_sparsity(0) == 0.8


def test_weights_are_scaled_to_the_deviation_of_their_fan_in():
    model, _, pruner = make()
    torch.manual_seed(0)
    dense = nn.Linear(20, 16, bias=False).weight
    mask = pruner.weights.masks["0.weight"]
    assert mask.sum(1).tolist() == [4] * 16
    torch.testing.assert_close(model[0].weight[mask], dense[mask] * math.sqrt(20 / 4))


def test_fewer_weights_than_neurons_start_with_one_input_each():
    *_, pruner = make(sparsity=0.97)
    assert pruner.budgets == {"0.weight": 10, "2.weight": 2}
    assert sorted(pruner.weights.masks["0.weight"].sum(1).tolist()) == [0] * 6 + [1] * 10


@pytest.mark.parametrize(("budget", "inputs"), [(12, 4), (0, 0)])
def test_a_layer_that_is_dense_or_empty_stays_so(budget, inputs):
    pruner, size = layer_by_hand()
    pruner.budgets["a"] = budget
    pruner.weights.set_masks({**pruner.weights.masks, "a": torch.full((3, 4), inputs > 0)})
    assert pruner.swap("a", size, size, 0.3).sum(1).tolist() == [inputs] * 3


def test_a_resumed_pruner_has_the_same_budgets():
    *_, pruner = make()
    *_, other = make()
    other.load_state_dict(pruner.state_dict())
    assert other.budgets == pruner.budgets


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_an_invalid_fraction_is_refused(share):
    with pytest.raises(SettingError, match=rf"^min_salient={share}: expected"):
        make(min_salient=share)
