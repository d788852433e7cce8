"""Networks beside least squares on features of the same images."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
import yaml

from sparsebench.cli import main
from sparsebench.errors import SettingError
from sparsebench.paths import config_dir
from sparsebench.report.studies import drawings
from sparsebench.theory import least_squares as ls
from sparsebench.theory.overparam_prune_network import OverparamPruneNetwork
from sparsebench.theory.study import Draws
from tests.support.studies import framed, ran

CPU = torch.device("cpu")
DEFAULTS = yaml.safe_load((config_dir() / "theory/overparam_prune_network.yaml").read_text())
DEFAULTS.pop("_target_")
SMALL = {
    "images": 400,
    "n": 30,
    "keep": 8,
    "features": [8, 16, 60],
    "seeds": 10,
    "draws": 20,
    "data_root": "",
}


def study(**settings):
    return OverparamPruneNetwork(**{**DEFAULTS, **SMALL, **settings})


def test_the_coefficients_over_all_images_have_the_least_risk():
    problem = study()._problem(16, Draws(0, {}, CPU))
    best = problem.risk(problem.target[:, None])
    assert best.item() == pytest.approx(problem.unseen.item())
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = problem.target + 0.1 * torch.randn(1, 16, dtype=torch.float64, generator=generator)
        assert problem.risk(other[:, None]).item() > best.item()
    assert problem.features.mean((0, 1)).abs().max() < 0.5, "features are centred over all images"


def test_all_images_as_training_images_leave_the_risk_of_the_population():
    own = study(n=400, seeds=2, features=[8, 16, 60])
    problem = own._problem(16, Draws(0, {}, CPU))
    found = ls.estimate(problem.features, problem.targets)
    assert torch.allclose(found, problem.target.expand_as(found), atol=1e-8)


def test_measured_risks_are_near_those_of_gaussian_features():
    for row in ran(study(seeds=20))["overparam_prune_network"]:
        theory = row["theory_risk"]
        if not math.isnan(theory):
            assert abs(row["mc_risk"] - theory) <= 0.25 * theory + 3.5 * row["se_risk"], row


@pytest.fixture
def runs(tmp_path):
    """Dense networks of two widths, and the larger one with as many weights as the smaller."""
    argv = [
        "model=mlp",
        "prunable.last_fc=true",
        "epochs=4",
        "dataset.train_samples=100",
        f"results_dir={tmp_path}/runs",
    ]
    assert main(["sweep", "model.hidden=[4],[8]", "prune=dense", "seed=0,1", *argv]) == 0
    assert main(["sweep", "model.hidden=[8]", "prune=one_shot", "sparsity=0.5", "seed=0,1", *argv]) == 0
    return tmp_path / "runs"


def test_runs_are_read_as_means_over_seeds_and_drawn_beside_the_features(runs):
    tables = ran(study(runs=str(runs)))
    networks = {(row["method"], row["prunable"]): row for row in tables["networks"]}
    assert set(networks) == {("dense", 4 * 74), ("dense", 8 * 74), ("one_shot", 8 * 74)}
    assert networks["one_shot", 592]["nonzero"] == networks["dense", 296]["nonzero"] == 296
    assert {row["seeds"] for row in tables["networks"]} == {2}
    top1 = [
        float(pd.read_csv(path)["top1"].iloc[0]) for path in sorted(runs.glob("*-one_shot-*/summary.csv"))
    ]
    assert networks["one_shot", 592]["error"] == pytest.approx(100 - sum(top1) / 2)
    own = study(runs=str(runs))
    names = [check.check for check in own.checks(tables)]
    assert "large, then one_shot, beats small from the start (at most)" in names
    frames = framed(own, tables)
    (drawing,) = drawings("overparam_prune_network", frames)
    assert len(drawing.figure.axes) == 2
    (alone,) = drawings("overparam_prune_network", {**frames, "networks": frames["networks"].iloc[:0]})
    assert len(alone.figure.axes) == 1


def test_cifar10_is_read(cifar10_root):
    if cifar10_root is None:
        pytest.skip("no CIFAR-10 here")
    own = study(dataset="cifar10", data_root=str(cifar10_root))
    (row,) = (r for r in own.rows(own.points()[0], CPU)["overparam_prune_network"] if r["method"] == "none")
    assert row["dataset"] == "cifar10"
    assert row["sigma2_eff"] < row["mc_risk"] < 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "mnist"}, "dataset=mnist: expected one of digits, cifar10"),
        ({"n": 16}, "n=16: expected more than 9, and no number of features"),
        ({"runs": "nowhere"}, "runs=nowhere: expected a folder with finished runs"),
        ({"positive": [10]}, "positive=10: expected a list of numbers in"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, said):
    with pytest.raises(SettingError, match=said):
        study(**settings)


def test_more_features_than_a_quarter_of_the_images_are_refused():
    with pytest.raises(SettingError, match="features=101: expected at most 100, a quarter of the images"):
        study(features=[8, 101]).points()
