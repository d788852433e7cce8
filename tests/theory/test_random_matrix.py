"""Random matrices: the maths against closed forms and known numbers, the study on a small grid."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from scipy.integrate import quad, simpson
from sklearn.covariance import OAS, LedoitWolf

from sparsebench.errors import SettingError
from sparsebench.report.studies import drawings
from sparsebench.report.style import rendered, settings
from sparsebench.theory import bema, shrinkage, spectra, top_eigenvalue, weight_spectra
from sparsebench.theory import spectral_autoencoder as autoencoder
from sparsebench.theory.random_matrix import RandomMatrix
from sparsebench.theory.study import Draws, Tables
from tests.support import ROOT
from tests.support.studies import framed, ran

CPU = torch.device("cpu")
ATOMS = np.array([1.0, 3.0, 10.0]), np.array([0.2, 0.4, 0.4])
OFF: dict[str, dict[str, Any]] = {
    "top_eigenvalue": {"sizes": [], "spiked_sizes": [], "spectra": [], "small": []},
    "cleaning": {"sizes": []},
    "autoencoder": {"sizes": []},
    "weights": {"sizes": []},
}
SMALL: dict[str, dict[str, Any]] = {
    "top_eigenvalue": {
        "sizes": [[100, 50]], "spiked_sizes": [[100, 25]], "spikes": [1.1, 3], "spectra": ["uniform"], "ratios": [0.5],
        "variables": [50], "small": [1, 5], "seeds": 200, "small_seeds": 400,
    },
    "cleaning": {"sizes": [[30, 60]], "seeds": 4},
    "autoencoder": {"sizes": [[10, 30]], "train_spectra": 256, "test_spectra": 40, "epochs": 2},
    "weights": {"sizes": [[40, 60]], "strengths": [6, 5, 0.3], "seeds": 3},
}  # fmt: skip


def study(*changes: dict[str, dict[str, Any]]) -> RandomMatrix:
    config = yaml.safe_load((ROOT / "conf/theory/random_matrix.yaml").read_text())
    config.pop("_target_")
    for change in changes:
        for part, values in change.items():
            config[part].update(copy.deepcopy(values))
    return RandomMatrix(**config)


@pytest.fixture(scope="module")
def small() -> Tables:
    return ran(study(SMALL))


def draws(**point: Any) -> Draws:
    return Draws(0, point, CPU)


# --------------------------------------------------------------------------------------- laws


def test_the_tracy_widom_law_has_its_known_quantiles_mean_and_deviation() -> None:
    found = [spectra.tracy_widom_quantile(share) for share in (0.9, 0.95, 0.99)]
    assert found == pytest.approx([0.45014, 0.97931, 2.02345], abs=1e-5)
    s = np.linspace(-8, 7, 51)
    law = np.array([spectra.tracy_widom(value) for value in s])
    mean = s[-1] - simpson(law, x=s)
    second = s[-1] ** 2 - 2 * simpson(law * s, x=s)
    assert mean == pytest.approx(spectra.TW_MEAN, abs=1e-5)
    assert math.sqrt(second - mean**2) == pytest.approx(spectra.TW_SD, rel=1e-5)
    assert spectra.tracy_widom(-50) == 0 and spectra.tracy_widom(50) == 1


@pytest.mark.parametrize("q", [0.25, 1.0])
def test_the_marchenko_pastur_law_is_the_integral_of_its_density(q: float) -> None:
    law = spectra.MarchenkoPastur(q, 2.0)
    low, high = law.edges
    assert (low, high) == pytest.approx((2 * (1 - math.sqrt(q)) ** 2, 2 * (1 + math.sqrt(q)) ** 2))

    def density(x: float) -> float:
        return math.sqrt(max((high - x) * (x - low), 0)) / (4 * math.pi * q * x)

    for x in (0.9 * low + 0.1 * high, (low + high) / 2):
        assert law.cdf(np.array(x)) == pytest.approx(quad(density, low, x)[0], abs=1e-7)
    assert law.cdf(np.array([low, high])).tolist() == pytest.approx([0, 1])
    shares = np.array([0.0, 0.1, 0.7, 1.0])
    assert law.cdf(law.quantile(shares)) == pytest.approx(shares, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "p", "mean"), [(100, 25, 2.114171), (400, 200, 2.859077), (400, 100, 2.198203)]
)
def test_white_data_has_the_known_mean_of_the_largest_eigenvalue(n: int, p: int, mean: float) -> None:
    law = spectra.white(n, p)
    assert law.mean == pytest.approx(mean, rel=1e-6)
    assert law.edge == pytest.approx((1 + math.sqrt(p / n)) ** 2)
    assert law.over == pytest.approx(1)


@pytest.mark.parametrize(
    ("n", "p", "spike", "mean", "sd", "overlap"),
    [
        (400, 100, 2, 2.5, 0.122474, 0.6),
        (400, 100, 3, 3.375, 0.205396, 0.833333),
        (400, 200, 2.5, 3.333333, 0.155902, 0.583333),
        (400, 200, 5, 5.625, 0.347985, 0.861111),
    ],
)
def test_a_spike_leaves_the_bulk(
    n: int, p: int, spike: float, mean: float, sd: float, overlap: float
) -> None:
    law = spectra.spiked(n, p, spike)
    assert (law.mean, law.sd, law.overlap) == pytest.approx((mean, sd, overlap), rel=5e-6)


def test_a_spike_at_the_threshold_is_hidden() -> None:
    law = spectra.spiked(400, 100, spectra.bbp_threshold(0.25))
    assert (law.mean, law.overlap) == pytest.approx((2.19820, 0), rel=1e-5)


def test_a_spike_exceeds_its_true_value_with_the_known_probability() -> None:
    assert spectra.spiked(400, 100, 3).over == pytest.approx(0.966, abs=5e-4)
    assert spectra.spiked(400, 100, 5).over == pytest.approx(0.814, abs=5e-4)


@pytest.mark.parametrize(
    ("values", "q", "low", "high", "mean"),
    [
        (np.linspace(1, 3, 100), 0.5, 0.148918, 6.403857, 6.3232),
        (np.geomspace(1, 10, 100), 0.5, 0.187435, 16.504069, 16.2294),
        (np.geomspace(1, 10, 100), 0.25, 0.466881, 13.866315, 13.6769),
    ],
)
def test_a_general_spectrum_has_the_known_edges(
    values: np.ndarray, q: float, low: float, high: float, mean: float
) -> None:
    assert spectra.edges(values, np.full(100, 0.01), q) == pytest.approx((low, high), rel=4e-6)
    law = spectra.general(round(400 / q), np.repeat(values, 4))
    assert (law.edge, law.mean) == pytest.approx((high, mean), rel=1e-5)


def test_a_white_spectrum_has_the_same_edge_by_the_general_formula_and_edges_scale() -> None:
    ones = np.ones(200)
    low, high = spectra.edges(7 * ones, ones / 200, 0.5)
    assert (low / 7, high / 7) == pytest.approx(spectra.MarchenkoPastur(0.5).edges)
    assert spectra.general(400, ones).mean == pytest.approx(spectra.white(400, 200).mean, rel=2e-3)


# -------------------------------------------------------------------------------------- cleaning


def test_estimators_give_the_known_numbers() -> None:
    values = torch.tensor([0.2, 0.5, 0.8, 1.1, 1.4, 2.0], dtype=torch.float64)
    known = {
        "raw": (0.37537058, 0.90094211, 1.24630107, 1.37813115, 1.40405873, 1.55277180),
        "corrected": (0.84041425, 0.90585445, 0.96662608, 1.04500626, 1.06466657, 1.17743239),
        "nonlinear": (0.51888165, 1.05688422, 0.96358656, 1.10743329, 1.07309881, 1.29792272),
    }
    assert shrinkage.rotationally_invariant(values, 0.3).tolist() == pytest.approx(known["raw"], abs=1e-8)
    assert shrinkage.corrected(values, 0.3).tolist() == pytest.approx(known["corrected"], abs=1e-8)
    assert shrinkage.nonlinear_ledoit_wolf(values, 20).tolist() == pytest.approx(known["nonlinear"], abs=1e-8)


def test_estimators_scale_with_the_data_and_treat_each_of_a_batch_alone() -> None:
    values = draws(a=1).uniform(3, 8).sort(-1).values + 0.1
    for estimate in (
        lambda x: shrinkage.rotationally_invariant(x, 0.4),
        lambda x: shrinkage.corrected(x, 0.4),
        lambda x: shrinkage.nonlinear_ledoit_wolf(x, 20),
        lambda x: shrinkage.clipped(x, 0.4),
    ):
        assert torch.allclose(estimate(7 * values), 7 * estimate(values), rtol=1e-12)
        assert torch.allclose(estimate(values)[1], estimate(values[1]), rtol=1e-12)


def test_linear_shrinkage_is_that_of_scikit_learn() -> None:
    data = draws(a=2).normal(2, 30, 6) * torch.tensor([1.0, 1, 1, 2, 2, 3])
    sample = shrinkage.Sample.of(data, torch.ones(1, 6, dtype=torch.float64))
    found = shrinkage.estimates(sample, 30, shrinkage.linear_intensities(data))
    for name, estimator in (("lw_linear", LedoitWolf), ("oas", OAS)):
        known = estimator(assume_centered=True).fit(data[1].numpy()).covariance_
        assert found[name][1].numpy() == pytest.approx(np.linalg.eigvalsh(known), rel=1e-10)


def test_the_loss_is_the_distance_of_matrices_and_no_eigenvalues_beat_the_oracles() -> None:
    variances = torch.tensor([[1.0, 2, 3, 4]], dtype=torch.float64)
    data = draws(a=3).normal(1, 9, 4) * variances.sqrt()
    sample = shrinkage.Sample.of(data, variances)
    gram = data[0].T @ data[0] / 9
    expected = ((gram - variances[0].diag()) ** 2).sum() / 4
    assert sample.loss(sample.values, variances).item() == pytest.approx(expected.item())
    best = sample.loss(sample.oracle, variances)
    for step in (0.01, -0.01):
        assert (sample.loss(sample.oracle + step, variances) > best).all()


def test_limits_are_those_known() -> None:
    prior = shrinkage.limits_of_inverse_wishart(0.4, 0.5)
    assert (prior.sample, prior.oracle, prior.linear, prior.intensity) == pytest.approx(
        (0.5, 0.285714, 0.285714, 0.428571), rel=2e-6
    )
    third, half = (shrinkage.limits_of_atoms(*ATOMS, q) for q in (1 / 3, 0.5))
    assert (third.sample, third.linear) == pytest.approx((9.72, 5.841576), rel=1e-6)
    assert third.oracle == pytest.approx(4.017089, rel=1e-4)  # the reference is a quadrature across a gap
    assert (half.oracle, half.linear) == pytest.approx((5.791592, 7.304969), rel=1e-6)


def test_the_limit_of_white_data_shrinks_all_to_one_and_has_the_bulks_moments() -> None:
    bulk = spectra.bulk(np.ones(1), np.ones(1), 0.5)
    assert bulk.shrunk == pytest.approx(np.ones(4000), rel=1e-6)
    moments = [(bulk.mass * bulk.x**k).sum() for k in range(3)]
    assert moments == pytest.approx([1, 1, 1.5], rel=1e-6)


def test_a_spectrum_with_a_gap_has_no_eigenvalues_in_it() -> None:
    bulk = spectra.bulk(*ATOMS, 1 / 3)
    assert bulk.mass.sum() == pytest.approx(1, abs=1e-5)
    assert not ((bulk.x > 4.72) & (bulk.x < 4.86)).any()
    assert (bulk.mass * bulk.x).sum() == pytest.approx(5.4, rel=1e-5)


# --------------------------------------------------------------------------------------- weights


def test_matching_the_bulk_finds_the_variance_of_exact_quantiles_and_scales() -> None:
    values = spectra.MarchenkoPastur(0.5, 3.0).quantile((np.arange(100) + 0.5) / 100)
    found = bema.fit(values, 200, 0.2, 0.1)
    assert found.variance == pytest.approx(3, rel=1e-9)
    assert (found.spikes, found.uncorrected, found.shift) == (0, 0, 0)
    assert found.distance < 0.006
    root = math.sqrt(0.5)
    margin = 0.45014 * 200 ** (-2 / 3) * 0.5 ** (-1 / 6) * (1 + root) ** (4 / 3)
    assert found.threshold == pytest.approx(3 * ((1 + root) ** 2 + margin), rel=1e-5)
    grown = bema.fit(np.append(values[:-2], [30, 40]), 200, 0.2, 0.1)
    assert (grown.spikes, grown.variance) == (2, pytest.approx(3, rel=1e-9))


def test_the_kurtosis_of_sparse_noise_moves_its_edge_as_predicted() -> None:
    noise = weight_spectra.planted(128, 512, 0.9, [], 40, draws(a=4))
    values = torch.linalg.eigvalsh(noise @ noise.mT / 512)
    found = [bema.fit(each.numpy(), 512, 0.2, 0.1, 27.0) for each in values]
    shift = np.array(
        [(top - fit.edge) / fit.variance for top, fit in zip(values[:, -1].tolist(), found, strict=True)]
    )
    scale = spectra.general(512, np.ones(128)).sd / spectra.TW_SD
    expected = 27 * (1 + 0.5) ** 2 / (0.5 * 512) + spectra.TW_MEAN * scale
    assert shift.mean() == pytest.approx(expected, rel=0.1, abs=3.5 * shift.std() / math.sqrt(40))
    assert np.median([fit.spikes for fit in found]) == 0
    assert np.median([fit.uncorrected for fit in found]) >= 2


def test_planted_noise_has_variance_one_and_spikes_where_they_are_predicted() -> None:
    matrix = weight_spectra.planted(60, 240, 0.5, [8.0], 30, draws(a=5))
    quiet = weight_spectra.planted(60, 240, 0.5, [], 30, draws(a=5))
    assert quiet.var().item() == pytest.approx(1, abs=0.02)
    assert (quiet == 0).double().mean().item() == pytest.approx(0.5, abs=0.01)
    largest = torch.linalg.eigvalsh(matrix @ matrix.mT / 240)[:, -1]
    strength = 8 * 0.5
    expected = (1 + strength) * (0.25 + strength) / strength
    error = largest.std().item() / math.sqrt(30)
    assert largest.mean().item() == pytest.approx(expected, rel=0.01, abs=3.5 * error)


def test_planted_directions_prefer_no_sign() -> None:
    corner = weight_spectra.planted(8, 12, 0, [100, 50], 400, draws(a=8))[:, 0, 0]
    assert corner.mean().item() == pytest.approx(0, abs=3.5 * corner.std().item() / math.sqrt(400))


def test_a_weights_row_ignores_transposition_scale_and_zero_rows_in_its_rank() -> None:
    matrix = weight_spectra.planted(40, 80, 0, [9, 7], 1, draws(a=6))[0]
    row, values = weight_spectra.analysed(matrix, 0.2, 0.1)
    assert row["rank"] == 2 and values.shape == (40,)
    assert row["rank_sparsity"] == pytest.approx(1 - 2 * 120 / 3200)
    assert row["spike_share"] == pytest.approx((values[-2:].sum() / values.sum()).item())
    assert weight_spectra.analysed(3 * matrix.T, 0.2, 0.1)[0]["rank"] == 2
    padded, _ = weight_spectra.analysed(torch.cat([matrix, torch.zeros(10, 80)]), 0.2, 0.1)
    assert (padded["rank"], padded["variance"]) == (2, pytest.approx(row["variance"]))
    assert (padded["outputs"], padded["live_outputs"], padded["sparsity"]) == (50, 40, pytest.approx(0.2))


def test_a_matrix_without_weights_has_no_rank() -> None:
    row, values = weight_spectra.analysed(torch.zeros(10, 5, dtype=torch.float64), 0.2, 0.1)
    assert math.isnan(row["rank"]) and row["sparsity"] == 1 and len(values) == 0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with a linear layer, an empty convolution, and one that is not prunable."""
    weight = weight_spectra.planted(60, 90, 0, [9], 1, draws(a=7))[0].float()
    tensors = {"one.weight": weight, "two.weight": torch.zeros(8, 4, 3, 3), "fc.weight": torch.ones(3, 8)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "layers.csv").write_text(
        "layer,shape,prunable\none.weight,60x90,True\ntwo.weight,8x4x3x3,True\nfc.weight,3x8,False\n"
    )
    return tmp_path


def test_a_run_gives_a_row_for_each_prunable_layer_and_figures(run: Path) -> None:
    own = study(OFF, {"weights": {"run": str(run)}})
    assert own.points() == [{"part": "weights", "run": str(run)}]
    tables = ran(own)
    first, second = tables["weights"]
    assert (first["layer"], first["rank"], second["layer"]) == ("one.weight", 1, "two.weight")
    assert math.isnan(second["rank"]) and second["inputs"] == 36
    assert len(tables["spectrum"]) == 60
    assert list(own.checks(tables)) == []
    with settings():
        found = drawings("random_matrix", framed(own, tables))
    assert [drawing.name for drawing in found] == ["spectra_run", "ranks_run"]


# --------------------------------------------------------------------------------------- the study


def test_the_first_table_has_the_studys_name() -> None:
    assert next(iter(RandomMatrix.tables)) == "random_matrix"


def test_a_small_grid_agrees_with_the_predictions(small: Tables) -> None:
    checks = list(study(SMALL).checks(small))
    wanted = (
        "largest eigenvalue",
        "smallest",
        "overlap",
        "true largest",
        "bound",
        "loss, oracle",
        "variance",
    )
    held = [check for check in checks if check.check.startswith(wanted)]
    assert len(held) >= 15
    for check in held:
        if check.check == "largest eigenvalue":  # of so few variables the laws are a little further off
            assert abs(check.deviation) < 0.03 + 3.5 * check.standard_error / check.predicted
        elif not check.check.startswith(("variance", "overlap")):
            assert check.passed, check


def test_a_single_variable_meets_the_bound_of_over_estimation(small: Tables) -> None:
    rows = [row for row in small["random_matrix"] if row["spectrum"] == "small" and row["p"] == 1]
    assert [row["p_over_bound"] for row in rows] == pytest.approx([0.406006, 0.261464], abs=1e-6)
    for row in rows:
        assert row["p_over_mc"] == pytest.approx(row["p_over_bound"], abs=3.5 * 0.5 / math.sqrt(400))


def test_rows_are_the_same_every_time_and_depend_on_the_seed() -> None:
    own = study(SMALL)
    for point in (own.points()[0], own.points()[-1]):
        assert json.dumps(own.rows(point, CPU)) == json.dumps(own.rows(point, CPU))  # NaN is not NaN
    other = RandomMatrix(1, own.top_eigenvalue, own.cleaning, own.autoencoder, own.weights)
    assert own.rows(own.points()[0], CPU) != other.rows(own.points()[0], CPU)


def test_a_batch_of_draws_does_not_change_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_eigenvalue, "NUMBERS", 3 * 20 * 5)
    own = {**study(SMALL).top_eigenvalue, "seeds": 7}
    row = top_eigenvalue.row(own, {"spectrum": "white", "n": 20, "p": 5}, draws(a=8))
    assert row["seeds"] == 7 and row["mc_mean"] > row["true_max"]


def test_networks_learn_their_own_targets() -> None:
    inputs = draws(a=9).uniform(512, 4).sort(-1).values
    targets = torch.stack([inputs, 2 * inputs + 1])
    networks = autoencoder.Networks(inputs, targets, draws(a=10))
    before = ((networks(inputs) - targets) ** 2).mean((1, 2))
    networks.train(120, draws(a=11))
    after = ((networks(inputs) - targets) ** 2).mean((1, 2))
    assert (after < 0.5 * before).all()
    assert networks(inputs[:3]).shape == (2, 3, 4)


def test_every_part_draws_its_figures(small: Tables) -> None:
    with settings():
        found = drawings("random_matrix", framed(study(SMALL), small))
        assert rendered(found[0].figure)["png"]
    assert [drawing.name for drawing in found] == [
        "largest_spiked", "overlap", "largest", "over_estimation", "prial", "shrinkage", "autoencoder",
        "spectra_planted", "ranks_planted",
    ]  # fmt: skip


PARTS = {
    "top_eigenvalue": (["random_matrix"], 4),
    "cleaning": (["cleaning", "shrinkage"], 2),
    "autoencoder": (["autoencoder"], 1),
    "weights": (["weights", "spectrum"], 2),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs_checks_and_draws_alone(part: str, small: Tables) -> None:
    own = study(SMALL, {name: values for name, values in OFF.items() if name != part})
    assert {point["part"] for point in own.points()} == {part}
    names, figures = PARTS[part]
    left = {name: rows if name in names else [] for name, rows in small.items()}
    with settings():
        assert len(drawings("random_matrix", framed(own, left))) == figures
    assert bool(list(own.checks(left))) == (part != "cleaning")  # there only of many variables


def test_all_parts_off_is_an_empty_study() -> None:
    own = study(OFF)
    tables: Tables = {name: [] for name in own.tables}
    assert own.points() == [] and list(own.checks(tables)) == []
    assert drawings("random_matrix", framed(own, tables)) == []


@pytest.mark.parametrize(
    ("part", "name", "value", "setting"),
    [
        ("top_eigenvalue", "sizes", [[50, 100]], "study.top_eigenvalue.sizes"),
        ("top_eigenvalue", "sizes", [[100]], "study.top_eigenvalue.sizes"),
        ("top_eigenvalue", "sizes", [100, 50], "study.top_eigenvalue.sizes"),
        ("top_eigenvalue", "spiked_sizes", [[50, 50]], "study.top_eigenvalue.spiked_sizes"),
        ("weights", "sizes", [[3, 40]], "study.weights.sizes"),
        ("top_eigenvalue", "spectra", ["unifrom"], "study.top_eigenvalue.spectra"),
        ("top_eigenvalue", "spikes", [0.5], "study.top_eigenvalue.spikes"),
        ("top_eigenvalue", "variables", [150], "study.top_eigenvalue.variables"),
        ("top_eigenvalue", "seeds", 1, "study.top_eigenvalue.seeds"),
        ("cleaning", "sizes", [[100, 100]], "study.cleaning.sizes"),
        ("cleaning", "priors", ["wishart"], "study.cleaning.priors"),
        ("cleaning", "atoms", [[1, 0.4], [2, 0.4]], "study.cleaning.atoms"),
        ("cleaning", "q_prior", 1, "study.cleaning.q_prior"),
        ("autoencoder", "epochs", 0, "study.autoencoder.epochs"),
        ("weights", "beta", 0, "study.weights.beta"),
        ("weights", "noise_sparsities", [1], "study.weights.noise_sparsities"),
        ("weights", "sizes", [[4, 40]], "study.weights.strengths"),
        ("weights", "run", "nowhere", "study.weights.run"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(part: str, name: str, value: Any, setting: str) -> None:
    with pytest.raises(SettingError) as error:
        study({part: {name: value}})
    assert error.value.setting == setting


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "layers.csv").write_text("layer,shape,prunable\n")
    with pytest.raises(SettingError, match=r"run=.*model\.safetensors"):
        study({"weights": {"run": str(tmp_path)}})
