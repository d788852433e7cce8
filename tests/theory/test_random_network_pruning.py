"""Random networks and their pruned copies: the wide limit of their gap, and the study that simulates it."""

import dataclasses
import math

import pytest
import torch

from sparsebench.errors import SettingError
from sparsebench.report.studies import drawings
from sparsebench.theory import pruned_networks as nets
from sparsebench.theory.random_network_pruning import RandomNetworkPruning
from sparsebench.theory.study import Draws
from tests.support.studies import framed, ran

CPU = torch.device("cpu")
STUDY = RandomNetworkPruning(
    seed=0,
    networks={
        "dist": ["gauss", "uniform"], "method": ["random", "magnitude"], "rho": [0.3, 0.7], "depth": [2], "width": 100,
        "seeds": 6, "inputs": 40, "norms": 1,
    },
    widths={"alpha": [0.1, 0.2], "width": [64, 128], "depth": 2, "seeds": 6, "inputs": 30, "norms": 2},
    convolution={
        "method": ["random", "magnitude"], "rho": [0.4], "depth": [2], "channels": [32], "kernel": 3, "side": 5,
        "seeds": 6, "inputs": 4, "norms": 1,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def tables():
    return ran(STUDY)


@pytest.mark.parametrize(
    ("dist", "method", "rho", "two", "four"),
    [
        ("gauss", "random", 0.1, 0.184027, 0.302953),
        ("uniform", "random", 0.5, 0.715845, 0.859526),
        ("gauss", "magnitude", 0.3, 0.028532, 0.053847),
        ("gauss", "magnitude", 0.5, 0.133839, 0.228848),
        ("gauss", "magnitude", 0.9, 0.772197, 0.898956),
        ("uniform", "magnitude", 0.5, 0.226285, 0.361569),
        ("uniform", "magnitude", 0.9, 0.897718, 0.970337),
    ],
)
def test_the_gap_is_that_of_an_independent_computation(dist, method, rho, two, four):
    eta = nets.lost_energy(dist, method, rho)
    assert nets.gap(eta, 2)[0] == pytest.approx(two, abs=6e-7)
    assert nets.gap(eta, 4)[0] == pytest.approx(four, abs=6e-7)


@pytest.mark.parametrize(("rho", "eta"), [(0.3, 0.014555), (0.5, 0.071326), (0.9, 0.560714)])
def test_the_energy_of_the_smallest_gaussian_weights_is_that_of_an_independent_computation(rho, eta):
    assert nets.lost_energy("gauss", "magnitude", rho) == pytest.approx(eta, abs=6e-7)


def test_one_layer_loses_the_energy_that_was_removed():
    assert nets.gap(0.3, 1)[0] == pytest.approx(0.3)
    assert nets.gap(0.3, 1)[1] == pytest.approx(2 - 2 * math.sqrt(0.7))


def test_a_small_loss_adds_up_over_the_layers():
    for depth in (1, 3, 6):
        assert nets.gap(1e-6, depth)[0] == pytest.approx(depth * 1e-6, rel=5e-3)


def test_the_gap_grows_with_depth_and_loss_and_ends_at_one():
    gaps = [nets.gap(eta, depth)[0] for eta, depth in ((0.1, 2), (0.1, 4), (0.3, 4), (0.999999, 4))]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dist", nets.DISTRIBUTIONS)
def test_pruned_weights_lose_the_energy_predicted(dist):
    weights = nets.layers(Draws(1, {}, CPU), dist, 2.0, 1, 400, 400)
    gone = weights - nets.pruned(weights, weights.abs(), 80_000)
    assert (gone != 0).sum() == 80_000
    assert (weights**2).mean().item() == pytest.approx(2 / 400, rel=0.02)
    share = (gone**2).sum() / (weights**2).sum()
    assert share.item() == pytest.approx(nets.lost_energy(dist, "magnitude", 0.5), rel=0.03)


def test_a_convolution_is_the_matrix_that_its_norm_is_of():
    draws = Draws(0, {}, CPU)
    weights = draws.normal(1, 3, 2, 3, 3)
    basis = torch.eye(2 * 25, dtype=torch.float64).reshape(1, 50, 2, 5, 5)
    matrix = nets.circular(weights, basis).reshape(50, 75)
    assert nets.circular_norm(weights[0], 5) == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item())
    one = nets.circular(weights, torch.ones(1, 1, 2, 5, 5, dtype=torch.float64))
    assert torch.allclose(one[0, 0, :, 0, 0], weights[0].sum((1, 2, 3)))


def test_the_seeds_of_a_convolution_do_not_mix():
    draws = Draws(0, {}, CPU)
    weights, inputs = draws.normal(2, 3, 3, 3, 3), draws.normal(2, 4, 3, 5, 5)
    both = nets.circular(weights, inputs)
    assert torch.allclose(both[1:], nets.circular(weights[1:], inputs[1:]))


def test_the_norm_of_a_matrix_is_its_largest_singular_value():
    matrix = Draws(0, {}, CPU).normal(60, 60)
    assert nets.dense_norm(matrix) == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-9)


def test_the_product_of_norms_bounds_the_gap_of_every_input():
    draws = Draws(2, {}, CPU)
    inputs = whole = copy = draws.normal(1, 50, 20)
    norms = []
    for layer in range(3):
        weights = nets.layers(draws, "gauss", 2.0, 1, 20, 20)
        left = nets.pruned(weights, weights.abs(), 200)
        whole, copy = (nets.dense(w, x.relu() if layer else x) for w, x in ((weights, whole), (left, copy)))
        norms.append([torch.linalg.matrix_norm(w[0], 2) for w in (weights, left, weights - left)])
    bound = nets.product_bound(torch.tensor(norms))
    assert ((whole - copy).norm(dim=2) <= bound * inputs.norm(dim=2)).all()
    single = nets.product_bound(torch.tensor([[3.0, 2.0, 0.5], [5.0, 4.0, 0.25]]))
    assert single == pytest.approx(0.5 * 4 + 3 * 0.25)


def test_the_simulation_meets_its_limits(tables):
    gaps = [check for check in STUDY.checks(tables) if "gap" in check.check]
    assert len(gaps) == 8 * 3 + 6 + 2 * 3
    for check in gaps:
        assert check.passed, check


def test_pruning_does_not_change_the_networks_that_are_pruned(tables):
    rows = [row for row in tables["random_network_pruning"] if row["dist"] == "gauss"]
    random, magnitude = (next(r for r in rows if r["method"] == m) for m in nets.METHODS)
    assert random["opnorm_mc"] != magnitude["opnorm_mc"]
    assert random["theory_err"] > 5 * magnitude["theory_err"]


def test_rows_have_the_tables_columns_and_repeat(tables):
    for name, rows in tables.items():
        assert rows
        assert all(list(row) == list(STUDY.tables[name]) for row in rows)
    assert (
        STUDY.rows(STUDY.points()[0], CPU)["random_network_pruning"] == tables["random_network_pruning"][:2]
    )


def test_norms_of_few_weights_a_row_are_not_tested():
    study = dataclasses.replace(
        STUDY, networks={**STUDY.networks, "rho": []}, convolution={**STUDY.convolution, "rho": []},
        widths={**STUDY.widths, "alpha": [0.4], "width": [64]},
    )  # fmt: skip
    tables = ran(study)
    assert [row["removed_per_row"] for row in tables["widths"]] == [pytest.approx(64**0.2)] * 2
    assert list(study.checks(tables)) == []
    assert len(drawings("random_network_pruning", framed(study, tables))) == 1


def test_a_single_norm_is_not_tested(tables):
    row = {**tables["random_network_pruning"][0], "se_opnorm": math.nan}
    few = {"random_network_pruning": [row], "widths": [], "convolution": []}
    assert [check.check.split(",")[0] for check in STUDY.checks(few)] == ["gap", "gap", "gap"]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("networks", "rho", [0.0]),
        ("networks", "seeds", 1),
        ("networks", "norms", 7),
        ("networks", "dist", ["cauchy"]),
        ("networks", "method", ["hessian"]),
        ("networks", "depth", [0]),
        ("widths", "alpha", [1.5]),
        ("widths", "width", []),
        ("convolution", "channels", [2]),
        ("convolution", "kernel", 9),
    ],
)
def test_a_setting_that_cannot_be_is_refused(part, key, value):
    with pytest.raises(SettingError, match=rf"study\.{part}\.{key}"):
        dataclasses.replace(STUDY, **{part: {**getattr(STUDY, part), key: value}})


def test_the_figures_are_drawn(tables):
    found = drawings("random_network_pruning", framed(STUDY, tables))
    assert [d.name for d in found] == ["gap", "gap_rescaled", "gap_bound", "widths", "convolution"]
