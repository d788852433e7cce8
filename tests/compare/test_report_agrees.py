"""``sparsebench report`` and ``sparsebench compare`` on the same runs say the same."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from sparsebench.compare.baseline import training_keys
from sparsebench.compare.comparison import compare
from sparsebench.compare.configurations import join
from sparsebench.records.collect import read
from sparsebench.records.validity import EARLIER, MISSED
from sparsebench.report.data import load, points
from tests.support.tables import put, reported, told


def run(method, sparsity, seed, top1, *argv, **more):
    """A row with everything that the two read, and a command that says what the row is."""
    values = told(method, sparsity, seed, top1, *argv)
    costs = {
        "sparsity": sparsity,
        "val_top1": top1,
        "macs_sparse": 1000,
        "version": "0.1.0",
        "git_dirty": False,
    }
    return values | costs | more


def agree(folder):
    """What both say of ``folder``: the report's points and runs, and the comparison, held against each other."""
    frame, result = load(folder).frame, compare([("runs", read(folder))])
    joined = join([("runs", read(folder))], "top1")
    assert frame["run_id"].tolist() == read(folder)["run_id"].tolist()
    table, ours = result.frame, points(frame)
    assert frame["counts"].sum() == table["n"].sum() and (~frame["counts"]).sum() == table["excluded"].sum()

    # A configuration of the one is a configuration of the other; the report draws no earlier rounds.
    assert frame["configuration"].tolist() == joined.runs[0]["key"].tolist()
    of_points = frame[frame["state"] == "finished"].groupby("configuration").first()
    means = table.loc[of_points.index]
    by_line = ours.set_index(["dataset", "model", "budget", "method", "variant", "config_hash"]).sort_index()
    for key, row in of_points.iterrows():
        point = by_line.loc[tuple(row[by_line.index.names])]
        same = {"n": "n", "top1": "mean", "top1_std": "std", "difference_to_dense": "difference_to_dense"}
        for mine, theirs in same.items():
            expected = means.loc[key, theirs]
            assert point[mine] == pytest.approx(
                math.nan if pd.isna(expected) else float(expected), nan_ok=True
            )
    assert len(ours) == len(of_points)

    # Budgets are equal exactly where the training is: what compare looks for a dense run by.
    keys = [key for key in training_keys(result.keys) if key not in ("dataset", "model")]
    pair = ["dataset", "model"]
    trainings = table.groupby([*pair, *keys], dropna=False).ngroup()
    budgets = frame.groupby([*pair, "budget"]).ngroup()
    both = pd.DataFrame({"training": frame["configuration"].map(trainings), "budget": budgets})
    assert (both.groupby("training")["budget"].nunique() == 1).all()
    assert (both.groupby("budget")["training"].nunique() == 1).all()

    # A dense run that is missing is missing in both.
    lacking = set(frame.loc[frame["dense_command"] != "", "configuration"])
    assert lacking == set(table.index[table["dense_command"] != ""])
    return frame.set_index("run_id"), ours, table, result


def test_commands_in_other_words_are_one_configuration_of_the_default_budget(tmp_path):
    rows = [run("dense", 0.0, s, 93 + s) for s in (0, 1)]
    rows += [run("dpf", 0.9, 0, 90, "model=resnet", "label_smoothing=0.0", config_hash="dpf")]
    rows += [run("dpf", 0.9, 1, 92, "device.threads=2", "hydra.verbose=true", config_hash="dpf")]
    rows += [run("gmp", 0.9, 0, 90, "optimizer.lr=0.10", config_hash="gmp")]
    rows += [run("gmp", 0.9, 1, 90, "optimizer.lr=1e-1", config_hash="gmp")]
    frame, table, _, _ = agree(put(tmp_path, rows))
    assert table.set_index("method").loc["dpf", ["n", "difference_to_dense"]].tolist() == [2, -2.5]
    assert set(frame.loc[frame["method"] != "gmp", "budget"]) == {"10 epochs, batch 128, fp32"}
    assert set(frame.loc[frame["method"] == "gmp", "budget"]) == {
        "10 epochs, batch 128, fp32, optimizer.lr=0.1"
    }
    assert set(frame.loc[frame["method"] == "dpf", "variant"]) == {""}


def test_of_two_dense_runs_of_one_seed_none_is_chosen_where_they_are_not_the_same_run(tmp_path):
    rows = [run("dense", 0.0, 0, 92, config_hash="a", run_id="a"), run("dpf", 0.9, 0, 90)]
    rows += [run("dense", 0.0, 0, 95, config_hash="b", run_id="b", started="2027-01-01T00:00:00Z")]
    frame, _, table, result = agree(put(tmp_path, rows))
    assert frame.loc["prune=dpf sparsity=0.9 0", ["dense_command"]].tolist() == [
        ""
    ]  # one more would not help
    assert frame["difference_to_dense"].isna().all()
    assert any("1 configuration with no dense run, or several" in note for note in result.notes)
    assert not any("prune=dense" in note for note in result.notes)
    assert set(table["config_hash"]) == {"a", "b", ""}


def test_of_one_dense_run_that_was_made_twice_the_later_counts(tmp_path):
    rows = [run("dense", 0.0, 0, 92, run_id="d"), run("dpf", 0.9, 0, 90)]
    put(tmp_path / "old", rows)
    put(tmp_path / "new", [run("dense", 0.0, 0, 95, run_id="d", started="2027-01-01T00:00:00Z")])
    frame, _, _, _ = agree(tmp_path)
    assert frame.loc["prune=dpf sparsity=0.9 0", "difference_to_dense"] == -5.0


def test_two_dense_runs_of_one_configuration_and_seed_are_a_mean(tmp_path):
    rows = [run("dense", 0.0, 0, top1, config_hash="a", run_id=str(top1)) for top1 in (92, 94)]
    frame, _, _, _ = agree(put(tmp_path, [*rows, run("dpf", 0.9, 0, 90)]))
    assert frame.loc["prune=dpf sparsity=0.9 0", "difference_to_dense"] == -3.0


@pytest.mark.parametrize("seeds", [(), (0,), (0, 1)], ids=str)
def test_missing_dense_runs(tmp_path, seeds):
    rows = [run("dense", 0.0, s, 93 + s) for s in seeds] + [run("dpf", 0.9, s, 90 + 3 * s) for s in (0, 1, 2)]
    frame, _, table, _ = agree(put(tmp_path, rows))
    dpf = frame[frame["method"] == "dpf"].sort_values("seed")
    assert dpf["difference_to_dense"].notna().tolist() == [s in seeds for s in (0, 1, 2)]
    assert (dpf["dense_command"] != "").tolist() == [s not in seeds for s in (0, 1, 2)]
    (command,) = table.loc[table["method"] == "dpf", "dense_command"]
    assert command.endswith(" seed=" + ",".join(str(s) for s in (0, 1, 2) if s not in seeds))


def test_dense_runs_of_other_budgets_models_and_data_are_no_baselines(tmp_path):
    rows = [run("dpf", 0.9, 0, 90), run("dense", 0.0, 0, 99, "optimizer.lr=0.2")]
    for number, other in enumerate(({"epochs": 20}, {"batch_size": 64}, {"precision": "bf16"}, {"model": "vgg16"},
                                    {"dataset": "cifar100"})):  # fmt: skip
        rows += [run(m, s, 0, 99, run_id=f"{m}{number}", config_hash=f"{m}{number}", **other)
                 for m, s in (("dense", 0.0), ("set", 0.9))]  # fmt: skip
    frame, table, _, _ = agree(put(tmp_path, rows))
    assert pd.isna(frame.loc["prune=dpf sparsity=0.9 0", "difference_to_dense"])
    assert (table.loc[table["method"] == "set", "difference_to_dense"] == 0).sum() == 5
    assert frame["budget"].nunique() == 5  # the model and the data set are no budget


def test_earlier_rounds_are_configurations_of_their_own_and_no_results(tmp_path):
    rows = [run("dense", 0.0, s, 93 + s) for s in (0, 1)]
    for seed in (0, 1):
        rows += [
            run("lottery", 0.9, seed, 80 + number + seed, target_sparsity=target, round=number, rounds=2,
                config_hash=f"h{number}", run_id=f"r{number}{seed}")
            for number, target in enumerate((0.0, 0.6, 0.9))
        ]  # fmt: skip
    frame, ours, table, _ = agree(put(tmp_path, rows))
    lottery = frame[frame["method"] == "lottery"]
    assert set(lottery.loc[lottery["round"] < 2, "state"]) == {EARLIER} and lottery["counts"].all()
    assert ours.loc[ours["method"] == "lottery", ["top1", "difference_to_dense"]].values.tolist() == [
        [82.5, -11.0]
    ]
    assert table.loc[table["method"] == "lottery", "difference_to_dense"].tolist() == [-13.0, -12.0, -11.0]


def test_runs_that_missed_their_sparsity_or_diverged_are_no_results_and_no_baselines(tmp_path):
    rows = [run("dense", 0.0, s, 93) for s in (0, 2)]
    rows.append(run("dense", 0.0, 1, "", status="diverged", run_id="broken"))
    rows += [run("dpf", 0.9, s, 90 + s) for s in (0, 1)]
    rows.append(run("dpf", 0.9, 2, 99, sparsity_ok=False, run_id="missed"))
    frame, _, table, _ = agree(put(tmp_path, rows))
    assert frame.loc[["broken", "missed"], "state"].tolist() == ["diverged", MISSED]
    assert frame.loc[["broken", "missed"], "difference_to_dense"].isna().all()  # though there is a dense run
    assert frame.loc["missed", "dense_command"] == ""
    (dpf,) = table[table["method"] == "dpf"].to_dict("records")
    assert (dpf["n"], dpf["excluded"], dpf["dense_command"]) == (2, 1, "sparsebench train prune=dense seed=1")


def test_a_dense_run_has_no_settings_of_a_method(tmp_path):
    rows = [run("dense", 0.0, s, 93 + s, "schedule.interval=8it") for s in (0, 1)]
    rows += [run("dpf", 0.9, s, 90, "schedule.interval=8it") for s in (0, 1)]
    frame, table, _, _ = agree(put(tmp_path, rows))
    variants = frame.groupby("method")["variant"].unique().map(list).to_dict()
    assert variants == {"dense": [""], "dpf": ["schedule.interval=8it"]}
    assert table.set_index("method").loc["dpf", "difference_to_dense"] == -3.5


def test_the_points_of_a_method_without_a_target_are_configurations(tmp_path):
    rows = [run("dense", 0.0, 0, 93)]
    rows += [run("str", v, 0, t, f"prune.s_init={s}", "schedule.interval=2it", target_sparsity="")
             for s, v, t in ((-2, 0.8, 90), (-1, 0.95, 88))]  # fmt: skip
    _, table, _, _ = agree(put(tmp_path, rows))
    own = table[table["method"] == "str"]
    assert own["difference_to_dense"].tolist() == [-3.0, -5.0]
    assert set(own["variant"]) == {"schedule.interval=2it"}


def test_a_reports_own_fixture_is_the_same_to_both(tmp_path):
    rows = [reported("dense", 0.0, s, v) for s, v in enumerate((92.0, 93.0))]
    rows += [reported("dpf", 0.9, s, v, "schedule.interval=1it") for s, v in enumerate((90.0, 92.0))]
    rows += [reported("dpf", 0.9, 0, 94.0, epochs=300, config_hash="long", run_id="long")]
    agree(put(tmp_path, rows))
