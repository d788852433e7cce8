"""Pruned least squares: closed forms, reference values, and simulations of small size beside them."""

from __future__ import annotations

import math

import pytest
import torch

from sparsebench.errors import SettingError
from sparsebench.report.studies import drawings
from sparsebench.theory import least_squares as ls
from sparsebench.theory.overparam_prune import OverparamPrune
from sparsebench.theory.pruned_estimates import Problem, against, estimates, gaussianity, supports
from tests.support.studies import framed, ran

CPU = torch.device("cpu")
DIAG = {"n": 200, "informative": 60, "weak": 940, "noise": 0.1, "features": [60], "keep": []}
GENERAL = {"n": 20, "noise": 0.1, "correlation": 0.5, "keep": 5, "features": [40], "seeds": 4, "draws": 4}
RF = {"n": 20, "d": 10, "noise": 0.1, "keep": 5, "features": [40], "seeds": 4, "draws": 4}
LATENT = {"n": 20, "p": 40, "noise": 0.1, "bulk": 0.2, "keep": 5, "seeds": 4, "draws": 4}


def study(**settings):
    given = {"seed": 0, "seeds": 2, "diag": DIAG, "general": GENERAL, "rf": RF, "latent": LATENT}
    return OverparamPrune(**{**given, **settings})


def rows(own, point):
    found = own.rows(point, CPU)["overparam_prune"]
    return {(row["method"], row["retrain"]): row for row in found}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_equal_variances_have_the_closed_form_of_the_ridgeless_limit():
    # xi v / (1 + xi v) = n / p for all: xi = n / ((p - n) v)
    found = ls.limit(torch.full((400,), 2.0).double(), torch.full((400,), 0.05).double(), 0.3, 100)
    assert found.xi == pytest.approx(100 / 300 / 2.0)
    bias, signal = (1 - 100 / 400) ** 2, 400 * 2.0 * 0.05**2
    assert found.risk == pytest.approx((0.3 + bias * signal) / (1 - 100 / 400))
    assert found.gamma == pytest.approx(4 * found.risk)
    assert found.mean[0] == pytest.approx(0.05 / 4)


@pytest.mark.parametrize(
    ("p", "xi", "full", "magnitude", "hessian", "oracle", "random"),
    [
        (100, math.inf, 0.582979, 0.863766, 0.618268, 0.474894, 0.789787),
        (150, math.inf, 1.123404, 1.593380, 1.115606, 0.637021, 1.109362),
        (220, 7.136053, 3.031635, 2.673333, 2.506536, 1.199404, 1.626809),
        (300, 1.439572, 0.865671, 1.341523, 0.749783, 0.546434, 1.053134),
        (600, 0.370047, 0.454499, 0.871275, 0.434342, 0.418658, 1.035450),
        (1000, 0.190495, 0.393047, 0.623905, 0.407958, 0.404633, 1.057583),
    ],
)
def test_the_predictions_for_a_diagonal_covariance_are_the_reference_values(
    p, xi, full, magnitude, hessian, oracle, random
):
    found = rows(study(), {"design": "diag", "p": p, "keep": 60})
    predicted = {method: row["theory_risk"] for (method, retrain), row in found.items() if not retrain}
    wanted = {"none": full, "magnitude": magnitude, "hessian": hessian, "oracle": oracle, "random": random}
    assert predicted == pytest.approx(wanted, abs=1e-6)
    assert found["none", False]["xi"] == pytest.approx(xi, abs=1e-6)
    assert math.isnan(found["magnitude", True]["theory_risk"])
    assert found["oracle", True]["theory_risk"] == pytest.approx(0.3 * (1 + 60 / 139))


@pytest.mark.parametrize(
    ("keep", "magnitude", "hessian", "oracle"),
    [
        (20, 0.874569, 0.848791, 0.868211),
        (100, 0.530786, 0.404189, 0.404140),
        (400, 0.406509, 0.395848, 0.400442),
    ],
)
def test_the_predictions_for_other_numbers_kept_are_the_reference_values(keep, magnitude, hessian, oracle):
    found = rows(study(), {"design": "diag", "p": 1000, "keep": keep})
    predicted = [found[m, False]["theory_risk"] for m in ("magnitude", "hessian", "oracle")]
    assert predicted == pytest.approx([magnitude, hessian, oracle], abs=1e-6)
    assert (("oracle", True) in found) == (keep < 199)


def test_the_predictions_for_one_factor_are_the_reference_values():
    latent = {**LATENT, "n": 150, "p": 500, "keep": 50, "seeds": 2, "draws": 2}
    found = rows(study(latent=latent), {"design": "latent", "p": 500, "keep": 50})
    assert found["none", False]["xi"] == pytest.approx(2.12858907, abs=1e-7)
    assert found["none", False]["theory_risk"] == pytest.approx(0.14352769, abs=1e-7)
    assert found["oracle", False]["theory_risk"] == pytest.approx(0.79013674, abs=1e-7)
    assert found["oracle", True]["theory_risk"] == pytest.approx(0.15280465, abs=1e-7)


def test_estimates_are_drawn_with_the_covariance_of_the_limit_also_where_features_repeat_each_other():
    loading = torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    singular, one = loading @ loading.T, torch.eye(12, dtype=torch.float64)
    factors = []
    for covariance in (singular, singular + 1e-9 * one):
        target = covariance[:, 0]
        problem = Problem(
            covariance[None], target[None], double([0.3]), torch.zeros(1, 5, 12), torch.zeros(1, 5)
        )
        ((limit, mean, factor),) = problem._limits(5)
        shrunk = torch.linalg.inv(one + limit.xi * covariance)
        wanted = limit.risk / 5 * limit.xi**2 * shrunk @ covariance @ shrunk
        assert torch.allclose(factor @ factor.T, wanted, atol=1e-10)
        assert torch.allclose(mean, limit.xi * shrunk @ covariance @ target)
        factors.append(factor)
    assert torch.allclose(*factors, atol=1e-4)


def test_one_factor_without_noise_is_restored_by_retraining_alone():
    loading = torch.linspace(1.5, 0.5, 200, dtype=torch.float64)
    factor = torch.randn(1, 30, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features, targets = factor * loading, factor.squeeze(-1)
    found = torch.linalg.pinv(features) @ targets[..., None]  # of rank one: no Cholesky factor
    kept = ls.largest(found.squeeze(-1).abs(), 40)
    risk = (1 - (ls.pruned(found.squeeze(-1), kept) @ loading)) ** 2
    assert risk.item() == pytest.approx(0.4054807085, abs=1e-9)
    again = ls.estimate_on(features, targets, kept[:, :1])  # one feature of the factor explains all
    assert (1 - again @ loading).item() == pytest.approx(0, abs=1e-12)


def test_simulations_are_within_their_errors_of_the_predictions():
    own = study(
        seeds=20,
        diag={**DIAG, "n": 100, "informative": 30, "weak": 470, "features": [50, 300]},
        general={**GENERAL, "n": 60, "features": [30, 150], "seeds": 20, "draws": 20},
        rf={**RF, "n": 60, "d": 40, "features": [150], "seeds": 10, "draws": 20},
    )
    for point in own.points():
        for row in own.rows(point, CPU)["overparam_prune"]:
            theory = row["theory_risk"]
            if not math.isnan(theory) and row["design"] != "latent":
                assert abs(row["mc_risk"] - theory) <= 0.05 * theory + 3.5 * row["se_risk"], row


def test_the_least_norm_solution_is_numpys_and_ordinary_least_squares_too():
    generator = torch.Generator().manual_seed(0)
    for n, p in ((5, 12), (12, 5)):
        features = torch.randn(3, n, p, dtype=torch.float64, generator=generator)
        targets = torch.randn(3, n, dtype=torch.float64, generator=generator)
        wanted = (torch.linalg.pinv(features) @ targets[..., None]).squeeze(-1)
        assert torch.allclose(ls.estimate(features, targets), wanted, atol=1e-10)


def test_methods_keep_what_their_scores_say():
    found, hessian = double([[3.0, -4.0, 1.0]]), double([[4.0, 1.0, 1.0]])
    kept = supports(found, hessian, double([[0.0, 1.0, 2.0]]), double([[0.5, 0.1, 0.9]]), 1)
    assert {method: support.item() for method, support in kept.items()} == {
        "magnitude": 1, "hessian": 0, "oracle": 2, "random": 2,
    }  # fmt: skip
    assert ls.pruned(found, kept["magnitude"]).tolist() == [[0.0, -4.0, 0.0]]
    assert ls.largest(double([[1.0, 1.0, 1.0]]), 2).tolist() == [[0, 1]], "of equal scores the first"


def test_keeping_all_is_not_pruning():
    features = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets, found = features.sum(-1), torch.ones(2, 4, dtype=torch.float64)
    every = dict(estimates(features, targets, found, {"magnitude": torch.arange(4).expand(2, 4)}, 6))
    assert torch.equal(every["magnitude", False], found)
    assert torch.allclose(every["magnitude", True], found)
    variances = double([1.0, 2.0])
    limit = ls.limit(variances, double([1.0, 0.5]), 0.1, 5)
    assert ls.thresholded(variances, double([1.0, 0.5]), limit, 0.1, 2, torch.ones(2)) == limit.risk
    assert ls.on_support(variances, double([1.0, 0.5]), limit, 0.1, torch.ones(2)) == pytest.approx(
        0.1 * 5 / 3
    )


def test_scaling_features_and_coefficients_against_each_other_changes_no_risk():
    variances, target = torch.linspace(0.5, 3, 50).double(), torch.linspace(-0.3, 0.2, 50).double()
    weights = variances.sqrt()
    first, second = (ls.limit(variances * s**2, target / s, 0.1, 20) for s in (1.0, 3.0))
    assert second.risk == pytest.approx(first.risk)
    assert second.xi == pytest.approx(first.xi / 9)
    risks = [
        ls.thresholded(variances * s**2, target / s, found, 0.1, 7, weights * s)
        for s, found in ((1.0, first), (3.0, second))
    ]
    assert risks[1] == pytest.approx(risks[0])


def test_a_paired_prediction_has_the_error_of_the_difference():
    risks = double([1.0, 2.0, 3.0])
    assert against(risks, risks[:, None] + 0.5)["se_risk"] == 0
    alone = against(risks, double([[2.0]]))
    assert alone["se_risk"] == pytest.approx(1 / math.sqrt(3))
    assert against(risks, double([[1.0, 2.0, 3.0]]))["se_risk"] == pytest.approx(math.sqrt(2 / 3))


def test_gaussian_residuals_are_near_their_law_and_shifted_ones_are_not():
    values = torch.special.ndtri((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
    assert gaussianity(values)["ks_distance"] == pytest.approx(0.0005)
    assert gaussianity(values + 1)["ks_distance"] > 0.3


def test_results_do_not_depend_on_the_number_of_threads():
    own, point = study(), {"design": "diag", "p": 300, "keep": 60}
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append([row["mc_risk"] for row in own.rows(point, CPU)["overparam_prune"]])
    torch.set_num_threads(1)
    assert found[0] == pytest.approx(found[1], rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seeds": 1}, "seeds=1: expected an integer, at least 2"),
        ({"diag": {**DIAG, "features": [200]}}, "study.diag.features=200: expected no 200"),
        ({"diag": {**DIAG, "features": []}}, r"study.diag.features=\[\]: expected a list"),
        ({"diag": {**DIAG, "features": [1001]}}, "study.diag.features=1001: expected at most 1000"),
        ({"rf": {**RF, "n": 6}}, "study.rf.n=6: expected more than 6 samples"),
        ({"latent": {**LATENT, "draws": 1}}, "study.latent.draws=1: expected an integer"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, said):
    with pytest.raises(SettingError, match=said):
        study(**settings)


def test_figures_are_drawn_of_a_small_grid():
    own = study(diag={**DIAG, "features": [60, 220]})
    tables = ran(own)
    assert {check.check.split(",")[0] for check in own.checks(tables)} >= {"risk"}
    frames = framed(own, tables)
    names = [drawing.name for drawing in drawings("overparam_prune", frames)]
    assert names == ["risk_diag", "risk_general", "risk_rf", "risk_kept", "retraining"]
