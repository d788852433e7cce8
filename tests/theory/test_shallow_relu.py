"""Shallow ReLU networks: the symmetric minima of students, the linear regions of univariate networks, and the study."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from sparsebench.errors import SettingError
from sparsebench.report.studies import drawings
from sparsebench.theory import linear_regions as regions
from sparsebench.theory import symmetry_breaking as symmetry
from sparsebench.theory.shallow_relu import ShallowRelu
from sparsebench.theory.study import Draws
from tests.support.studies import framed, ran

CPU = torch.device("cpu")
STUDY = ShallowRelu(
    seed=1,
    symmetry={"k": [4, 12], "seeds": 4, "steps": 150},
    reduced={"k": [6, 30]},
    regions={"changes": [1], "width": [10, 40], "samples": 20, "seeds": 2, "steps": 1500, "more_steps": 1},
)


@pytest.fixture(scope="module")
def tables():
    return ran(STUDY)


# ---------------------------------------------------------------------------------------------- students


def test_the_teachers_own_units_have_no_loss_in_any_order():
    order = torch.tensor([2, 0, 1])
    value, slope = symmetry.loss(torch.eye(3, dtype=torch.float64)[order])
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert slope.abs().max() < 1e-7


def test_the_loss_of_one_unit_is_that_by_hand():
    value, _ = symmetry.loss(torch.tensor([[-3.0]], dtype=torch.float64))
    assert value.item() == pytest.approx((9 / 2 + 1 / 2) / 2)


def test_the_loss_is_the_mean_over_inputs_and_its_slope_that_of_differences():
    draws = Draws(0, {}, CPU)
    student, x, way = draws.normal(4, 4), draws.normal(400_000, 4), draws.normal(4, 4)
    errors = (x @ student.T).relu().sum(1) - x.relu().sum(1)
    value, slope = symmetry.loss(student)
    samples = errors.square() / 2
    error = samples.std().item() / math.sqrt(len(samples))
    assert value.item() == pytest.approx(samples.mean().item(), abs=3.5 * error)
    high, low = (symmetry.loss(student + step * way)[0] for step in (1e-6, -1e-6))
    assert ((high - low) / 2e-6).item() == pytest.approx((slope * way).sum().item(), rel=1e-7)


def test_the_loss_stays_when_rows_and_columns_are_permuted():
    draws = Draws(1, {}, CPU)
    student, rows, columns = draws.normal(5, 5), torch.tensor([3, 1, 0, 4, 2]), torch.tensor([1, 2, 0, 4, 3])
    both = torch.stack([student, student[rows][:, columns]])
    values, _ = symmetry.loss(both)
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)


@pytest.mark.parametrize(
    ("k", "loss", "entries"),
    [
        (6, 0.02508058, (0.98670, -0.05041, 0.30801, 0.22452, -0.60151)),
        (8, 0.02150804, (1.00143, -0.02588, 0.22809, 0.15982, -0.65826)),
        (10, 0.01870219, (1.00435, -0.01581, 0.18237, 0.12604, -0.69904)),
        (15, 0.01406388, (1.00412, -0.00666, 0.12285, 0.08416, -0.76727)),
        (20, 0.01127558, (1.00300, -0.00366, 0.09319, 0.06371, -0.81002)),
    ],
)
def test_the_minimum_of_two_blocks_is_that_of_an_independent_computation(k, loss, entries):
    found, numbers = symmetry.reduced(k, 1, symmetry.MINIMUM)
    assert found == pytest.approx(loss, abs=6e-9)
    assert numbers[:5] == pytest.approx(entries, abs=6e-6)
    assert math.isnan(numbers[5])


@pytest.mark.parametrize(
    ("k", "m", "loss"),
    [(10, 2, 0.035327), (15, 2, 0.027107), (15, 4, 0.051121), (20, 3, 0.032152)],
)
def test_minima_of_larger_blocks_are_where_descent_was_seen_to_end(k, m, loss):
    assert symmetry.reduced(k, m, symmetry.MINIMUM)[0] == pytest.approx(loss, abs=6e-7)


@pytest.mark.parametrize(("k", "loss"), [(6, 0.05566858), (8, 0.06773169), (20, 0.10150546), (100, 0.14207)])
def test_the_critical_point_of_one_block_is_that_of_an_independent_computation(k, loss):
    found, numbers = symmetry.reduced(k, 0, symmetry.SADDLE)
    assert found == pytest.approx(loss, abs=6e-9 if k < 100 else 6e-6)
    matrix = (torch.tensor(numbers[:2], dtype=torch.float64)[:, None, None] * symmetry.pattern(k, 0)[:2]).sum(
        0
    )
    assert symmetry.loss(matrix)[1].abs().max() < 1e-6


def test_blocks_are_those_of_the_pattern_whatever_the_order_of_rows():
    numbers = torch.tensor([1.0, -0.05, 0.2, 0.15, -0.7, 0.1], dtype=torch.float64)
    student = (numbers[:, None, None] * symmetry.pattern(7, 2)).sum(0)
    order = torch.tensor([3, 6, 0, 2, 5, 1, 4])
    assert symmetry.blocks(student) == [5, 2]
    assert symmetry.blocks(student[order]) == [5, 2]
    assert symmetry.blocks(student[order][:, order]) == [5, 2]
    assert symmetry.blocks(Draws(0, {}, CPU).normal(4, 4)) == [1, 1, 1, 1]


# ----------------------------------------------------------------------------------------------- regions


def test_the_gradient_by_sums_is_that_of_automatic_differentiation():
    draws = Draws(2, {}, CPU)
    x, y = regions.samples(draws, 3, 20, 2)
    networks = regions.initial(draws, 3, 8, 10)
    loss, slope = regions.slopes(networks, x, y)
    parts = networks.parts.clone().requires_grad_()
    direct = torch.nn.functional.softplus(-y * regions.Networks(parts)(x)).mean(1)
    direct.sum().backward()
    assert torch.allclose(loss, direct.detach())
    assert torch.allclose(slope.parts, parts.grad, atol=1e-14)
    assert (slope.parts[:, :, 8:] == 0).all()


def test_samples_keep_away_from_the_changes_of_sign():
    x, y = regions.samples(Draws(0, {}, CPU), 4, 500, 3)
    assert (x.diff(dim=1) >= 0).all()
    assert x.min() >= -1 and x.max() <= 1
    assert ((y[:, 1:] != y[:, :-1]).sum(1) == 3).all()
    for boundary in (-0.5, 0.0, 0.5):
        assert (x - boundary).abs().min() >= 0.15 * 0.5 - 1e-12
    assert (x[:, 0] < -0.99).all()  # none at the ends of [-1, 1]


def test_padding_changes_nothing_and_kinks_are_counted_inside():
    draws = Draws(3, {}, CPU)
    x, y = regions.samples(draws, 2, 20, 1)
    parts = draws.normal(3, 2, 6)
    padded = torch.nn.functional.pad(parts, (0, 3))
    ends = [regions.trained(regions.Networks(p), x, y, 50).parts for p in (parts, padded)]
    assert torch.allclose(ends[0], ends[1][:, :, :6], rtol=1e-9)
    known = torch.tensor([[[1.0, 2, 1, 0]], [[0.5, 3, -0.2, 0]], [[1.0, 1, 0, 0]]], dtype=torch.float64)
    assert regions.kinks(regions.Networks(known)).tolist() == [1]


def test_affine_pieces_of_known_functions_are_counted():
    x = np.linspace(-1, 1, 401)
    assert regions.affine_pieces(x, 3 * x + 1, 1e-9) == 1
    assert regions.affine_pieces(x, np.abs(x), 1e-9) == 2
    assert regions.affine_pieces(x, np.abs(x), 0.5) == 1  # the line 1/2
    assert regions.affine_pieces(x, np.abs(x), 0.49) == 2
    assert regions.affine_pieces(x, np.abs(np.abs(x) - 0.5), 1e-9) == 4
    # x² is within h² / 8 of a line on an interval of length h: 0.202 here, 41 places
    assert regions.affine_pieces(x, x**2, 0.0051) == math.ceil(401 / 41)


def test_pieces_do_not_depend_on_scale_or_an_added_line():
    x, noise = np.linspace(-1, 1, 300), Draws(0, {}, CPU).normal(300).numpy()
    y = np.sin(6 * x) + 0.05 * noise
    expected = regions.affine_pieces(x, y, 0.1)
    assert 3 < expected < 60
    assert regions.affine_pieces(x, 7 * y, 0.7) == expected
    assert regions.affine_pieces(x, y + 2 * x - 1, 0.1) == expected


def test_training_ends_at_the_least_loss_with_all_labels_learned():
    draws = Draws(4, {}, CPU)
    x, y = regions.samples(draws, 2, 30, 1)
    ends = regions.trained(regions.initial(draws, 2, 20, 20), x, y, 5000)
    loss, _ = regions.slopes(ends, x, y)
    assert (loss < regions.LEAST).all() and (loss > 0).all()
    assert ((ends(x) * y) > 0).all()


# ------------------------------------------------------------------------------------------------- study


def test_the_ends_of_training_meet_their_predictions(tables):
    checks = list(STUDY.checks(tables))
    assert {row["blocks"] for row in tables["shallow_relu"] if row["spurious"]} & {"11 1", "10 2"}
    assert len(checks) > 15
    for check in checks:
        assert check.passed, check


def test_the_losses_of_large_students_are_extrapolated_to_their_limits(tables):
    known = zip(
        (100, 200, 400), (0.2741672, 0.2832125, 0.2885942), (0.1420742, 0.1530594, 0.1611450), strict=True
    )
    large = [
        {**row, "k": k, "k_loss": scaled, "loss": loss}
        for k, scaled, loss in known
        for row in tables["reduced"][:2]
    ]
    found = [check for check in STUDY.checks({**tables, "reduced": large}) if "extrapolated" in check.check]
    assert [check.measured for check in found] == pytest.approx([0.2981, 0.18175], rel=3e-4)
    assert [check.predicted for check in found] == pytest.approx([0.29736, 0.18169], rel=2e-5)
    assert all(check.passed for check in found)


def test_rows_have_the_tables_columns_and_repeat(tables):
    for name, rows in tables.items():
        assert rows
        assert all(list(row) == list(STUDY.tables[name]) for row in rows)
    assert STUDY.rows(STUDY.points()[0], CPU)["shallow_relu"] == tables["shallow_relu"][:4]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("symmetry", "k", [3]),
        ("symmetry", "seeds", 0),
        ("reduced", "k", [2]),
        ("regions", "changes", [0]),
        ("regions", "width", []),
        ("regions", "samples", 7),
    ],
)
def test_a_setting_that_cannot_be_is_refused(part, key, value):
    with pytest.raises(SettingError, match=rf"study\.{part}\.{key}"):
        dataclasses.replace(STUDY, **{part: {**getattr(STUDY, part), key: value}})


def test_the_figures_are_drawn_of_the_parts_that_ran(tables):
    data = framed(STUDY, tables)
    assert [d.name for d in drawings("shallow_relu", data)] == ["symmetry", "reduced", "regions"]
    study = dataclasses.replace(
        STUDY, symmetry={"k": [4], "seeds": 2, "steps": 300}, reduced={"k": []},
        regions={**STUDY.regions, "changes": [], "width": [10]},
    )  # fmt: skip
    few = ran(study)
    assert not any(row["spurious"] for row in few["shallow_relu"])
    assert list(study.checks(few)) == []
    assert [d.name for d in drawings("shallow_relu", framed(study, few))] == ["symmetry"]
