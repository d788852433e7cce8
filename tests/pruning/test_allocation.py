from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import (
    LAMP,
    SAMPLE,
    Global,
    Uniform,
    exact_counts,
    guarded,
    joined,
    lowest,
    lowest_by_sort,
    zeros_for,
)
from sparsebench.pruning.layer_sparsities import ER, ERK, Balanced, FromFile, SmartRatio, UniformPlus

ANY_SPARSITY = [Global, LAMP, Uniform, ER, ERK, Balanced, SmartRatio]
ALLOCATIONS = [Global, LAMP, Uniform, UniformPlus, ER, ERK, Balanced, SmartRatio]
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


@settings(max_examples=60)
@given(
    sparsity=st.floats(0, 0.9999) | st.sampled_from([i / 3895 for i in range(3455, 3470)]),
    ties=st.booleans(),
    collapse=st.booleans(),
    kind=st.sampled_from(ALLOCATIONS),
)
def test_the_number_of_zeros_is_exactly_the_requested_one(sparsity, ties, collapse, kind):
    scores = scores_of(SHAPES, ties=ties)
    numel = sum(math.prod(s) for s in SHAPES)
    most = numel - 16 * 27 if kind is UniformPlus else numel  # all but the first convolution
    if zeros_for(sparsity, numel) > most:
        with pytest.raises(SettingError, match=r"sparsity=.*: expected at most 0\.\d+ with this allocation"):
            kind(allow_layer_collapse=collapse)(scores, sparsity)
        return
    masks = kind(allow_layer_collapse=collapse)(scores, sparsity)
    assert zeros(masks) == zeros_for(sparsity, numel)
    assert all(m.dtype == torch.bool and m.shape == scores[n].shape for n, m in masks.items())


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=60), data=st.data())
def test_lowest_equals_a_stable_argsort(values, data):
    count = data.draw(st.integers(0, len(values)))
    scores = torch.tensor(values, dtype=torch.float32)
    expected = torch.zeros(len(values), dtype=torch.bool)
    expected[scores.sort(stable=True).indices[:count]] = True
    for chosen in (lowest(scores, count), lowest_by_sort(scores, count)):
        assert torch.equal(chosen, expected)
    as_tensor = torch.tensor(count)
    for chosen in (lowest(scores, as_tensor), lowest_by_sort(scores, as_tensor)):
        assert torch.equal(chosen, expected)


@pytest.mark.parametrize("levels", [None, 1000, 3])
@pytest.mark.parametrize("sparsity", [1e-6, 0.1, 0.9, 0.9999, 1.0])
def test_the_lowest_of_many_scores_equal_a_stable_argsort(levels, sparsity):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5 * SAMPLE + 3, generator=generator)
    if levels is not None:
        scores = (scores * levels).round() / levels
    scores[: len(scores) // 3] = -math.inf  # pruned for good
    count = math.ceil(sparsity * len(scores))
    expected = torch.zeros(len(scores), dtype=torch.bool)
    expected[scores.sort(stable=True).indices[:count]] = True
    assert torch.equal(lowest(scores, count), expected)


def test_a_sample_that_misleads_does_not_matter():
    scores = torch.rand(5 * SAMPLE + 3)
    scores[:: len(scores) // SAMPLE] += 1  # all that is looked at first
    for count in (1, SAMPLE, 3 * SAMPLE, len(scores) - 1):
        assert torch.equal(lowest(scores, count), lowest_by_sort(scores, count))


def test_scores_that_are_not_numbers_are_as_before_the_highest():
    scores = torch.rand(5 * SAMPLE)
    scores[::7] = math.nan
    numbers = int((~scores.isnan()).sum())
    for count in (1, numbers // 2, numbers):
        assert torch.equal(lowest(scores, count), lowest(scores.nan_to_num(math.inf), count))


def test_masks_are_the_same_whether_scores_lie_in_one_tensor_or_in_several():
    shapes = [(30, 40), (7,), (5, 3, 3, 3)]
    flat = torch.rand(sum(math.prod(shape) for shape in shapes))
    parts = flat.split([math.prod(shape) for shape in shapes])
    views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    assert joined(views).data_ptr() == flat.data_ptr() and torch.equal(joined(views), flat)
    for others in (views[::-1], views[::2], [view.clone() for view in views], [views[0].t(), *views[1:]]):
        assert torch.equal(joined(others), torch.cat([other.reshape(-1) for other in others]))
        assert joined(others).data_ptr() != flat.data_ptr()


def test_the_last_of_the_best_scores_of_a_layer_is_protected():
    generator, numels = torch.Generator().manual_seed(0), [1, 5, 300, 40]
    special = torch.tensor([-math.inf, -1.0, -0.0, 0.0, 1e-45, 1.0, math.inf])
    for _ in range(50):
        for values in (special, special[:4], special[2:4], torch.randn(9, generator=generator)):
            flat = values[torch.randint(len(values), (sum(numels),), generator=generator)]
            expected, end = flat.clone(), 0
            for layer in flat.split(numels):
                end += len(layer)
                expected[end - 1 - int(layer.flip(0).argmax())] = math.inf
            assert torch.equal(guarded(flat, numels), expected)


@given(seed=st.integers(0, 10**6), levels=st.integers(2, 6), sparsity=st.floats(0, 0.99))
def test_layers_are_kept_as_if_the_best_weight_of_each_was_protected_first(seed, levels, sparsity):
    generator = torch.Generator().manual_seed(seed)
    numels = [1, 3, 20, 2, 60]
    scales = 10.0 ** torch.randint(-3, 3, (len(numels),), generator=generator)
    flat = torch.cat(
        [s * torch.randint(levels, (n,), generator=generator) for s, n in zip(scales, numels, strict=True)]
    )
    zeros = zeros_for(sparsity, len(flat))
    expected = ~lowest(guarded(flat, numels), zeros)
    assert torch.equal(Global().keep_layers(flat, numels, zeros), expected)


def test_of_equal_scores_the_first_by_index_goes():
    masks = Global(allow_layer_collapse=True)({"a": torch.ones(3), "b": torch.ones(3)}, 0.5)
    assert [m.tolist() for m in masks.values()] == [[False] * 3, [True] * 3]


def test_the_best_weight_that_a_layer_keeps_is_the_last_of_equal_ones_too():
    masks = Global()({"a": torch.ones(3), "b": torch.full((3,), 2.0)}, 0.5)
    assert [m.tolist() for m in masks.values()] == [[False, False, True], [False, True, True]]


@pytest.mark.parametrize(
    ("kind", "kept"), [(Global, [[0, 0, 0], [0, 1, 1]]), (Uniform, [[0, 0, 0], [0, 0, 1]])]
)
def test_above_a_threshold_one_too_many_goes_and_every_tie_with_it(kind, kept):
    scores = {"a": torch.tensor([1.0, 2.0, 2.0]), "b": torch.tensor([2.0, 3.0, 4.0])}
    masks = kind(compat="above_threshold")(scores, 1 / 3)  # exactly, 2 of 6 would go, one of each layer
    assert [m.int().tolist() for m in masks.values()] == kept


def test_floor_and_bernoulli_miss_the_number_as_published():
    scores = scores_of(SHAPES)
    floor = Uniform(compat="floor")(scores, 0.9)
    assert [int((~m).sum()) for m in floor.values()] == [math.floor(0.9 * math.prod(s)) for s in SHAPES]
    assert zeros(floor) == 388 + 2073 + 460 + 576 + 6 == zeros_for(0.9, 3895) - 3
    torch.manual_seed(0)
    drawn = ERK(compat="bernoulli")(scores, 0.9)
    assert zeros(drawn) != zeros_for(0.9, 3895) and abs(zeros(drawn) - 0.9 * 3895) < 5 * (0.09 * 3895) ** 0.5


def test_an_unknown_rule_is_named():
    with pytest.raises(SettingError, match=r"^compat=old: expected one of above_threshold, floor, bernoulli"):
        Global(compat="old")


@pytest.mark.parametrize("kind", ANY_SPARSITY)
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


@pytest.mark.parametrize("kind", ANY_SPARSITY)
def test_a_layer_keeps_its_best_weight_unless_collapse_is_allowed(kind):
    scores = scores_of(SHAPES)
    scores["4"] = torch.arange(7) * 1e-6  # by score it would be the first to go
    numel = sum(math.prod(s) for s in SHAPES)
    masks = kind()(scores, 1 - 8 / numel)
    assert all(m.any() for m in masks.values())
    assert masks["4"][-1]
    assert zeros(masks) == numel - 8
    if kind is Global:
        assert not kind(allow_layer_collapse=True)(scores, 1 - 8 / numel)["4"].any()


def test_a_sparsity_beyond_one_weight_a_layer_is_still_exact():
    numel = sum(math.prod(s) for s in SHAPES)
    for kind in ANY_SPARSITY:
        assert zeros(kind()(scores_of(SHAPES), 1 - 2 / numel)) == numel - 2


def test_uniform_by_hand():
    masks = Uniform()(scores_of([(10,), (30,)]), 0.3)
    assert [int((~m).sum()) for m in masks.values()] == [3, 9]


def test_erk_densities_of_resnet20_at_sparsity_0_9():
    densities = {
        shape: 1 - z / math.prod(shape)
        for shape, z in zip(RESNET20, ERK().zeros(dict(enumerate(RESNET20)), 0.9), strict=True)
    }
    expected = {
        (16, 3, 3, 3): 1.0, (10, 64): 1.0, (16, 16, 3, 3): 0.302626, (32, 16, 3, 3): 0.215024,
        (32, 32, 3, 3): 0.139367, (64, 32, 3, 3): 0.101539, (64, 64, 3, 3): 0.066697,
    }  # fmt: skip
    assert densities == pytest.approx(expected, abs=1e-6)


def test_erk_flops_of_resnet20_at_sparsity_0_9():
    positions = [1024] * 7 + [256] * 6 + [64] * 6 + [1]
    kept = [
        math.prod(s) - z for s, z in zip(RESNET20, ERK().zeros(dict(enumerate(RESNET20)), 0.9), strict=True)
    ]
    sparse = sum(k * p for k, p in zip(kept, positions, strict=True))
    dense = sum(math.prod(s) * p for s, p in zip(RESNET20, positions, strict=True))
    assert dense == 40_551_040
    assert sparse / dense == pytest.approx(0.1857, abs=5e-5)


@pytest.mark.parametrize(
    ("sparsity", "dense_layers", "flops"), [(0.9, None, 0.2418), (0.8, 8, 0.4138), (0.95, 0, 0.1217)]
)
def test_erk_of_resnet50(sparsity, dense_layers, flops):
    from torchvision.models import resnet50

    from sparsebench.training.flops import count_layers

    with torch.device("meta"):
        model = resnet50()
    layers = count_layers(model, (3, 224, 224))
    zeros = ERK().zeros({layer.name: layer.shape for layer in layers}, sparsity)
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


def kept(masks):
    return [int(m.sum()) for m in masks.values()]


def test_lamp_by_hand():
    # squares 1, 4, 9 over 14, 13, 9; and 100, 1 over 100, 101
    found = (
        LAMP.relative(torch.tensor([1.0, 2.0, 3.0])).tolist()
        + LAMP.relative(torch.tensor([10.0, 1.0])).tolist()
    )
    assert found == pytest.approx([1 / 14, 4 / 13, 1, 1, 1 / 101])
    masks = LAMP()({"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([10.0, 1.0])}, 0.4)
    assert [m.tolist() for m in masks.values()] == [[False, True, True], [True, False]]


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_lamp_keeps_the_order_of_a_layer_and_ignores_its_scale(seed, scale):
    score = torch.rand(50, generator=torch.Generator().manual_seed(seed))
    lamp = LAMP.relative(score)
    assert lamp.max() == 1
    assert torch.equal(lamp.argsort(stable=True), score.argsort(stable=True))
    torch.testing.assert_close(LAMP.relative(score * scale), lamp, rtol=1e-4, atol=1e-7)


def test_er_counts_channels_only():
    er, erk = ER(), ERK()
    assert er.raw((16, 3, 3, 3)) == 19 / 48
    assert erk.raw((16, 3, 3, 3)) == 25 / 432
    assert er.raw((10, 64)) == erk.raw((10, 64)) == 74 / 640


def test_uniform_plus_by_hand():
    # the first convolution stays, the classifier loses at most 80 of 100, the layer between has the rest
    shapes = {"conv": (2, 1, 5, 5), "middle": (10, 10, 3, 3), "fc": (10, 10)}
    assert UniformPlus().zeros(shapes, 0.5) == pytest.approx([0, 0.525 * 900, 0.525 * 100])
    assert UniformPlus().zeros(shapes, 0.9) == pytest.approx([0, 945 - 80, 80])
    no_classifier = {"conv": (2, 1, 5, 5), "middle": (10, 10, 3, 3)}
    assert UniformPlus().zeros(no_classifier, 0.9) == pytest.approx([0, 855])
    with pytest.raises(SettingError, match=r"^sparsity=0.95: expected at most 0.93"):
        UniformPlus()(scores_of(shapes.values()), 0.95)  # 980 of 1050 zeros at most


def test_balanced_keeps_the_same_count_everywhere_it_can():
    masks = Balanced()(scores_of([(10,), (100,), (100,)]), 0.7)  # 63 left: 10, then 26.5 each
    assert kept(masks) == [10, 26, 27] or kept(masks) == [10, 27, 26]


def test_smart_ratio_by_hand():
    # three convolutions of 100 weights and a linear layer of 100; raw 3² + 3, 2² + 2, 1² + 1 = 12, 6, 2
    shapes = {"a": (4, 25, 1, 1), "b": (4, 25, 1, 1), "c": (4, 25, 1, 1), "fc": (10, 10)}
    assert SmartRatio().zeros(shapes, 0.8) == pytest.approx(
        [70, 85, 95, 70]
    )  # 80 left: 30 linear, 50 as 30, 15, 5
    decreasing = SmartRatio(decreasing=True).zeros(shapes, 0.8)  # raw 12, 6 / 4, 2 / 9
    assert [100 - z for z in decreasing[:3]] == pytest.approx(
        [50 * w / (12 + 1.5 + 2 / 9) for w in (12, 1.5, 2 / 9)]
    )
    spilled = SmartRatio(linear=0.0).zeros(
        shapes, 0.5
    )  # 200 left: the first is full at 100, 20 spill to the second
    assert 100 - spilled[0] == 100 and sum(400 - z for z in [sum(spilled)]) == pytest.approx(200)
    assert SmartRatio().zeros(shapes, 0.0) == pytest.approx([0, 0, 0, 0], abs=1e-9)


def layers_csv(path, rows):
    path.write_text("layer,weights,sparsity\n" + "".join(f"{name},1,{s}\n" for name, s in rows))
    return str(path)


def test_from_file_gives_every_layer_its_own_and_scales_on_the_way(tmp_path):
    path = layers_csv(tmp_path / "layers.csv", [("a", 0.9), ("b", 0.5), ("unused", 0.1)])
    shapes = {"a": (100,), "b": (100,)}
    scores = {name: torch.rand(shape) for name, shape in shapes.items()}
    allocation = FromFile(path, sparsity=0.7)
    allocation.check(shapes, 0.7)
    assert kept(allocation(scores, 0.7)) == [10, 50]
    assert kept(allocation(scores, 0.35)) == [55, 75]
    assert kept(allocation(scores, 0.0)) == [100, 100]


@pytest.mark.parametrize(
    ("rows", "target", "message"),
    [
        ([("a", 0.9)], 0.7, "a row for every prunable layer; it lacks b"),
        ([("a", 0.9), ("b", 0.5)], 0.8, "0.7, what the layers in"),
        ([("a", "many")], 0.7, "a CSV with columns layer and sparsity"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, rows, target, message):
    path = layers_csv(tmp_path / "layers.csv", rows)
    with pytest.raises(SettingError, match=message):
        FromFile(path, sparsity=target).check({"a": (100,), "b": (100,)}, target)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(
        SettingError, match=r"^path=.*nowhere.csv: expected a CSV with columns layer and sparsity"
    ):
        FromFile(str(tmp_path / "nowhere.csv"), sparsity=0.5)


def test_scores_in_double_precision_keep_a_weight_of_every_layer_too():
    scores = {"a": torch.arange(1.0, 9.0), "b": torch.arange(9.0, 13.0)}
    for dtype in (torch.float32, torch.float64):  # as SynFlow's are
        masks = Global()({name: score.to(dtype) for name, score in scores.items()}, 0.75)
        assert masks["a"].tolist() == [False] * 7 + [True] and int(masks["b"].sum()) == 2
