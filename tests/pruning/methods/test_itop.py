from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Uniform
from sparsebench.pruning.methods.itop import ITOP
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Constant
from sparsebench.pruning.scores import Random
from sparsebench.training.flops import TrainingFLOPs, count_layers
from tests.support.small import probe

STEPS = 21


def make(sparsity=0.75, interval="5it", **more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10), nn.Tanh(), nn.Linear(10, 4, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    weights = MaskedParameters({"0.weight": model[0].weight, "2.weight": model[2].weight}, optimizer)
    pruner = ITOP(weights, Constant(Clock(STEPS), sparsity, interval=interval), Uniform(), Random(), **more)
    pruner.on_start(probe())
    return model, optimizer, pruner


def train(model, optimizer, pruner, look):
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            model(torch.randn(16, 20, generator=generator)), torch.randint(0, 4, (16,), generator=generator)
        ).backward()
        dense = {n: p.grad.abs() for n, p in pruner.weights.parameters.items()}
        assert pruner.after_backward(step)
        optimizer.step()
        before = {n: (m.clone(), pruner.weights.parameters[n].abs()) for n, m in pruner.weights.masks.items()}
        pruner.after_step(step)
        look(step, before, dense)


def test_one_update_by_hand():
    weight = nn.Parameter(torch.tensor([0.5, -0.1, 0.3, -0.05, 0.0, 0.0]))
    weights = MaskedParameters({"w": weight})
    pruner = ITOP(weights, Constant(Clock(9), 0.3, interval="8it"), Uniform(), Random())
    weights.set_masks({"w": torch.tensor([True, True, True, True, False, False])})
    weight.grad = torch.tensor([9.0, 0.1, 9.0, 0.2, -0.3, 0.4])
    assert pruner.after_backward(8) and weight.grad.tolist()[4:] == [0, 0]  # no step for what is pruned
    pruner.after_step(8)  # the last step: ⌈0.005 · 4⌉ = 1 is dropped, and the largest gradient grown
    assert weights.masks["w"].tolist() == [True, True, True, False, False, True]
    assert weight.tolist() == pytest.approx([0.5, -0.1, 0.3, 0, 0, 0])


def test_masks_change_every_interval_up_to_the_end_by_a_falling_fraction_that_is_exact():
    model, optimizer, pruner = make()
    counts, changed = pruner.weights.nonzero().tolist(), {}

    def look(step, before, dense):
        assert pruner.weights.nonzero().tolist() == counts
        swapped = 0
        for name, (mask, size) in before.items():
            now = pruner.weights.masks[name]
            grown, dropped = now & ~mask, mask & ~now
            if grown.any():
                swaps = math.ceil(pruner.fraction(step) * int(mask.sum()))
                assert size[dropped].max() <= size[mask].sort().values[swaps - 1]
                assert dense[name][grown].min() >= dense[name][~mask & ~now].max()
                swapped += int(grown.sum())
        if swapped:
            changed[step] = swapped

    train(model, optimizer, pruner, look)
    assert [t for t in range(STEPS) if pruner.updates(t)] == [5, 10, 15, 20]
    assert list(changed) and set(changed) <= {5, 10, 15, 20}
    assert pruner.fraction(0) == 0.5 and pruner.fraction(20) == pytest.approx(0.005)
    assert pruner.fraction(10) == pytest.approx((0.5 + 0.005) / 2)


@pytest.mark.parametrize("growth", ["gradient", "random"])
def test_the_exploration_rate_starts_at_the_density_and_only_rises(growth):
    model, optimizer, pruner = make(growth=growth)
    exploration_rate = [pruner.weights.exploration_rate()]
    assert exploration_rate == [0.25]
    train(model, optimizer, pruner, lambda *_: exploration_rate.append(pruner.weights.exploration_rate()))
    assert exploration_rate == sorted(exploration_rate) and 0.25 < exploration_rate[-1] <= 1


def test_training_flops_by_hand():
    model, optimizer, pruner = make()
    flops = TrainingFLOPs(count_layers(model, (20,)), pruner.weights)

    def look(step, *_):
        flops.count(1, pruner.dense_gradient(step))

    train(model, optimizer, pruner, look)
    sparse, dense, updates = 0.25, 1, 4
    expected = (3 * sparse * (STEPS - updates) + updates * (2 * sparse + dense)) / (3 * dense * STEPS)
    assert flops.totals()[1] == pytest.approx(expected)


def test_growing_at_random_needs_no_dense_gradient():
    *_, pruner = make(growth="random")
    assert not any(pruner.dense_gradient(t) for t in range(STEPS))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("growth", "gradients"),
        ("drop_fraction", 0),
        ("final_drop_fraction", 0.6),
        ("final_drop_fraction", -1),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, value):
    with pytest.raises(SettingError, match=rf"^{setting}={value}: expected"):
        make(**{setting: value})
