from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.config.build import build
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.prunable import Prunable
from sparsebench.training.flops import TrainingFLOPs, count_layers, dead_outputs, effective_nonzeros, nonzeros
from tests.support.configs import options


class Chain(nn.Module):
    """conv 1->2 (3x3), conv 2->2 (1x1), max pool, linear 8->2 on 4x4 images."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(2)
        self.relu = nn.ReLU()
        self.b = nn.Conv2d(2, 2, 1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.pool(self.b(self.relu(self.bn(self.a(x))))).flatten(1))


NAMES = ["a.weight", "b.weight", "fc.weight"]


def chain():
    torch.manual_seed(0)
    return Chain()


def test_macs_by_hand():
    layers = count_layers(chain(), (1, 4, 4))
    assert [(x.name, x.weights, x.macs) for x in layers] == [
        ("a.weight", 18, 18 * 16), ("b.weight", 4, 4 * 16), ("fc.weight", 16, 16),
    ]  # fmt: skip


def test_macs_of_torchvision_resnet50():
    from torchvision.models import resnet50

    with torch.device("meta"):
        model = resnet50()
    assert sum(layer.macs for layer in count_layers(model, (3, 224, 224))) == 4_089_184_256


def test_counting_leaves_modes_and_batch_statistics_alone():
    model = chain().train()
    model.b.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count_layers(model, (1, 4, 4))
    assert model.training and model.a.training and not model.b.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_everything_is_effective_in_a_full_network():
    assert effective_nonzeros(chain(), (1, 4, 4), NAMES) == 18 + 4 + 16


def test_a_dead_filter_kills_what_leaves_it():
    model = chain()
    with torch.no_grad():
        model.a.weight[1] = 0  # 9 weights; then b's input 1 (2 weights) is reached by nothing
    assert effective_nonzeros(model, (1, 4, 4), NAMES) == 9 + 2 + 16
    assert dead_outputs(model.a.weight) == 1


def test_a_unit_that_nobody_listens_to_kills_what_enters_it():
    model = chain()
    with torch.no_grad():
        model.fc.weight[:, 4:] = 0  # all that listens to b's output 1: 8 weights
    assert effective_nonzeros(model, (1, 4, 4), NAMES) == 18 + 2 + 8


def test_effective_count_is_idempotent_and_leaves_the_model_alone():
    model = chain()
    with torch.no_grad():
        model.a.weight[1] = 0
        model.b.weight[:, 1] = 0
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count = effective_nonzeros(model, (1, 4, 4), NAMES)
    assert count == sum(nonzeros(model)[name] for name in NAMES)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["mobilenet", "vgg", "wide_resnet", "lenet", "mobilenet_v3_small", "efficientnet_b0"]
)
def test_everything_is_effective_in_every_architecture(hydra_config, name):
    ours = name in options("model")
    cfg, _ = (
        hydra_config(f"model={name}") if ours else hydra_config("model=torchvision", f"model.name={name}")
    )
    shape = (3, 32, 32) if ours else (3, 96, 96)  # or kernels would reach beyond the last maps, into padding
    model = build(cfg.model, input_shape=shape, num_classes=10)
    names = list(Prunable(last_fc=True).select(model))
    total = sum(count for name, count in nonzeros(model).items() if name in names)
    assert effective_nonzeros(model, shape, names) == total


def test_attention_is_not_counted():
    assert effective_nonzeros(nn.TransformerEncoderLayer(4, 1), (2, 4), []) is None


def flops_of(kept_share, dense_gradient, steps=101):
    """A counter over one linear layer of 1000 weights and steps of 4 samples."""
    model = nn.Linear(100, 10, bias=False)
    weights = MaskedParameters({"weight": model.weight})
    counter = TrainingFLOPs(count_layers(model, (100,)), weights)
    mask = torch.zeros(1000, dtype=torch.bool)
    mask[: int(1000 * kept_share)] = True
    weights.set_masks({"weight": mask.view(10, 100)})
    for step in range(steps):
        counter.count(4, dense_gradient(step))
    return counter


@pytest.mark.parametrize(
    ("dense_gradient", "ratio"),
    [
        (lambda t: False, 0.1),  # static sparse training: 3 f_S
        (lambda t: True, (2 * 0.1 + 1) / 3),  # DPF at its target: 2 f_S + f_D
        (lambda t: t == 100, 0.10297),  # RigL, one mask update in 101 steps
    ],
)
def test_training_flops_of_each_kind_by_hand(dense_gradient, ratio):
    total, found, with_dense_gradient = flops_of(0.1, dense_gradient).totals()
    assert found == pytest.approx(ratio, abs=5e-6)
    assert total == pytest.approx(ratio * 3 * 2 * 1000 * 4 * 101, rel=1e-4)
    assert with_dense_gradient == pytest.approx((2 * 0.1 + 1) / 3)


def test_dense_training_costs_three_forwards():
    assert flops_of(1.0, lambda t: False).totals() == (3 * 2 * 1000 * 4 * 101, 1.0, 1.0)


def test_cost_follows_the_masks_through_a_ramp():
    model = nn.Linear(10, 1, bias=False)
    weights = MaskedParameters({"weight": model.weight})
    counter = TrainingFLOPs(count_layers(model, (10,)), weights)
    for kept in (10, 6, 6, 2):  # steps of one sample
        weights.set_masks({"weight": (torch.arange(10) < kept).view(1, 10)})
        counter.count(1, dense_gradient=False)
    state = counter.state_dict()
    assert counter.totals()[0] == 2 * 3 * (10 + 6 + 6 + 2)
    other = TrainingFLOPs(count_layers(model, (10,)), weights)
    other.load_state_dict(state)
    other.count(1, dense_gradient=True)
    assert other.totals()[0] == 2 * (3 * 24 + 2 * 2 + 10)


def test_layers_that_are_not_prunable_stay_dense():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    weights = MaskedParameters({"0.weight": model[0].weight})
    counter = TrainingFLOPs(count_layers(model, (4,)), weights)
    weights.set_masks({"0.weight": torch.zeros(4, 4, dtype=torch.bool)})
    counter.count(1, dense_gradient=False)
    assert counter.totals()[0] == 2 * 3 * 8
