from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Uniform
from sparsebench.pruning.methods.dsr import DSR
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Slowing
from sparsebench.pruning.scores import Random
from sparsebench.training.flops import TrainingFLOPs, count_layers
from tests.support.small import probe


def schedule(sparsity, steps=1000):
    return Slowing(Clock(steps), sparsity, doublings=[], interval="1it")


def by_hand(a, b, kept=4, **more):
    """Two layers of ten weights, of which the first four are kept."""
    first, second = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))
    optimizer = torch.optim.SGD([first, second], lr=0.1, momentum=0.9)
    weights = MaskedParameters({"a": first, "b": second}, optimizer)
    pruner = DSR(weights, schedule(1 - kept / 10), Uniform(), Random(), **more)
    weights.set_masks({"a": torch.arange(10) < kept, "b": torch.arange(10) < kept})
    weights.project_()
    pruner.generator.manual_seed(0)
    return pruner


def test_one_threshold_prunes_and_what_is_left_decides_who_grows_by_hand():
    pruner = by_hand([0.9, 0.8, -0.7, 0.6, *[0.0] * 6], [0.05, -0.09, 0.1, 0.5, *[0.0] * 6], threshold=0.1)
    pruner.before_forward(1)
    # .05 and -.09 are below H, .1 is not; of K = 2, a (4 of 6 left) grows 4/3 -> 1 and b 2/3 -> 1
    weights = pruner.weights
    assert weights.nonzero().tolist() == [5, 3]
    assert weights.masks["a"][:4].all() and weights.masks["b"][2:4].all()
    assert not weights.masks["b"][:2].any()  # not in the same update
    assert weights.parameters["b"].tolist() == pytest.approx([0, 0, 0.1, 0.5, *[0] * 6])


@pytest.mark.parametrize(
    ("drop_fraction", "threshold"),
    [
        (0.25, 0.1),  # N_p = 2, K = 2
        (0.125, 0.05),  # K = 2 is above 1.1
        (0.5, 0.2),  # K = 2 is below .9 · 4
    ],
)
def test_the_threshold_halves_doubles_or_stays_by_hand(drop_fraction, threshold):
    pruner = by_hand(
        [0.9, 0.8, -0.7, 0.6, *[0.0] * 6], [0.05, -0.09, 0.1, 0.5, *[0.0] * 6], threshold=0.1,
        drop_fraction=drop_fraction,
    )  # fmt: skip
    pruner.before_forward(1)
    assert pruner.threshold == threshold


def test_a_layer_keeps_one_weight_by_hand():
    pruner = by_hand([0.9, 0.8, -0.7, 0.6, *[0.0] * 6], [0.01, 0.02, 0.03, 0.04, *[0.0] * 6], threshold=0.1)
    pruner.before_forward(1)  # of K = 3, a (4 of 5 left) grows 2.4 -> 2 and b .6 -> 1
    assert pruner.weights.nonzero().tolist() == [6, 2]
    assert pruner.weights.parameters["b"].tolist() == pytest.approx([0, 0, 0, 0.04, *[0] * 6])


def test_no_more_is_pruned_than_there_is_room_to_grow():
    small = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.9, 0.0]
    pruner = by_hand(small, small, kept=9, threshold=0.1)
    pruner.before_forward(1)  # 16 are below H, and only the two zeros can grow
    assert [mask.tolist() for mask in pruner.weights.masks.values()] == [[False, *[True] * 9]] * 2


def test_the_threshold_finds_the_requested_number_and_stays_there():
    pruner = by_hand([1.0] * 10, [1.0] * 10)
    a, b = nn.Parameter(torch.zeros(2000)), nn.Parameter(torch.zeros(2000))
    weights = MaskedParameters({"a": a, "b": b})
    pruner = DSR(weights, schedule(0.5), Uniform(), Random(), drop_fraction=0.128, threshold=1e-3)
    weights.set_masks({"a": torch.arange(2000) < 1000, "b": torch.arange(2000) < 1000})
    pruned = []
    for step in range(1, 15):
        with torch.no_grad():  # the same uniform distribution every time
            for name, weight in weights.parameters.items():
                mask = weights.masks[name]
                count = int(mask.sum())
                weight[mask] = (torch.arange(count) + 0.5) / count
        before = weights.packed()
        pruner.before_forward(step)
        pruned.append(int((before & ~weights.packed()).sum()))
        assert int(weights.packed().sum()) == 2000
    assert pruned[0] == 2 and all(0.9 * 256 <= count <= 1.1 * 256 for count in pruned[-6:])


def test_training_keeps_the_total_moves_weights_between_layers_and_never_regrows_at_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16, bias=False), nn.Tanh(), nn.Linear(16, 4, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    weights = MaskedParameters({"0.weight": model[0].weight, "2.weight": model[2].weight}, optimizer)
    pruner = DSR(weights, schedule(0.8, 20), Uniform(), Random(), threshold=0.1)
    pruner.on_start(probe())
    flops = TrainingFLOPs(count_layers(model, (12,)), weights)
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        small = {n: m & (weights.parameters[n].abs() < pruner.threshold) for n, m in weights.masks.items()}
        version = weights.version
        pruner.before_forward(step)
        assert (weights.version > version) == (step > 0)
        for name, mask in weights.masks.items() if step else ():
            assert not (mask & small[name]).any() or int(mask.sum()) < 3
            assert (weights.parameters[name][~mask] == 0).all()
        flops.count(1, pruner.dense_gradient(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            model(torch.randn(16, 12, generator=generator)), torch.randint(0, 4, (16,), generator=generator)
        ).backward()
        assert pruner.after_backward(step)
        optimizer.step()
        pruner.after_step(step)
        assert int(weights.packed().sum()) == 51  # of 256
    assert weights.nonzero().tolist() != [38, 13]
    assert flops.totals()[1] == pytest.approx(51 / 256)  # 3 f_S: no dense gradient


def test_the_interval_doubles_by_hand():
    slowing = Slowing(Clock(40), 0.5, doublings=["11it", "0.5"], interval="2it", stop="35it")
    assert [t for t in range(40) if slowing.due(t)] == [0, 2, 4, 6, 8, 10, 11, 15, 19, 20, 28]


def test_the_paper_s_update_times_of_cifar(hydra_config):
    from sparsebench.config.build import build

    cfg, _ = hydra_config("prune=dsr")
    slowing = build(cfg.schedule, "schedule", clock=Clock(200 * 500, 500))
    due = [t for t in range(100_000) if slowing.due(t)]
    assert [slowing.phases[k] / 500 for k in range(4)] == [0, 25, 80, 140] and due[-1] <= 190 * 500
    gaps = {b - a for a, b in pairwise(due)}
    assert {100, 200, 400, 800} <= gaps


def test_the_threshold_continues_after_a_restart():
    a = by_hand([0.01] * 10, [0.9] * 10, threshold=0.1)
    b = by_hand([0.01] * 10, [0.9] * 10)
    b.load_state_dict(a.state_dict())
    assert b.threshold == 0.1
    for pruner in (a, b):
        pruner.before_forward(1)
    assert a.weights.fingerprint() == b.weights.fingerprint() and a.threshold == b.threshold != 0.1


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(SettingError, match=r"^threshold=0: expected"):
        by_hand([1.0] * 10, [1.0] * 10, threshold=0)
    with pytest.raises(SettingError, match=r"^doublings=.*: expected increasing times"):
        Slowing(Clock(40), 0.5, doublings=["20it", "10it"])
