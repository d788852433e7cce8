from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Uniform, zeros_for
from sparsebench.pruning.methods.granet import GraNet
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Cubic
from sparsebench.pruning.scores import Random
from sparsebench.training.flops import TrainingFLOPs, count_layers
from tests.support.small import probe

STEPS = 21


def make(sparsity=0.9, **more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10), nn.Tanh(), nn.Linear(10, 4, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    weights = MaskedParameters({"0.weight": model[0].weight, "2.weight": model[2].weight}, optimizer)
    schedule = Cubic(Clock(STEPS), sparsity, end="12it", interval="4it")
    pruner = GraNet(weights, schedule, Uniform(), Random(), **more)
    pruner.on_start(probe())
    return model, optimizer, pruner


def train(model, optimizer, pruner, look):
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            model(torch.randn(16, 20, generator=generator)), torch.randint(0, 4, (16,), generator=generator)
        ).backward()
        assert pruner.after_backward(step)
        optimizer.step()
        pruner.after_step(step)
        look(step)


def test_one_update_by_hand():
    a = nn.Parameter(torch.tensor([0.9, 0.8, -0.7, 0.05, 0.0, 0.0]))
    b = nn.Parameter(torch.tensor([0.6, -0.1, 0.0, 0.0]))
    weights = MaskedParameters({"a": a, "b": b})
    pruner = GraNet(weights, Cubic(Clock(9), 0.6, end="4it", interval="4it"), Uniform(), Random(), 0.6)
    assert [pruner.scheduled_sparsity(t) for t in (0, 3, 4, 8)] == pytest.approx([0.4, 0.4, 0.6, 0.6])
    weights.set_masks(
        {
            "a": torch.tensor([True, True, True, True, False, False]),
            "b": torch.tensor([True, True, False, False]),
        }
    )
    a.grad = torch.tensor([9.0, 9, 9, 1, 2, 3])
    b.grad = torch.tensor([9.0, 3, 1, 2])
    pruner.after_backward(4)
    pruner.after_step(4)
    # (1) of six weights, the smallest two go: .05 and -.1; (2) p = .2525: ⌈.7575⌉ of a's three (-.7) and ⌈.2525⌉ of
    # b's one (.6) go, and the largest gradients grow: those of -.7 and .6 themselves
    assert weights.masks["a"].tolist() == [True, True, True, False, False, False]
    assert weights.masks["b"].tolist() == [True, False, False, False]
    a.grad, b.grad = torch.tensor([9.0, 9, 1, 2, 3, 4]), torch.tensor([1.0, 2, 3, 4])
    pruner.after_backward(8)
    pruner.after_step(8)  # after the ramp only (2), of one weight a layer
    assert weights.masks["a"].tolist() == [True, True, False, False, False, True]
    assert weights.masks["b"].tolist() == [False, False, False, True]
    assert a.tolist() == pytest.approx([0.9, 0.8, 0, 0, 0, 0]) and b.tolist() == [0, 0, 0, 0]


def test_sparsity_rises_from_the_initial_to_the_target_and_regrowing_keeps_every_layer():
    model, optimizer, pruner = make()
    weights, seen, pruned_to = pruner.weights, [], []
    set_masks = weights.set_masks

    def watch(masks):
        set_masks(masks)
        pruned_to.append((weights.nonzero().tolist(), int((~weights.packed()).sum())))

    weights.set_masks = watch
    train(model, optimizer, pruner, lambda step: seen.append(int((~weights.packed()).sum())))
    share = [0] * 4 + [1 - (2 / 3) ** 3] * 4 + [1 - (1 / 3) ** 3] * 4 + [1] * 9
    assert seen == [zeros_for(0.5 + 0.4 * s, 240) for s in share]
    assert len(pruned_to) == 3 * 2 + 2  # three that prune and regrow, two that only regrow
    for pruned, regrown in (pruned_to[0:2], pruned_to[2:4], pruned_to[4:6]):
        assert pruned == regrown  # the same number in every layer
    assert pruned_to[5:] == [pruned_to[5]] * 3


def test_dense_to_sparse_starts_with_everything():
    *_, pruner = make(initial_density=1.0)
    assert (
        pruner.scheduled_sparsity(0) == 0
        and bool(pruner.weights.packed().all())
        and pruner.scheduled_sparsity(20) == 0.9
    )


def test_a_target_below_the_initial_sparsity_starts_at_the_target():
    *_, pruner = make(sparsity=0.3)
    assert {pruner.scheduled_sparsity(t) for t in range(STEPS)} == {0.3}


def test_training_flops_by_hand():
    model, optimizer, pruner = make()
    flops, samples = TrainingFLOPs(count_layers(model, (20,)), pruner.weights), []
    zeros = [pruner.target_zeros(0)]

    def look(step):
        samples.append((zeros[-1], pruner.dense_gradient(step)))
        zeros.append(pruner.target_zeros(step))

    backward = pruner.after_backward
    pruner.after_backward = lambda step: (flops.count(1, pruner.dense_gradient(step)), backward(step))[1]
    train(model, optimizer, pruner, look)
    by_hand = sum(2 * (240 - z) + (240 if dense else 240 - z) for z, dense in samples)
    assert [t for t, (_, dense) in enumerate(samples) if dense] == [4, 8, 12, 16, 20]
    assert flops.totals()[1] == pytest.approx(by_hand / (3 * 240 * STEPS))


@pytest.mark.parametrize("density", [0, 1.5])
def test_an_initial_density_that_is_none_is_refused(density):
    with pytest.raises(SettingError, match=rf"^initial_density={density}: expected"):
        make(initial_density=density)
