"""Few ReLU nodes for many: closed forms of the kernel and the frames, and the study that searches for students."""

import dataclasses
import math

import pytest
import torch

from sparsebench.errors import SettingError
from sparsebench.report.studies import drawings
from sparsebench.theory import equiangular as frames
from sparsebench.theory.relu_kernel import energy, kernel, moment, row_moment
from sparsebench.theory.study import Draws
from sparsebench.theory.two_layer_compression import TwoLayerCompression
from tests.support.studies import framed, ran

CPU = torch.device("cpu")
STUDY = TwoLayerCompression(
    seed=0,
    simplified={"pairs": [[3, 4], [5, 4], [7, 4]], "restarts": 2},
    tilt={"mean": [1.0], "units": [2, 3], "d": 4, "restarts": 2},
    full={"d": 6, "units": 3, "nodes": [50, 3200], "mean": [0.0], "seeds": 2, "restarts": 1},
    rate={"d": [6, 30], "nodes": [50, 200], "units": 3, "seeds": 40, "worst": 3},
)


@pytest.fixture(scope="module")
def tables():
    return ran(STUDY)


def test_the_moment_of_known_correlations_is_that_by_hand():
    cosines = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64)
    half = (math.sqrt(3) / 2 + 0.5 * 2 * math.pi / 3) / (2 * math.pi)
    assert moment(cosines).tolist() == pytest.approx([0.5, 1 / (2 * math.pi), 0, half], abs=1e-12)


def test_the_kernel_is_the_mean_over_inputs_and_turns_with_them():
    draws = Draws(0, {}, CPU)
    units, others, x = draws.normal(3, 5), draws.normal(2, 5), draws.normal(200_000, 5)
    sampled = (x @ units.T).relu().T @ (x @ others.T).relu() / len(x)
    assert torch.allclose(kernel(units, others), sampled, rtol=0.03)
    turn = torch.linalg.qr(draws.normal(5, 5)).Q
    assert torch.allclose(kernel(units @ turn, others @ turn), kernel(units, others))
    assert torch.allclose(kernel(2 * units, others), 2 * kernel(units, others))


def test_the_energys_gradient_is_that_of_automatic_differentiation():
    draws = Draws(1, {}, CPU)
    units, outputs = draws.normal(2, 4, 6).requires_grad_(), draws.normal(2, 4).requires_grad_()
    targets, weights = draws.normal(5, 6), draws.normal(5)
    lengths = units.norm(dim=2)
    cosines = (units @ units.mT) / (lengths[:, :, None] * lengths[:, None])
    eye = torch.eye(4, dtype=torch.bool)
    within = torch.where(eye, 0.5, moment(torch.where(eye, 0.0, cosines)))
    signed = outputs * lengths
    own = (signed[:, :, None] * within * signed[:, None]).sum((1, 2))
    value = own - 2 * (outputs[:, None] @ kernel(units, targets) @ weights)[:, 0]
    value.sum().backward()
    found, by_unit, by_output = energy(units.detach(), outputs.detach(), targets, weights)
    assert torch.allclose(found, value.detach())
    assert torch.allclose(by_unit, units.grad)
    assert torch.allclose(by_output, outputs.grad)


@pytest.mark.parametrize(
    ("d", "expected"),
    [
        (2, 0.17958712),
        (5, 0.16726164),
        (10, 0.16317725),
        (20, 0.16115603),
        (40, 0.16015267),
        (100, 0.15955332),
    ],
)
def test_the_pull_on_a_unit_is_that_of_an_independent_computation(d, expected):
    assert row_moment(d) == pytest.approx(expected, abs=6e-9)


@pytest.mark.parametrize(
    ("units", "alpha", "ten", "twenty"),
    [
        (2, 0.32635450, -0.10650726, -0.10388506),
        (3, 0.26794392, -0.13116705, -0.12793774),
        (5, 0.17998422, -0.14684665, -0.14323130),
        (8, 0.11863362, -0.15486646, -0.15105366),
        (11, 0.08822710, -0.15836322, -0.15446433),
    ],
)
def test_the_simplex_is_that_of_an_independent_computation(units, alpha, ten, twenty):
    found = frames.simplex(units, row_moment(10))
    assert (found.alpha, found.excess) == pytest.approx((alpha, ten), abs=6e-9)
    assert found.cosine == pytest.approx(-1 / (units - 1))
    assert frames.simplex(units, row_moment(20)).excess == pytest.approx(twenty, abs=6e-9)


@pytest.mark.parametrize(
    ("mean", "units", "axis", "alpha", "excess"),
    [
        (0.25, 3, 0.392713, 0.272225, -0.15463133),
        (0.5, 3, 0.613604, 0.307019, -0.24074945),
        (1, 2, 0.875664, 0.599064, -0.58554201),
        (1, 5, 0.778277, 0.263197, -0.59835534),
        (2, 3, 0.943079, 0.711688, -2.05823364),
    ],
)
def test_the_tilted_frame_is_that_of_an_independent_computation(mean, units, axis, alpha, excess):
    found = frames.tilted(units, mean)
    assert (found.axis, found.alpha) == pytest.approx((axis, alpha), abs=1e-6)
    assert found.excess == pytest.approx(excess, abs=6e-9)


def test_the_energy_of_infinitely_many_nodes_is_that_of_pairs_of_them():
    draws = Draws(3, {}, CPU)
    nodes = draws.normal(1500, 40) / math.sqrt(40)
    assert kernel(nodes[:700], nodes[700:]).mean().item() == pytest.approx(frames.target_energy(0), rel=0.03)
    nodes[:, 0] += 1
    assert kernel(nodes[:700], nodes[700:]).mean().item() == pytest.approx(frames.target_energy(1), rel=0.05)


def test_the_search_finds_the_simplex_whatever_the_inputs_turn():
    draws = Draws(4, {}, CPU)
    targets, outputs = frames.mean_target(5, 0.0)
    start, turn = draws.normal(4, 5), torch.linalg.qr(draws.normal(5, 5)).Q
    for first in (start, start @ turn):
        excess, units = frames.best_student(first, targets, outputs)
        assert excess == pytest.approx(frames.simplex(4, row_moment(5)).excess, rel=1e-8)
        directions = units / units.norm(dim=1, keepdim=True)
        cosines = (directions @ directions.T)[~torch.eye(4, dtype=torch.bool)]
        assert torch.allclose(cosines, torch.full_like(cosines, -1 / 3), atol=1e-4)


def test_more_units_than_a_simplex_has_stay_above_its_bound():
    draws = Draws(5, {}, CPU)
    targets, outputs = frames.mean_target(10, 0.0)
    best = min(frames.best_student(draws.normal(12, 10), targets, outputs)[0] for _ in range(3))
    assert best == pytest.approx(-0.15844000, abs=1e-6)
    assert best > frames.simplex(12, row_moment(10)).excess


def test_the_worst_direction_is_no_better_than_any():
    draws = Draws(6, {}, CPU)
    nodes = draws.normal(100, 8) / math.sqrt(8)
    units = draws.normal(5000, 8)
    units = units / units.norm(dim=1, keepdim=True)
    sampled = 2 * (kernel(units, nodes).mean(1) - row_moment(8)).abs().max().item()
    assert sampled <= frames.worst_direction(nodes) <= 1.5 * sampled


def test_the_searches_meet_the_frames(tables):
    checks = list(STUDY.checks(tables))
    assert len(checks) == 2 * 2 + 1 + 2 * 3 + 2 + 2 * 2 * 2
    for check in checks:
        assert check.passed, check


def test_rows_have_the_tables_columns_and_repeat(tables):
    for name, rows in tables.items():
        assert rows
        assert all(list(row) == list(STUDY.tables[name]) for row in rows)
    again = STUDY.rows(STUDY.points()[0], CPU)["two_layer_compression"]
    assert repr(again) == repr(tables["two_layer_compression"][:1])


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("simplified", "pairs", [[1, 4]]),
        ("simplified", "restarts", 0),
        ("tilt", "units", [5]),
        ("tilt", "mean", [0]),
        ("full", "units", 7),
        ("full", "seeds", 1),
        ("rate", "d", [1]),
        ("rate", "worst", 41),
    ],
)
def test_a_setting_that_cannot_be_is_refused(part, key, value):
    with pytest.raises(SettingError, match=rf"study\.{part}\.{key}"):
        dataclasses.replace(STUDY, **{part: {**getattr(STUDY, part), key: value}})


def test_the_figures_are_drawn_of_the_parts_that_ran(tables):
    data = framed(STUDY, tables)
    found = drawings("two_layer_compression", data)
    assert [d.name for d in found] == ["residual", "tilt", "nodes", "rate"]
    study = dataclasses.replace(
        STUDY, simplified={"pairs": [], "restarts": 1}, tilt={**STUDY.tilt, "mean": []},
        full={**STUDY.full, "nodes": []},
    )  # fmt: skip
    assert [point["problem"] for point in study.points()] == ["rate", "rate"]
    data["two_layer_compression"] = data["two_layer_compression"][:0]
    assert [d.name for d in drawings("two_layer_compression", data)] == ["rate"]
    assert all("rms" in check.check for check in study.checks({**tables, "two_layer_compression": []}))
