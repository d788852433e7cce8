from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.pruning.allocation import ERK, Global, Uniform, exact_counts, lowest, zeros_for

ALLOCATIONS = [Global, Uniform, ERK]
SHAPES = [(16, 3, 3, 3), (16, 16, 3, 3), (32, 16, 1, 1), (10, 64), (7,)]
RESNET20 = (
    [(16, 3, 3, 3)] + [(16, 16, 3, 3)] * 6 + [(32, 16, 3, 3)] + [(32, 32, 3, 3)] * 5 + [(64, 32, 3, 3)]
    + [(64, 64, 3, 3)] * 5 + [(10, 64)]
)  # fmt: skip


def scores_of(shapes, seed=0, ties=False):
    generator = torch.Generator().manual_seed(seed)
    draw = (lambda s: torch.randint(0, 4, s, generator=generator).float()) if ties else (
        lambda s: torch.rand(s, generator=generator)
    )  # fmt: skip
    return {str(i): draw(shape) for i, shape in enumerate(shapes)}


def zeros(masks):
    return sum(int((~m).sum()) for m in masks.values())


@settings(deadline=None, max_examples=60)
@given(
    sparsity=st.floats(0, 0.9999),
    ties=st.booleans(),
    collapse=st.booleans(),
    kind=st.sampled_from(ALLOCATIONS),
)
def test_the_number_of_zeros_is_exactly_the_asked_one(sparsity, ties, collapse, kind):
    scores = scores_of(SHAPES, ties=ties)
    numel = sum(math.prod(s) for s in SHAPES)
    masks = kind(allow_layer_collapse=collapse)(scores, sparsity)
    assert zeros(masks) == zeros_for(sparsity, numel)
    assert all(m.dtype == torch.bool and m.shape == scores[n].shape for n, m in masks.items())


@settings(deadline=None)
@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=60), data=st.data())
def test_lowest_equals_a_stable_argsort(values, data):
    count = data.draw(st.integers(0, len(values)))
    scores = torch.tensor(values, dtype=torch.float32)
    expected = torch.zeros(len(values), dtype=torch.bool)
    expected[scores.sort(stable=True).indices[:count]] = True
    assert torch.equal(lowest(scores, count), expected)


def test_of_equal_scores_the_first_by_index_goes():
    masks = Global(allow_layer_collapse=True)({"a": torch.ones(3), "b": torch.ones(3)}, 0.5)
    assert [m.tolist() for m in masks.values()] == [[False] * 3, [True] * 3]


@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_layer_counts_never_fall_while_sparsity_rises_so_masks_can_nest(kind):
    scores = scores_of(SHAPES)
    last = dict.fromkeys(scores, 0)
    for step in range(400):
        now = {name: int((~m).sum()) for name, m in kind()(scores, step / 400).items()}
        assert all(now[name] >= last[name] for name in now)
        last = now


@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_the_lowest_scores_of_each_layer_go(kind):
    scores = scores_of(SHAPES)
    for name, mask in kind()(scores, 0.7).items():
        if mask.any() and (~mask).any():
            assert scores[name][~mask].max() <= scores[name][mask].min()


@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_a_layer_keeps_its_best_weight_unless_collapse_is_allowed(kind):
    scores = scores_of(SHAPES)
    scores["4"] = torch.arange(7) * 1e-6  # by score it would be the first to go
    numel = sum(math.prod(s) for s in SHAPES)
    masks = kind()(scores, 1 - 8 / numel)
    assert all(m.any() for m in masks.values())
    assert masks["4"].tolist() == [False] * 6 + [True]
    assert zeros(masks) == numel - 8
    if kind is Global:
        assert not kind(allow_layer_collapse=True)(scores, 1 - 8 / numel)["4"].any()


def test_a_sparsity_beyond_one_weight_a_layer_is_still_exact():
    numel = sum(math.prod(s) for s in SHAPES)
    for kind in ALLOCATIONS:
        assert zeros(kind()(scores_of(SHAPES), 1 - 2 / numel)) == numel - 2


def test_uniform_by_hand():
    masks = Uniform()(scores_of([(10,), (30,)]), 0.3)
    assert [int((~m).sum()) for m in masks.values()] == [3, 9]


def test_erk_densities_of_resnet20_at_sparsity_0_9():
    densities = {
        shape: 1 - z / math.prod(shape) for shape, z in zip(RESNET20, ERK().zeros(RESNET20, 0.9), strict=True)
    }
    expected = {
        (16, 3, 3, 3): 1.0, (10, 64): 1.0, (16, 16, 3, 3): 0.302626, (32, 16, 3, 3): 0.215024,
        (32, 32, 3, 3): 0.139367, (64, 32, 3, 3): 0.101539, (64, 64, 3, 3): 0.066697,
    }  # fmt: skip
    assert densities == pytest.approx(expected, abs=1e-6)


def test_erk_flops_of_resnet20_at_sparsity_0_9():
    positions = [1024] * 7 + [256] * 6 + [64] * 6 + [1]
    kept = [math.prod(s) - z for s, z in zip(RESNET20, ERK().zeros(RESNET20, 0.9), strict=True)]
    sparse = sum(k * p for k, p in zip(kept, positions, strict=True))
    dense = sum(math.prod(s) * p for s, p in zip(RESNET20, positions, strict=True))
    assert dense == 40_551_040
    assert sparse / dense == pytest.approx(0.1857, abs=5e-5)


@pytest.mark.parametrize(
    ("sparsity", "dense_layers", "flops"), [(0.9, None, 0.2418), (0.8, 8, 0.4138), (0.95, 0, 0.1217)]
)
def test_erk_of_resnet50(sparsity, dense_layers, flops):
    from torchvision.models import resnet50

    from sparsebench.accounting import count_layers

    with torch.device("meta"):
        model = resnet50()
    layers = count_layers(model, (3, 224, 224))
    zeros = ERK().zeros([layer.shape for layer in layers], sparsity)
    density = {layer.name: 1 - z / layer.weights for layer, z in zip(layers, zeros, strict=True)}
    ratio = sum(density[layer.name] * layer.macs for layer in layers) / sum(layer.macs for layer in layers)
    assert ratio == pytest.approx(flops, abs=5e-5)
    if dense_layers is not None:
        assert sum(d == 1.0 for d in density.values()) == dense_layers
    if sparsity == 0.9:
        assert density["conv1.weight"] == pytest.approx(0.42, abs=5e-5)
        assert density["layer1.0.conv1.weight"] == 1.0
        assert density["fc.weight"] == pytest.approx(0.0726, abs=5e-5)
        assert density["layer4.2.conv2.weight"] == pytest.approx(0.0213, abs=5e-5)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8), data=st.data())
def test_exact_counts_add_up_within_their_caps(sizes, data):
    total = data.draw(st.integers(0, sum(sizes)))
    counts = exact_counts(lambda s: [s * n for n in sizes], sizes, total)
    assert sum(counts) == total
    assert all(0 <= c <= n for c, n in zip(counts, sizes, strict=True))
    # Rounding moves the common s by at most half a weight a layer; then one rounding, and one tie.
    bounds = [1.5 + n * len(sizes) / (2 * sum(sizes)) for n in sizes]
    shares = [n * total / sum(sizes) for n in sizes]
    assert all(abs(c - share) <= bound for c, share, bound in zip(counts, shares, bounds, strict=True))


@pytest.mark.parametrize(
    ("sparsity", "numel", "zeros"), [(0.9, 267696, 240926), (0.5, 3, 2), (0, 10, 0), (0.95, 10, 10)]
)
def test_zeros_are_rounded_half_up(sparsity, numel, zeros):
    assert zeros_for(sparsity, numel) == zeros
