from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Uniform
from sparsebench.pruning.dynamic import momentum_magnitudes
from sparsebench.pruning.methods.snfs import SNFS
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Constant
from sparsebench.pruning.scores import Random
from sparsebench.training.flops import TrainingFLOPs, count_layers
from tests.support.small import probe

A = [0.9, -0.1, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
B = [0.5, 0.4, -0.6, 0.7, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def by_hand(momentum_a, momentum_b, **more):
    """Two layers of ten weights, the first four kept, just before an update that drops half."""
    a, b = nn.Parameter(torch.tensor(A)), nn.Parameter(torch.tensor(B))
    optimizer = torch.optim.SGD([a, b], lr=0.1, momentum=0.9)
    weights = MaskedParameters({"a": a, "b": b}, optimizer)
    schedule = Constant(Clock(100_001), 0.6, interval="1it")
    pruner = SNFS(weights, schedule, Uniform(), Random(), optimizer, **more)
    four = torch.arange(10) < 4
    weights.set_masks({"a": four, "b": four})
    optimizer.state[a]["momentum_buffer"] = torch.tensor(momentum_a)
    optimizer.state[b]["momentum_buffer"] = torch.tensor(momentum_b)
    return pruner, a, b


def kept(pruner):
    return [set(mask.nonzero().flatten().tolist()) for mask in pruner.weights.masks.values()]


def test_weights_move_to_the_layer_of_larger_momentum_by_hand():
    pruner, a, b = by_hand([3.0, -3, 3, 3, 0, 1, -9, 8, 7, 0], [1.0, 1, 1, 1, 0, 0, 5, 0, 0, 0])
    pruner.before_forward(1)
    # p = 1/2: of a go .1 and .2, of b .5 and .4, so K = 4; r = 3/4 and 1/4: three for a, one for b
    assert kept(pruner) == [{0, 2, 6, 7, 8}, {2, 3, 6}]
    assert a.tolist() == pytest.approx([0.9, 0, 0.3, *[0] * 7])
    assert b.tolist() == pytest.approx([0, 0, -0.6, 0.7, *[0] * 6])


def test_what_a_layer_has_no_room_for_goes_to_the_others_by_hand():
    pruner, *_ = by_hand([1.0] * 10, [0.0] * 10, drop_fraction=1.0)
    pruner.weights.set_masks({"a": torch.arange(10) < 8, "b": torch.arange(10) < 4})
    pruner.before_forward(1)
    # a: sparsity .2 is not below .2, so all but one go: 7; b: all but one of four: 3. r = 1 and 0, K = 10;
    # a has 9 zeros, room for ⌊8.91⌋ = 8, and 2 are left for b
    assert pruner.weights.nonzero().tolist() == [9, 3]


def test_a_layer_that_is_nearly_dense_and_growing_loses_little_by_hand():
    pruner, *_ = by_hand([*[1.0] * 9, 2.0], [0.0] * 10)
    pruner.weights.set_masks({"a": torch.arange(10) < 9, "b": torch.arange(10) < 4})
    pruner.before_forward(1)
    # a loses ⌈.1 · 9⌉ = 1 instead of 5, b half of 4; K = 3, a has room for ⌊.99 · 2⌋ = 1, b gets the other 2
    assert kept(pruner) == [{0, 1, 2, 3, 5, 6, 7, 8, 9}, {0, 1, 2, 3}]


def test_momentum_of_adam_is_relative_by_hand():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight])
    weights = MaskedParameters({"w": weight}, optimizer)
    assert momentum_magnitudes(weights)["w"].tolist() == [0, 0]
    optimizer.state[weight] = {"exp_avg": torch.tensor([-3.0, 1]), "exp_avg_sq": torch.tensor([4.0, 0])}
    assert momentum_magnitudes(weights)["w"].tolist() == pytest.approx([1.5, 1e8])


def run(optimizer_of, steps=20):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16, bias=False), nn.Tanh(), nn.Linear(16, 4, bias=False))
    optimizer = optimizer_of(model.parameters())
    weights = MaskedParameters({"0.weight": model[0].weight, "2.weight": model[2].weight}, optimizer)
    pruner = SNFS(weights, Constant(Clock(steps, 5), 0.8, interval="1ep"), Uniform(), Random(), optimizer)
    pruner.on_start(probe())
    flops = TrainingFLOPs(count_layers(model, (12,)), weights)
    generator, changed = torch.Generator().manual_seed(1), []
    for step in range(steps):
        optimizer.zero_grad()
        before, masks, sizes = (
            weights.version,
            {n: m.clone() for n, m in weights.masks.items()},
            momentum_magnitudes(weights),
        )
        pruner.before_forward(step)
        if weights.version > before:
            changed.append(step)
            for name, mask in weights.masks.items():
                grown, left = mask & ~masks[name], ~mask & ~masks[name]
                assert (weights.parameters[name][grown] == 0).all()
                assert not grown.any() or sizes[name][grown].min() >= sizes[name][left].max()
        flops.count(1, pruner.dense_gradient(step))
        nn.functional.cross_entropy(
            model(torch.randn(16, 12, generator=generator)), torch.randint(0, 4, (16,), generator=generator)
        ).backward()
        assert pruner.after_backward(step)
        optimizer.step()
        pruner.after_step(step)
        assert int(weights.packed().sum()) == 51  # of 256
        assert all((p[~weights.masks[n]] == 0).all() for n, p in weights.parameters.items())
    return weights, changed, flops


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    lambda p: torch.optim.AdamW(p, lr=0.01),
]


@pytest.mark.parametrize("optimizer_of", OPTIMIZERS)
def test_the_total_is_constant_and_what_grows_has_the_largest_momentum(optimizer_of):
    weights, changed, _ = run(optimizer_of)
    assert changed == [5, 10, 15]  # between epochs of five steps
    assert weights.nonzero().tolist() != [38, 13]  # layers have exchanged weights
    assert any((momentum_magnitudes(weights)[n][~m] != 0).any() for n, m in weights.masks.items())


def test_training_flops_are_those_of_a_dense_weight_gradient():
    model_share = 51 / 256
    *_, flops = run(OPTIMIZERS[0])
    assert flops.totals()[1] == pytest.approx((2 * model_share + 1) / 3)


def test_shares_of_the_layers_move_towards_their_shares_of_the_momentum():
    pruner, *_ = by_hand([4.0] * 10, [1.0] * 10, drop_fraction=0.9, final_drop_fraction=0.9)
    before = pruner.weights.nonzero().tolist()
    pruner.before_forward(1)
    after = pruner.weights.nonzero().tolist()
    assert before == [4, 4] and sum(after) == 8
    assert abs(after[0] / 8 - 0.8) < abs(before[0] / 8 - 0.8)


def test_an_optimizer_without_momentum_is_refused():
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weights = MaskedParameters({"w": weight}, optimizer)
    with pytest.raises(SettingError, match=r"^optimizer.momentum=0: expected"):
        SNFS(weights, Constant(Clock(9), 0.5), Uniform(), Random(), optimizer)
