from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Uniform, zeros_for
from sparsebench.pruning.methods.mest import MEST
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Constant
from sparsebench.pruning.scores import Random
from sparsebench.training.flops import TrainingFLOPs, count_layers
from tests.support.small import probe

STEPS = 20


def make(sparsity=0.8, **more):
    """Updates at 3, 6, 9, ...; stages from 8 and 16."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10, bias=False), nn.Tanh(), nn.Linear(10, 5, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    parameters = {"0.weight": model[0].weight, "2.weight": model[2].weight}
    settings = {"stages": ["0.4", "16it"], **more}
    schedule = Constant(Clock(STEPS), sparsity, interval="3it")
    pruner = MEST(
        MaskedParameters(parameters, optimizer), schedule, Uniform(), Random(), Clock(STEPS), **settings
    )
    pruner.on_start(probe())
    return model, optimizer, pruner


def train(model, optimizer, pruner, look):
    generator = torch.Generator().manual_seed(1)
    flops = TrainingFLOPs(count_layers(model, (20,)), pruner.weights)
    for step in range(STEPS):
        optimizer.zero_grad()
        flops.count(1, pruner.dense_gradient(step))
        nn.functional.cross_entropy(
            model(torch.randn(16, 20, generator=generator)), torch.randint(0, 5, (16,), generator=generator)
        ).backward()
        assert pruner.after_backward(step)
        optimizer.step()
        masks = {n: m.clone() for n, m in pruner.weights.masks.items()}
        sizes = {n: p.detach().abs() for n, p in pruner.weights.parameters.items()}
        pruner.after_step(step)
        look(step, masks, sizes)
    return flops


def by_hand(soft_bound, **more):
    """Ten weights, just before an update with p = 0.2 at a target of 0.6."""
    weight = nn.Parameter(torch.tensor([0.9, -0.1, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weights = MaskedParameters({"w": weight}, optimizer)
    schedule = Constant(Clock(STEPS), 0.6, interval="3it")
    settings = {"margins": [0.5, 0.0], "stages": ["10it"], **more}
    pruner = MEST(weights, schedule, Uniform(), Random(), Clock(STEPS), soft_bound=soft_bound, **settings)
    pruner.generator.manual_seed(0)
    optimizer.state[weight]["momentum_buffer"] = torch.ones(10)
    return pruner, weight


def test_elastic_mutation_by_hand():
    pruner, weight = by_hand(soft_bound=False)
    pruner.weights.set_masks({"w": torch.arange(10) < 4})
    pruner.after_step(3)  # to sparsity .8: .1 and .2 go; to .6: two others come
    mask = pruner.weights.masks["w"]
    assert int(mask.sum()) == 4 and mask[0] and mask[2]
    assert weight.tolist() == pytest.approx([0.9, 0, 0.3, *[0] * 7])
    momentum = pruner.weights.optimizer.state[weight]["momentum_buffer"]
    assert momentum.tolist() == [1, 0, 1, *[0] * 7]


def test_the_soft_bound_by_hand():
    pruner, weight = by_hand(soft_bound=True)
    assert [pruner.target_zeros(t) for t in (0, 9, 10, 19)] == [4, 4, 6, 6]
    pruner.weights.set_masks({"w": torch.arange(10) < 6})  # two of the six have just been grown
    pruner.after_step(3)  # to sparsity .6: those two go; to .4: two come
    mask = pruner.weights.masks["w"]
    assert int(mask.sum()) == 6 and bool(mask[:4].all())
    assert weight.tolist() == pytest.approx([0.9, -0.1, 0.3, 0.2, *[0] * 6])
    pruner.after_step(10)  # the last stage: to .6, and nothing comes
    assert pruner.weights.masks["w"].tolist() == [True] * 4 + [False] * 6


def test_the_gradient_has_its_weight_by_hand():
    pruner, weight = by_hand(soft_bound=False, gradient_weight=2.0)
    pruner.weights.set_masks({"w": torch.arange(10) < 4})
    weight.grad = torch.tensor([0.0, 0.45, 0.0, -0.1, *[0.0] * 6])
    pruner.after_step(3)  # scores .9, 1., .3, .4
    assert weight.tolist() == pytest.approx([0.9, -0.1, *[0] * 8])


@pytest.mark.parametrize(
    ("soft_bound", "margins", "sparsities"),
    [
        (False, [0.2, 0.1, 0.0], [0.8, 0.8, 0.8]),
        (True, [0.2, 0.1, 0.0], [0.76, 0.78, 0.8]),
    ],
)
def test_updates_stages_and_sparsities(soft_bound, margins, sparsities):
    model, optimizer, pruner = make(soft_bound=soft_bound, margins=margins)
    weights, kept = pruner.weights, [int(pruner.weights.packed().sum())]
    grown = {}

    def look(step, masks, sizes):
        stage = 0 if step < 8 else 1 if step < 16 else 2
        zeros = int((~weights.packed()).sum())
        kept.append(250 - zeros)
        assert zeros == pruner.target_zeros(step) == zeros_for(sparsities[stage], 250)
        for name, mask in weights.masks.items():
            new, gone = mask & ~masks[name], masks[name] & ~mask
            grown[step] = grown.get(step, 0) + int(new.sum())
            assert not gone.any() or sizes[name][gone].max() <= sizes[name][mask & masks[name]].max()
            assert (weights.parameters[name][~mask | new] == 0).all()

    flops = train(model, optimizer, pruner, look)
    assert [t for t in range(STEPS) if pruner.updates(t)] == [3, 6, 8, 9, 12, 15, 16, 18]
    assert {t for t, count in grown.items() if count} <= {3, 6, 8, 9, 12, 15}
    assert grown[3] + grown[6] > 0
    assert max(kept) == 250 - zeros_for(sparsities[0], 250)  # the peak: 1 - (s - p)
    assert kept[-1] == 50
    assert flops.totals()[1] == pytest.approx(sum(kept[:-1]) / (250 * STEPS))  # 3 f_S: no dense gradient


def test_the_paper_s_sparsities_are_those_of_the_default():
    *_, pruner = make(sparsity=0.9, soft_bound=True)
    assert [pruner.scheduled_sparsity(t) for t in (0, 8, 16)] == pytest.approx([0.88, 0.89, 0.9])


def test_a_target_below_the_margin_is_dense_at_first():
    *_, pruner = make(sparsity=0.01, soft_bound=True)
    assert pruner.scheduled_sparsity(0) == 0 and pruner.scheduled_sparsity(19) == 0.01


@pytest.mark.parametrize(
    ("setting", "more"),
    [
        ("margins", {"margins": [1.0, 0.1, 0.0]}),
        ("margins", {"margins": [-0.1, 0.1, 0.0]}),
        ("margins", {"margins": [0.1, 0.1, 0.1], "soft_bound": True}),
        ("stages", {"margins": [0.1, 0.0]}),
        ("stages", {"stages": ["8it", "8it"]}),
        ("stages", {"stages": ["0it", "8it"]}),
        ("stages", {"stages": ["8it", "1.0"]}),
        ("margins", {"margins": [], "stages": []}),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, more):
    with pytest.raises(SettingError, match=rf"^{setting}=.*: expected"):
        make(**more)
