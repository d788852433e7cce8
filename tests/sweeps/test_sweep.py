"""Sweeps over grids: which runs they are, what they cost, and what they end in."""

from __future__ import annotations

import json

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sparsebench.cli import main
from sparsebench.config.open import compose_config
from sparsebench.errors import SettingError
from sparsebench.files import read_csv
from sparsebench.paths import options
from sparsebench.runs.build import build_run
from sparsebench.sweeps.sweeper import GridSweeper

TINY = ["model.depth=8", "model.width=4", "scale=smoke", "device=cpu"]
GRIDS = [
    {"model": "resnet", "model.depth": [20, 32], "prune": ["gmp", "dpf"], "sparsity": [0.9, 0.95]},
    {"model": "vgg", "prune": ["gmp", "dpf"], "sparsity": 0.99},
    {"model": "resnet", "model.depth": [20, 32], "prune": "dense"},
]


def jobs(*argv, grids=GRIDS, **settings):
    overrides = OverridesParser.create().parse_overrides(list(argv))
    return GridSweeper(grids=grids, **settings).split_arguments(overrides, None)[0]


def test_runs_are_the_combinations_within_each_grid():
    found = jobs()
    assert len(found) == 8 + 2 + 2
    assert found[1] == ["model=resnet", "model.depth=20", "prune=gmp", "sparsity=0.95"]
    assert found[-1] == ["model=resnet", "model.depth=32", "prune=dense"]


def test_the_command_line_takes_the_place_of_lists_and_leaves_out_grids_that_fix_another_value():
    assert len(jobs("model=vgg")) == 2
    assert len(jobs("model=resnet", "model.depth=20")) == 4 + 1
    assert (
        len(jobs("model=resnet", "prune=dense")) == 4 + 2
    )  # the first grid would prune dense at two sparsities
    assert {job[-1] for job in jobs("model=vgg", "seed=0,1,2")} == {"seed=0", "seed=1", "seed=2"}
    assert {job[0] for job in jobs("model=vgg,resnet")} == {"model=vgg", "model=resnet"}


def test_parameters_of_the_sweeper_hold_for_all_grids(tmp_path, capsys):
    argv = ["experiment=sanity_checks", "scale=smoke", f"results_dir={tmp_path}", "--dry-run"]
    assert main(["sweep", *argv, "prune=dense"]) == 0
    assert "1 runs" in capsys.readouterr().out  # one seed; the switches are not of dense training
    assert main(["sweep", *argv, "prune=dense", "seed=3,4"]) == 0
    assert "2 runs" in capsys.readouterr().out


def test_equal_runs_of_several_grids_are_one():
    assert len(jobs("model=resnet", "model.depth=20", "sparsity=0.9", "prune=gmp", grids=[GRIDS[0]] * 2)) == 1


def test_settings_that_no_grid_has_are_refused():
    with pytest.raises(SettingError, match=r"at least one of the experiment's grids.*model=vgg"):
        jobs("model=lenet")


def test_values_with_units_and_switches_reach_the_parser_whole():
    (job,) = jobs(grids=[{"schedule.interval": "1ep", "prune.fine_tune": True, "schedule.stop": None}])
    assert job == ["schedule.interval=1ep", "prune.fine_tune=True", "schedule.stop=null"]
    assert jobs(grids=[{"schedule.interval": ["1it", "0.01"]}]) == [
        ["schedule.interval=1it"], ["schedule.interval='0.01'"]
    ]  # fmt: skip


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_assembles_at_the_ends_of_its_grids(experiment):
    sweeper, datasets = composed_sweeper(experiment), {}
    for grid in sweeper.grids:
        for job in {tuple(found[end]) for found in [jobs(grids=[grid])] for end in (0, -1)}:
            made, chosen = compose_config([*job, f"experiment={experiment}", "scale=smoke"])
            assert chosen["dataset"] == "digits"
            components = build_run(made, datasets.get(str(made.dataset)))
            datasets[str(made.dataset)] = components.dataset
            assert components.clock.total_steps == 24 * made.extend
    assert sweeper.grids or sweeper.params


@pytest.mark.slow
@pytest.mark.nightly
def test_a_width_experiment_keeps_the_number_of_non_zero_weights():
    expected = {
        "double_descent_width": {16812},
        "small_vs_large_sparse": {67032, 267696},
        "overparam_prune_network": {4 * (3 * 8 * 8 + 10)},  # on digits; 12,328 on CIFAR-10
    }
    for experiment, counts in expected.items():
        found = set()
        for job in jobs("seed=0", grids=composed_sweeper(experiment).grids):
            if "prune=dense" in job:
                continue
            made = build_run(compose_config([*job, f"experiment={experiment}", "scale=smoke"])[0])
            zeros = made.pruner.target_zeros(made.clock.total_steps - 1)
            found.add(made.pruner.weights.numel - zeros)
        assert found == counts


def test_an_experiment_says_what_it_costs_runs_and_compares(tmp_path, capsys):
    argv = ["experiment=dpf_cifar10", *TINY, "model=resnet", "prune=dense,dpf", "sparsity=0.9"]
    assert main(["sweep", *argv, f"results_dir={tmp_path}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 runs, 0 of them finished" in said
    assert not list(tmp_path.iterdir())

    assert main(["sweep", *argv, f"results_dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert f"sparsebench compare reference:dpf {tmp_path}" in said
    rows = [row for path in tmp_path.glob("*/summary.csv") for row in read_csv(path)]
    assert sorted(row["method"] for row in rows) == ["dense", "dpf"]
    assert all(row["sparsity_ok"] == "True" for row in rows)

    assert main(["sweep", *argv, f"results_dir={tmp_path}", "--dry-run"]) == 0
    assert "2 runs, 2 of them finished; to do: 0" in capsys.readouterr().out


def test_the_flops_of_an_estimate_are_those_that_a_dense_run_reports(tmp_path, capsys):
    argv = ["prune=dense", *TINY, f"results_dir={tmp_path}"]
    assert main(["sweep", *argv, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert main(["train", *argv]) == 0
    (row,) = [row for path in tmp_path.glob("*/summary.csv") for row in read_csv(path)]
    assert f"upper bound (dense): {float(row['train_flops']):.3g}\n" in said


def test_a_sweep_without_an_experiment_estimates_only_on_request(tmp_path, capsys):
    assert (
        main(["sweep", "prune=imp,dense", "prune.rounds=2", *TINY, f"results_dir={tmp_path}", "--dry-run"])
        == 2
    )
    assert "prune.rounds" in capsys.readouterr().err  # dense has none
    assert main(["sweep", "prune=imp", "prune.rounds=2", *TINY, f"results_dir={tmp_path}", "--dry-run"]) == 0
    assert "to do: 1, 3 trainings" in capsys.readouterr().out


def composed_sweeper(experiment):
    from hydra import compose, initialize_config_dir

    from sparsebench.paths import config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(
            "train", [f"experiment={experiment}", "scale=smoke"], return_hydra_config=True
        ).hydra.sweeper


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("launcher", ["local"])
def test_tuning_takes_the_validation_accuracy_as_its_objective(tmp_path, launcher):
    pytest.importorskip("optuna")
    import yaml

    argv = [
        "hydra/sweeper=tune",
        "hydra.sweeper.n_trials=2",
        f"launcher={launcher}",
        "optimizer.lr=choice(0.001,0.1)",
    ]
    more = ["hydra.sweeper.n_jobs=2"] if launcher == "local" else []
    assert main(["sweep", *argv, *more, "prune=dpf", *TINY, f"results_dir={tmp_path}"]) == 0
    (best,) = tmp_path.glob(".sweeps/*/optimization_results.yaml")
    rows = [row for path in tmp_path.glob("*/summary.csv") for row in read_csv(path)]
    assert yaml.safe_load(best.read_text())["best_value"] == max(float(row["val_top1"]) for row in rows)


@pytest.mark.slow
@pytest.mark.nightly
def test_hydras_own_launchers_work_too(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    argv = ["prune=dense,dpf", *TINY, "launcher=joblib", "launcher.n_jobs=2", f"results_dir={tmp_path}"]
    assert main(["sweep", *argv]) == 0
    assert len(list(tmp_path.glob("*/summary.csv"))) == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["launcher=nowhere"], "hydra/launcher=nowhere: expected one of"),
        (["retries=-1"], "retries=-1: expected an integer in [0, 1000]"),
        (
            ["launcher=local", "launcher.n_jobs=0"],
            "launcher.n_jobs=0: expected an integer in [1, 1024], or null",
        ),
        (["launcher=local", "launcher.jobs=2"], "hydra.launcher.jobs"),
        (["prune=dense,dpf", "sparsity=0.5,1.5"], "sparsity=1.5: expected a number in [0, 1)"),
    ],
)
def test_bad_input_of_a_sweep_is_one_line_and_nothing_is_written(tmp_path, capsys, argv, said):
    results = tmp_path / "results"
    assert main(["sweep", "prune=dpf", *TINY, *argv, f"results_dir={results}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not results.exists()


def test_a_job_planned_from_its_neighbours_config_is_the_one_that_hydra_composes(tmp_path):
    """Jobs of equal choices are composed once: their names have to be those of the runs."""
    from sparsebench.records.states import states

    argv = ["prune=dense,dpf", "seed=0,1", "optimizer.lr=0.1,0.05", *TINY]
    assert main(["sweep", *argv, f"results_dir={tmp_path}"]) == 0
    found = states(tmp_path)
    assert len(found) == 8 and {run.state for run in found} == {"finished"}


def test_a_sweep_says_which_version_its_finished_runs_are_of_and_makes_them_again_if_asked(tmp_path, capsys):
    argv = ["sweep", "prune=dense", "seed=0,1,2", "model=mlp", "model.hidden=[8]", "dataset.train_samples=50",
            "epochs=1", "device=cpu", f"results_dir={tmp_path}"]  # fmt: skip
    assert main(argv) == 0
    folders = sorted(path for path in tmp_path.iterdir() if not path.name.startswith("."))
    for path in folders[:2]:
        origin = json.loads((path / "run.json").read_text())
        (path / "run.json").write_text(json.dumps({**origin, "version": "0.0.1"}))
    before = [(path / "summary.csv").stat().st_mtime_ns for path in folders]
    capsys.readouterr()
    assert main(argv) == 0
    assert "2 runs exist with version 0.0.1, now " in capsys.readouterr().out
    assert [(path / "summary.csv").stat().st_mtime_ns for path in folders] == before
    assert main([*argv, "--redo-older"]) == 0
    assert "2 older runs are made again" in capsys.readouterr().out
    after = [(path / "summary.csv").stat().st_mtime_ns for path in folders]
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, True, False]
    text = (folders[2] / "config.yaml").read_text()
    (folders[2] / "config.yaml").write_text(
        text.replace("norm_weight_decay: true", "norm_weight_decay: false")
    )
    assert main([*argv, "prune=dense,gmp"]) == 2
    said = capsys.readouterr()
    assert "norm_weight_decay=False, now True; --redo-older" in said.err and said.err.count("\n") == 1
    assert len(list(tmp_path.glob("digits-*"))) == 3  # nothing was started
