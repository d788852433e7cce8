from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Uniform
from sparsebench.pruning.dynamic import cosine, drop_and_grow
from sparsebench.pruning.methods.rigl import RigL
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Constant
from sparsebench.pruning.scores import Random

WEIGHT = torch.tensor([0.5, -0.1, 0.3, -0.05, 0.0, 0.0])
MASK = torch.tensor([True, True, True, True, False, False])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_overflowed_leaves_the_number_of_weights_exact(bad):
    for gradient in (torch.full((6,), bad), torch.tensor([1, 1, 1, 1, bad, bad])):
        assert int(drop_and_grow(MASK, 3, WEIGHT.abs(), gradient).sum()) == int(MASK.sum())


@pytest.mark.parametrize(
    ("gradient", "kept"),
    [
        ([9, 0.1, 9, 0.2, 0.3, 0.4], {0, 2, 4, 5}),
        ([9, 0.5, 9, 0.2, 0.3, 0.4], {0, 1, 2, 5}),  # weight 1 is dropped and grows again
    ],
)
def test_drop_and_grow_by_hand(gradient, kept):
    mask = drop_and_grow(MASK, 2, WEIGHT.abs(), torch.tensor(gradient))
    assert set(mask.nonzero().flatten().tolist()) == kept


def test_the_share_that_is_swapped_falls_along_a_cosine():
    assert [cosine(0.3, t, 75_000) for t in (0, 25_000, 37_500, 50_000, 75_000, 75_001)] == pytest.approx(
        [0.3, 0.225, 0.15, 0.075, 0, 0]
    )


def make(target=0.5, interval="2it", stop="8it", **more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    weights = MaskedParameters({"0.weight": model[0].weight, "2.weight": model[2].weight}, optimizer)
    schedule = Constant(Clock(20), target, interval=interval, stop=stop)
    pruner = RigL(weights, schedule, Uniform(), Random(), **more)
    pruner.update_masks(0, torch.Generator().manual_seed(0))
    weights.project_()
    return model, optimizer, pruner


def train(model, optimizer, pruner, look):
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            model(torch.randn(16, 12, generator=generator)), torch.randint(0, 4, (16,), generator=generator)
        ).backward()
        before = {n: p.detach().clone() for n, p in pruner.weights.parameters.items()}
        masks = {n: m.clone() for n, m in pruner.weights.masks.items()}
        stepping = pruner.after_backward(step)
        if stepping:
            optimizer.step()
        pruner.after_step(step)
        look(step, stepping, before, masks)


def test_updates_replace_optimizer_steps_and_keep_the_number_of_weights_of_every_layer():
    model, optimizer, pruner = make()
    weights, updates, changed = pruner.weights, [], []
    counts = weights.nonzero().tolist()

    def look(step, stepping, before, masks):
        assert weights.nonzero().tolist() == counts
        if stepping:
            assert all(torch.equal(masks[n], m) for n, m in weights.masks.items())
            return
        updates.append(step)
        for name, parameter in weights.parameters.items():
            stays, grown = masks[name] & weights.masks[name], weights.masks[name] & ~masks[name]
            changed.append(int(grown.sum()))
            assert torch.equal(parameter[stays], before[name][stays])  # no optimiser step
            assert (parameter[~stays] == 0).all()  # dropped, grown and pruned alike
            momentum = optimizer.state[parameter].get("momentum_buffer")
            assert momentum is None or (momentum[~stays] == 0).all()

    train(model, optimizer, pruner, look)
    assert updates == [0, 2, 4, 6, 8]  # ⌊T_end / ΔT⌋ + 1
    assert any(changed)


def test_what_grows_has_the_largest_gradients():
    model, optimizer, pruner = make(interval="4it", stop="4it")

    def look(step, stepping, before, masks):
        if stepping:
            return
        for name, parameter in pruner.weights.parameters.items():
            new, old, gradient = pruner.weights.masks[name], masks[name], parameter.grad.abs()
            grown, left = new & ~old, ~new & ~old
            if grown.any() and left.any():
                assert gradient[grown].min() >= gradient[left].max()

    train(model, optimizer, pruner, look)


def test_the_number_that_is_swapped_is_rounded_down_in_every_layer():
    *_, pruner = make()
    weights, before = pruner.weights, {name: mask.clone() for name, mask in pruner.weights.masks.items()}
    for name, parameter in weights.parameters.items():
        parameter.grad = (~before[name]).float()  # so that nothing that is dropped grows again
    assert not pruner.after_backward(0)
    pruner.after_step(0)
    swapped = [int((weights.masks[name] & ~mask).sum()) for name, mask in before.items()]
    assert swapped == [14, 4]  # of 0.3 · 48 = 14.4 and 0.3 · 16 = 4.8


def test_dense_gradients_are_counted_on_updates_only():
    *_, pruner = make()
    assert [t for t in range(20) if pruner.dense_gradient(t)] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("fraction", [0, 1.5, -0.1])
def test_a_drop_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(SettingError, match=rf"^drop_fraction={fraction}: expected"):
        make(drop_fraction=fraction)
