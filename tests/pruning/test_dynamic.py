from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Uniform
from sparsebench.pruning.dynamic import cosine, distribute, drop, gradient_magnitudes, grow
from sparsebench.pruning.methods.set import SET
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Cubic
from sparsebench.pruning.scores import Random


def test_dropping_and_growing_by_hand():
    mask = torch.tensor([[True, True, True], [False, False, False]])
    score = torch.tensor([[3.0, 1.0, 1.0], [9.0, 2.0, 9.0]])
    assert drop(mask, 1, score).tolist() == [
        [True, False, True],
        [False, False, False],
    ]  # the first of equal ones
    assert grow(mask, 1, score).tolist() == [[True, True, True], [True, False, False]]
    assert grow(mask, 2, score).tolist() == [[True, True, True], [True, False, True]]
    assert drop(mask, 0, score).equal(mask) and grow(mask, 0, score).equal(mask)


def test_the_cosine_ends_at_the_least_share():
    assert [cosine(0.5, t, 100, 0.005) for t in (0, 50, 100, 101)] == pytest.approx(
        [0.5, 0.2525, 0.005, 0.005]
    )
    assert cosine(0.5, 0, 0, 0.005) == 0.5


@pytest.mark.parametrize(
    ("total", "shares", "caps", "counts"),
    [
        (10, [0.5, 0.3, 0.2], [9, 9, 9], [5, 3, 2]),
        (10, [0.8, 0.1, 0.1], [4, 9, 9], [4, 3, 3]),  # 4 too many: 2 more for each of the others
        (10, [0.8, 0.1, 0.1], [4, 2, 9], [4, 2, 4]),
        (6, [0, 0, 0], [9, 9, 9], [2, 2, 2]),
        (5, [1, 0], [2, 1], [2, 1]),  # no room for more
        (0, [0.5, 0.5], [3, 3], [0, 0]),
    ],
)
def test_what_is_beyond_a_cap_is_spread_evenly_by_hand(total, shares, caps, counts):
    assert distribute(total, shares, caps) == counts


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 50)), min_size=1, max_size=6), st.integers(0, 200))
def test_what_is_shared_out_adds_up_and_fits(layers, total):
    weight = sum(share for share, _ in layers) or 1
    caps = [cap for _, cap in layers]
    counts = distribute(total, [share / weight for share, _ in layers], caps)
    assert sum(counts) == min(total, sum(caps))
    assert all(0 <= count <= cap for count, cap in zip(counts, caps, strict=True))


def test_sizes_of_gradients_are_numbers_that_can_be_ranked():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    a.grad = torch.tensor([-2.0, float("nan"), float("-inf")])
    sizes = gradient_magnitudes(MaskedParameters({"a": a, "b": b}))
    assert sizes["a"].tolist() == [2, 0, torch.finfo(torch.float32).max] and sizes["b"].tolist() == [0, 0]


def test_a_schedule_that_ramps_is_refused():
    weights = MaskedParameters({"w": nn.Parameter(torch.ones(4))})
    with pytest.raises(SettingError, match=r"^schedule: expected constant sparsity from step 0"):
        SET(weights, Cubic(Clock(100), 0.5, interval="1it"), Uniform(), Random())
