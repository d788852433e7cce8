"""Deep random features: coefficients, sharp errors, and simulations of small size beside them."""

from __future__ import annotations

import math

import pytest
import torch
import yaml

from sparsebench.errors import SettingError
from sparsebench.paths import config_dir
from sparsebench.report.studies import drawings
from sparsebench.theory import deep_features as df
from sparsebench.theory.deep_random_features import DeepRandomFeatures
from sparsebench.theory.study import Draws
from sparsebench.theory.universality import learnt
from tests.support.studies import framed, ran

CPU = torch.device("cpu")
DEFAULTS = yaml.safe_load((config_dir() / "theory/deep_random_features.yaml").read_text())
DEFAULTS.pop("_target_")
ALPHAS = (0.25, 0.5, 0.8, 1, 1.25, 2, 4)
REFERENCE = {
    (1e-2, 1): (0.386381, 0.339599, 0.321504, 0.295364, 0.253292, 0.178359, 0.131161),
    (1e-2, 4): (0.213684, 0.195892, 0.171430, 0.159931, 0.149707, 0.133037, 0.118074),
    (1e-4, 1): (0.392496, 0.379303, 0.631266, 1.814735, 0.486797, 0.199654, 0.133308),
    (1e-4, 3): (0.271163, 0.372343, 0.562718, 0.638694, 0.401350, 0.196304, 0.133045),
    (1e-4, 10): (0.334792, 0.297234, 0.229157, 0.204525, 0.184433, 0.153226, 0.126261),
}


def study(**settings):
    return DeepRandomFeatures(**{**DEFAULTS, **settings})


def erf(u):
    return torch.erf(u / math.sqrt(2))


def test_the_coefficients_of_tanh_are_the_reference_values():
    found = [(layer.r, layer.kappa1, layer.kappa_star) for layer in df.layers(torch.tanh, 4)]
    wanted = [
        (1, 0.60570551, 0.16557574),
        (0.39429449, 0.76354959, 0.08107760),
        (0.23645041, 0.83334365, 0.04950369),
        (0.16665635, 0.87209526, 0.03397382),
    ]
    assert found == [pytest.approx(row, abs=1e-8) for row in wanted]


@pytest.mark.parametrize("r", [0.3, 1.0, 2.5])
def test_the_coefficients_of_erf_and_sign_are_their_closed_forms(r):
    smooth, jump = df.layer(erf, r), df.layer(torch.sign, r)
    assert smooth.kappa1 == pytest.approx(math.sqrt(2 / math.pi) / math.sqrt(1 + r))
    assert smooth.variance == pytest.approx(2 / math.pi * math.asin(r / (1 + r)))
    assert jump.kappa1 == pytest.approx(math.sqrt(2 / (math.pi * r)))
    assert jump.kappa_star**2 == pytest.approx(1 - 2 / math.pi)


def test_an_activation_with_a_mean_is_centred_and_a_linear_one_has_no_rest():
    relu, linear = df.layer(torch.relu, 1.0), df.layer(lambda u: 3 * u + 1, 2.0)
    assert relu.mean == pytest.approx(1 / math.sqrt(2 * math.pi))
    assert (relu.kappa1, relu.variance) == (pytest.approx(0.5), pytest.approx(0.5 - 1 / (2 * math.pi)))
    assert (linear.mean, linear.kappa1) == (pytest.approx(1), pytest.approx(3))
    assert linear.kappa_star == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("lam", "depth"), list(REFERENCE))
def test_sharp_test_errors_are_the_reference_values(lam, depth):
    layers = df.layers(torch.tanh, depth)
    found = [df.deterministic([300] * (depth + 1), layers, 0.1, lam, int(a * 300)).test for a in ALPHAS]
    assert found == pytest.approx(list(REFERENCE[lam, depth]), abs=1e-6)


def test_sharp_test_errors_of_unequal_widths_are_the_reference_values():
    layers = df.layers(torch.tanh, 2)
    narrow = [df.deterministic([200, 300, 150], layers, 0.1, 1e-2, int(a * 150)).test for a in (0.5, 1, 2, 4)]
    wide = [
        df.deterministic([200, 100, 400], layers, 0.1, 1e-2, int(a * 400)).test for a in (0.25, 0.5, 1, 2)
    ]
    assert narrow == pytest.approx([0.272078, 0.244789, 0.169244, 0.129805], abs=1e-6)
    assert wide == pytest.approx([0.252154, 0.182763, 0.143783, 0.127792], abs=1e-6)


@pytest.mark.parametrize("n", [200, 400, 1600])
def test_the_error_for_drawn_weights_nears_the_one_without_weights(n):
    draws, d = Draws(0, {}, CPU), 400
    layers = df.layers(torch.tanh, 2)
    weights = [draws.normal(1, d, d) / math.sqrt(d) for _ in layers]
    values = torch.linalg.eigvalsh(df.Network(torch.tanh, layers, weights).covariance()[0] / d)
    drawn = df.conditional(values, torch.ones(d, dtype=torch.float64), 0.1, 1e-2, n)
    free = df.deterministic([d] * 3, layers, 0.1, 1e-2, n)
    assert drawn.test == pytest.approx(free.test, rel=0.02)
    assert drawn.train == pytest.approx(free.train, rel=0.03)
    assert drawn.df1 == pytest.approx(free.df1, rel=0.02)


def test_isotropic_features_have_the_marchenko_pastur_trace():
    # (1/k) tr (A'A + lam)^-1 of white features is the Stieltjes transform of the Marchenko-Pastur law at -lam
    k, n, lam = 300, 600, 0.05
    found = df.conditional(torch.full((k,), 1 / k).double(), torch.zeros(k).double(), 0.1, lam, n)
    z, c, s = lam, k / n, n / k  # A'A = s * a white Wishart matrix of ratio c
    wanted = (-(1 - c) * s - z + math.sqrt(((1 - c) * s + z) ** 2 + 4 * c * s * z)) / (2 * c * s * z)
    assert (k - found.df1) / (k * lam) == pytest.approx(wanted)


def test_without_noise_and_ridge_many_samples_leave_no_error():
    layers = df.layers(torch.tanh, 2)
    assert df.deterministic([100] * 3, layers, 0.0, 1e-9, 300).test < 1e-7
    assert df.deterministic([100] * 3, layers, 0.2, 1e-9, 100_000).test == pytest.approx(0.2, rel=2e-3)


def test_ridge_regression_has_no_gradient_on_either_side_of_interpolation():
    for n, k in ((5, 9), (9, 5)):
        draws = Draws(0, {"n": n}, CPU)
        design, targets = draws.normal(3, n, k), draws.normal(3, n)
        found = df.ridge(design, targets, 0.3)
        residual = (design @ found[..., None]).squeeze(-1) - targets
        gradient = (design.transpose(1, 2) @ residual[..., None]).squeeze(-1) + 0.3 * found
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_labels_are_learnt_to_the_least_penalised_loss(loss):
    draws = Draws(0, {}, CPU)
    design, lam = draws.normal(1, 40, 3), 0.5
    labels = torch.sign(design @ torch.tensor([1.0, -2.0, 0.5]).double() + 0.5 * draws.normal(1, 40))

    def objective(theta):
        margins = (design @ theta[..., None]).squeeze(-1) * labels
        own = torch.nn.functional.softplus(-margins) if loss == "logistic" else (1 - margins).relu()
        return (own.sum() + lam / 2 * theta.square().sum()).item()

    found = learnt(loss, design, labels, lam)
    best = objective(found)
    assert all(objective(found + 0.05 * draws.normal(1, 3)) > best for _ in range(50))


def test_simulations_are_within_their_errors_of_the_predictions():
    small = study(
        seeds=10, d=100, depths=[2], alphas=[0.5, 2], lams=[0.01], test_samples=500,
        teacher={"depth": 1, "lam": 0.01, "width_ratio": 1.5, "alphas": [1]},
    )  # fmt: skip
    for point in small.points()[:3]:
        for row in small.rows(point, CPU)["deep_random_features"]:
            for theory in (row["theory_det"], row["theory_cond"]):
                if not math.isnan(theory):
                    assert abs(row["mc_test"] - theory) <= 0.04 * theory + 3.5 * row["se_test"], row
            assert (
                abs(row["mc_train"] - row["theory_train"])
                <= 0.06 * row["theory_train"] + 3.5 * row["se_train"]
            )


def test_real_and_gaussian_features_learn_labels_alike():
    small = study(universality={**DEFAULTS["universality"], "d": 60, "alphas": [2]}, test_samples=400)
    for point in small.points()[-3:]:
        (row,) = small.rows(point, CPU)["universality"]
        error = math.hypot(row["se_real_error"], row["se_gaussian_error"])
        assert abs(row["real_error"] - row["gaussian_error"]) <= 0.03 * row["gaussian_error"] + 3.5 * error
        assert math.isnan(row["theory_loss"]) == (row["loss"] != "squared")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"activation": "tangent"}, "activation=tangent: expected a function of torch.nn.functional"),
        ({"activation": "cos"}, "activation=cos: expected a function with a linear part"),
        ({"depths": [0]}, r"depths=0: expected a list of numbers in \[1, 50\]"),
        ({"lams": [0]}, "lams=0: expected a list of numbers"),
        ({"universality": {**DEFAULTS["universality"], "losses": ["hing"]}}, "did you mean 'hinge'?"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, said):
    with pytest.raises(SettingError, match=said):
        study(**settings)


def test_figures_are_drawn_of_a_small_grid_and_of_parts_alone():
    small = study(
        seeds=2, d=20, depths=[1, 2], alphas=[1], lams=[0.01], test_samples=20, curves={"depths": [1], "alphas": 3},
        teacher={"depth": 1, "lam": 0.01, "width_ratio": 1.0, "alphas": []},
        linearisation={"depths": [1], "d": [10, 20], "samples": 100, "seeds": 2},
        traces={"depth": 1, "alpha": 2, "d": [10, 30], "lams": [0.01], "seeds": 2},
        universality={"losses": ["squared"], "depth": 1, "d": 10, "lam": 0.01, "alphas": [1], "seeds": 2},
    )  # fmt: skip
    tables = ran(small)
    assert len(list(small.checks(tables))) > 5
    frames = framed(small, tables)
    names = [drawing.name for drawing in drawings("deep_random_features", frames)]
    assert names == ["test_error", "depths", "resolvent", "universality", "linearisation"]
    empty = {name: frame.iloc[:0] for name, frame in frames.items()}
    only = {**empty, "linearisation": frames["linearisation"]}
    assert [drawing.name for drawing in drawings("deep_random_features", only)] == ["linearisation"]
