from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.pruning.allocation import Uniform
from sparsebench.pruning.methods.set import SET
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.schedules import Constant
from sparsebench.pruning.scores import Random

VALUES = [0.5, -0.1, 0.3, -0.05, 0.2, 0.4, -0.7, 0.6]


def make(seed=0):
    weight = nn.Parameter(torch.tensor([VALUES]))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weights = MaskedParameters({"w": weight}, optimizer)
    pruner = SET(weights, Constant(Clock(12, 4), 0.5, interval="1ep"), Uniform(), Random(), drop_fraction=0.5)
    pruner.on_start(
        Probe(nn.Identity(), iter, nn.CrossEntropyLoss(), torch.Generator().manual_seed(seed), lambda: None)
    )
    with torch.no_grad():
        weight.copy_(torch.tensor([VALUES]))  # whole again: each test sets the masks it needs
    return weight, weights, pruner


def test_the_smallest_half_goes_and_others_come_by_hand():
    weight, weights, pruner = make()
    weights.set_masks({"w": torch.tensor([[True, True, False, False, False, False, True, True]])})
    weights.project_()
    pruner.before_forward(4)  # of .5, .1, .7, .6 the first two go
    mask = weights.masks["w"][0]
    assert mask.tolist()[6:] == [True, True] and int(mask.sum()) == 4
    assert (weight[0][2:6] == 0).all() and weight[0][6:].tolist() == pytest.approx([-0.7, 0.6])
    assert weight[0][:2].tolist() == pytest.approx([0.5 * mask[0].item(), -0.1 * mask[1].item()])


def test_masks_change_between_epochs_and_not_at_the_ends_of_the_training():
    _, weights, pruner = make()
    changed, last = [], weights.fingerprint()
    for step in range(12):
        pruner.before_forward(step)
        if weights.fingerprint() != last:
            changed.append(step)
            last = weights.fingerprint()
        assert int(weights.packed().sum()) == 4
    assert changed == [4, 8]  # epochs of four steps


def test_growing_is_uniform_among_what_is_not_kept():
    counts = torch.zeros(8)
    for seed in range(400):
        _, weights, pruner = make(seed)
        weights.set_masks({"w": torch.tensor([[True, True, False, False, False, False, True, True]])})
        weights.project_()
        pruner.before_forward(4)
        counts += weights.masks["w"][0]
    grown = counts[:6] / 400  # two of these six grow: each with probability 1/3
    assert torch.all((grown - 1 / 3).abs() < 5 * (2 / 9 / 400) ** 0.5)


def test_the_generator_continues_after_a_restart():
    _, weights, pruner = make()
    state = pruner.state_dict()
    pruner.before_forward(4)
    _, other, again = make(seed=5)
    again.load_state_dict(state)
    again.before_forward(4)
    assert other.fingerprint() == weights.fingerprint()
