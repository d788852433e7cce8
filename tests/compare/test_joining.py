"""What is compared with what: configurations found in the tables, dense baselines, ranks, unequal budgets."""

from __future__ import annotations

import io
import json
import shlex

import pandas as pd
import pytest
from pandas.api.types import is_numeric_dtype

from sparsebench.cli import main
from sparsebench.compare.comparison import compare
from sparsebench.records.collect import read
from tests.support.tables import put, table, told


def found(*paths, **options):
    return compare([(path.name, read(path)) for path in paths], **options)


def test_tables_with_two_learning_rates_join_and_say_so(tmp_path):
    old = table(tmp_path, "old", [told("dpf", 0.9, s, 90 + s, "optimizer.lr=0.1") for s in (0, 1)])
    new = table(tmp_path, "new", [told("dpf", 0.9, s, 92 + s, "optimizer.lr=0.2") for s in (0, 1)])
    result = found(old, new)
    assert list(result.frame["difference [new]"]) == [2.0] and list(result.frame["only_in"]) == [""]
    assert "optimizer.lr: 0.1 -> 0.2" in result.notes[0]
    assert any(n.startswith("warning: not a fair comparison") and "optimizer.lr" in n for n in result.notes)


def test_learning_rates_that_vary_within_a_table_stay_apart(tmp_path):
    rows = [told("dpf", 0.9, s, v, f"optimizer.lr={lr}") for lr, v in ((0.1, 90), (0.2, 80)) for s in (0, 1)]
    new = [told("dpf", 0.9, s, 91, "optimizer.lr=0.20") for s in (0, 1)]
    result = found(table(tmp_path, "old", rows), table(tmp_path, "new", new))
    frame = result.frame.set_index("optimizer.lr")
    assert frame.loc["0.2", "difference [new]"] == 11.0  # 0.20 is 0.2
    assert frame.loc["0.1", "only_in"] == "old" and frame.loc["0.2", "only_in"] == ""
    assert "note: 1 configuration only in old" in result.notes


def test_one_configuration_in_two_wordings_is_one(tmp_path):
    first = told("dpf", 0.9, 0, 90, "model=resnet", "label_smoothing=0.0", config_hash="same")
    second = told("dpf", 0.9, 1, 91, config_hash="same")
    (one,) = found(table(tmp_path, "t", [first, second])).frame.to_dict("records")
    assert (one["n"], one["mean"]) == (2, 90.5)


def test_equal_commands_of_other_defaults_join_with_a_word(tmp_path):
    old = table(tmp_path, "old", [told("dpf", 0.9, 0, 90, config_hash="a")])
    new = table(tmp_path, "new", [told("dpf", 0.9, 0, 91, config_hash="b")])
    result = found(old, new)
    assert list(result.frame["difference [new]"]) == [1.0]
    assert any("config_hash is not" in note for note in result.notes)


def test_the_trainings_of_one_command_are_told_apart_by_their_round(tmp_path):
    rows = [told("lottery", 0.9, 0, 80 + i, round=i, config_hash=f"h{i}", run_id=f"r{i}") for i in (0, 1)]
    result = found(table(tmp_path, "t", rows))
    assert list(result.frame["round"]) == [0, 1] and "config_hash" not in result.frame


def test_the_hash_stands_only_where_nothing_else_tells_apart(tmp_path):
    rows = [told("dpf", 0.9, 0, 90, config_hash="a"), told("dpf", 0.9, 1, 70, config_hash="b")]
    rows += [told("gmp", 0.9, 0, 89), told("gmp", 0.9, 1, 87)]
    frame = found(table(tmp_path, "t", rows)).frame
    assert list(frame["config_hash"]) == ["a", "b", ""] and list(frame["mean"]) == [90, 70, 88]


def test_on_says_what_it_averages(tmp_path):
    rows = [told("dpf", 0.9, 0, v, f"optimizer.lr={lr}") for lr, v in ((0.1, 90), (0.2, 80))]
    result = found(table(tmp_path, "t", rows), on=["method"])
    assert list(result.frame["mean"]) == [85.0]
    assert any("means over several configurations" in n and "optimizer.lr" in n for n in result.notes)
    assert list(found(table(tmp_path, "t", rows), on=["optimizer.lr"]).frame["optimizer.lr"]) == [
        "0.1",
        "0.2",
    ]


def test_dense_runs_of_the_same_training_are_the_baseline(tmp_path):
    rows = [told("dense", 0.0, s, 93 + s, f"optimizer.lr={lr}") for s in (0, 1) for lr in (0.1,)]
    rows += [
        told("dpf", 0.9, s, v + s, f"optimizer.lr={lr}") for s in (0, 1) for lr, v in ((0.1, 90), (0.2, 85))
    ]
    result = found(table(tmp_path, "t", rows))
    frame = result.frame.set_index(["method", "optimizer.lr"])
    assert frame.loc[("dpf", "0.1"), "difference_to_dense"] == -3.0
    assert frame.loc[("dpf", "0.1"), ["low", "high"]].tolist() == [-3.0, -3.0]  # both pairs differ by 3
    assert pd.isna(frame.loc[("dpf", "0.2"), "difference_to_dense"])
    command = "sparsebench sweep prune=dense optimizer.lr=0.2 seed=0,1"
    assert frame.loc[("dpf", "0.2"), "dense_command"] == command
    assert f"  {command}" in result.notes and frame.loc[("dpf", "0.1"), "dense_command"] == ""


def test_the_dense_run_of_another_model_is_no_baseline(tmp_path):
    def of(model, method, top1):
        sparsity = 0.0 if method == "dense" else 0.9
        return told(method, sparsity, 0, top1, f"model={model}", model=model, run_id=f"{model} {method}")

    large = [of("resnet56", "dense", 94), of("resnet56", "dpf", 92)]
    small = [of("resnet20", "dense", 93), of("resnet20", "dpf", 90)]
    frame = found(table(tmp_path, "both", [*large, *small])).frame.set_index(["model", "method"])
    assert frame.loc[("resnet56", "dpf"), "difference_to_dense"] == -2.0
    assert frame.loc[("resnet20", "dpf"), "difference_to_dense"] == -3.0
    frame = found(table(tmp_path, "one", [*large, small[1]])).frame.set_index(["model", "method"])
    assert pd.isna(frame.loc[("resnet20", "dpf"), "difference_to_dense"])
    wanted = "sparsebench train prune=dense model=resnet20 seed=0"
    assert frame.loc[("resnet20", "dpf"), "dense_command"] == wanted


def test_of_two_dense_runs_of_one_training_neither_is_the_baseline(tmp_path):
    rows = [told("dense", 0.0, 0, 93 + n, config_hash=f"{n}", run_id=f"{n}") for n in (0, 1)]
    frame = found(table(tmp_path, "t", [*rows, told("dpf", 0.9, 0, 90)])).frame
    assert pd.isna(frame.set_index("method").loc["dpf", "difference_to_dense"])


def test_a_dense_run_that_failed_is_missing(tmp_path):
    rows = [told("dense", 0.0, 0, 93), told("dense", 0.0, 1, "", status="diverged")]
    frame = found(table(tmp_path, "t", [*rows, *(told("dpf", 0.9, s, 90) for s in (0, 1))])).frame
    wanted = "sparsebench train prune=dense seed=1"
    assert frame.set_index("method").loc["dpf", "dense_command"] == wanted


def test_the_named_command_makes_the_dense_run(tmp_path, capsys):
    results = str(tmp_path)
    argv = ["model=mlp", "epochs=1", "optimizer.lr=0.05", "schedule.interval=4it", f"results_dir={results}"]
    assert main(["train", "prune=dpf", *argv]) == 0
    capsys.readouterr()
    assert main(["compare", results]) == 0
    text = capsys.readouterr().out
    assert "no dense run" in text
    program, *command = shlex.split(text.splitlines()[-1])
    assert program == "sparsebench" and main(command) == 0
    capsys.readouterr()
    assert main(["compare", results]) == 0
    text = capsys.readouterr().out
    assert "no dense run" not in text and "sparsebench train" not in text and text.count("mlp") == 2


def test_a_seed_without_its_dense_run_is_named(tmp_path):
    rows = [told("dense", 0.0, 0, 93), *(told("dpf", 0.9, s, 90) for s in (0, 1))]
    (_, dpf) = found(table(tmp_path, "t", rows)).frame.to_dict("records")
    assert dpf["dense_command"] == "sparsebench train prune=dense seed=1"
    assert dpf["difference_to_dense"] == -3.0


def test_pruning_settings_do_not_part_a_run_from_its_dense_one(tmp_path):
    argv = ("schedule.interval=8it", "prune.gradient=masked", "prunable.fc=false", "ramp_end=0.5")
    rows = [told("dense", 0.0, 0, 93), told("dpf", 0.9, 0, 90, *argv)]
    frame = found(table(tmp_path, "t", rows)).frame.set_index("method")
    assert frame.loc["dpf", "difference_to_dense"] == -3.0


def test_ranks_are_among_what_both_tables_have(tmp_path):
    old = [told("dpf", 0.9, 0, 90), told("gmp", 0.9, 0, 91), told("set", 0.9, 0, 99), told("dpf", 0.5, 0, 70)]
    new = [told("dpf", 0.9, 0, 92), told("gmp", 0.9, 0, 91), told("dpf", 0.5, 0, 71)]
    frame = found(table(tmp_path, "old", old), table(tmp_path, "new", new)).frame
    frame = frame.set_index(["method", "target_sparsity"])
    ranks = frame[["rank [old]", "rank [new]", "rank_change [new]"]]
    assert ranks.loc[("dpf", 0.9)].tolist() == [2, 1, 1]
    assert ranks.loc[("gmp", 0.9)].tolist() == [1, 2, -1]
    assert ranks.loc[("dpf", 0.5)].tolist() == [1, 1, 0]  # of its own sparsity
    assert ranks.loc[("set", 0.9)].isna().all()


def test_small_losses_rank_first(tmp_path):
    rows = [told("dpf", 0.9, 0, 90, test_loss=0.5), told("gmp", 0.9, 0, 91, test_loss=0.4)]
    assert list(found(table(tmp_path, "t", rows), metric="test_loss").frame["rank"]) == [2, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 20}, "epochs: 10 -> 20"),
        ({"dataset": "cifar100"}, "dataset: cifar10 -> cifar100"),
        ({"train_flops": 2e9}, "training FLOPs of new are 2 times those of old in 1 of 1 configuration"),
        ({"prunable": 900}, "prunable weights of new are 0.9 times those of old"),
    ],
)
def test_unequal_budgets_are_warned_of(tmp_path, change, said):
    old = table(tmp_path, "old", [told("dpf", 0.9, 0, 90)])
    new = table(tmp_path, "new", [told("dpf", 0.9, 0, 91) | change])
    (warning,) = (n for n in found(old, new).notes if n.startswith("warning"))
    assert "not a fair comparison" in warning and said in warning


def test_equal_budgets_are_not_warned_of(tmp_path):
    old = table(tmp_path, "old", [told("dpf", 0.9, 0, 90)])
    new = table(
        tmp_path, "new", [told("dpf", 0.9, 0, 91) | {"train_flops": 1.005e9, "run_id": "another run"}]
    )
    assert found(old, new).notes == []


def test_swapping_the_tables_turns_every_difference(tmp_path):
    old = table(
        tmp_path, "old", [told(m, 0.9, s, 90 + s * i) for i, m in enumerate(("dpf", "gmp")) for s in (0, 1)]
    )
    new = table(
        tmp_path, "new", [told(m, 0.9, s, 91 - s * i) for i, m in enumerate(("gmp", "dpf")) for s in (0, 2)]
    )
    there, back = found(old, new).frame, found(new, old).frame
    for one, other in (("difference", "difference"), ("low", "high"), ("rank_change", "rank_change")):
        assert list(there[f"{one} [new]"]) == list(-back[f"{other} [old]"])


def test_a_long_table_is_read_in_pieces_as_a_short_one(tmp_path, monkeypatch, capsys):
    rows = [told(m, 0.9, s, 90 + s) for m in ("dense", "dpf", "gmp") for s in range(5)]
    rows += [
        told("dpf", 0.9, 1, 95, started="2027-01-01T00:00:00Z"),
        told("set", 0.9, 0, "", status="diverged"),
    ]
    path = table(tmp_path, "t.csv", rows)
    texts = []
    for size in (100_000, 4):
        monkeypatch.setattr("sparsebench.records.collect.CHUNK", size)
        assert main(["compare", str(path), "--format", "csv"]) == 0
        texts.append(capsys.readouterr())
    assert texts[0] == texts[1]
    frame = pd.read_csv(io.StringIO(texts[0].out)).set_index("method")
    assert frame.loc["dpf", "mean"] == (90 + 95 + 92 + 93 + 94) / 5  # the later of two runs of seed 1
    expected = compare([("t.csv", read(path))]).frame
    columns = [c for c in expected if is_numeric_dtype(expected[c])]
    pd.testing.assert_frame_equal(
        frame.reset_index()[columns].astype(float), expected[columns].astype(float), check_dtype=False
    )


@pytest.fixture
def worse(tmp_path):
    """A table, and one in which DPF lost a point, GMP lost its only run, SET is missing and RigL is new."""
    old = [told(m, 0.9, s, 90) for m in ("dpf", "gmp", "set") for s in (0, 1)]
    new = [told("dpf", 0.9, s, 89) for s in (0, 1)] + [told("rigl", 0.9, 0, 95)]
    new.append(told("gmp", 0.9, 0, "", status="diverged"))
    return [str(table(tmp_path, name, rows)) for name, rows in (("old", old), ("new", new))]


def test_fail_below_names_what_got_worse_after_printing_the_table(worse, capsys):
    assert main(["compare", *worse, "--fail-below", "-0.5"]) == 1
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert last.startswith("sparsebench: error: top1 lower by more than allowed (-0.5) in 2 configurations: ")
    assert "dpf 0.9" in last and "(-1.00)" in last and "gmp 0.9" in last and "(no valid run)" in last
    assert "difference [new]" in captured.out
    assert main(["compare", *worse[:1], worse[0], "--fail-below", "-0.5"]) == 0


def test_fail_on_missing_names_what_is_not_in_both(worse, capsys):
    assert main(["compare", *worse, "--fail-on-missing"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "not in every table in 2 configurations" in last
    assert "set 0.9" in last and "(only in old)" in last and "(only in new)" in last


def test_a_cost_that_grew_fails_and_one_that_fell_does_not(tmp_path, capsys):
    paths = [
        str(table(tmp_path, name, [told("dpf", 0.9, 0, 90, test_loss=loss)]))
        for name, loss in (("low", 0.3), ("high", 0.5))
    ]
    argv = ["--metric", "test_loss", "--fail-below", "-0.1"]
    assert main(["compare", *paths, *argv]) == 1
    assert "test_loss higher by more than allowed" in capsys.readouterr().err
    assert main(["compare", *reversed(paths), *argv]) == 0


def test_another_programs_table_is_read_under_our_names(tmp_path, capsys):
    ours = table(tmp_path, "ours.csv", [told("dpf", 0.9, s, 90 + s) for s in (0, 1)])
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("algo,acc,trial,zeros\ndpf,91,0,0.9\ndpf,93,1,0.9\n")
    argv = ["--map", "algo=method,acc=top1", "--map", "trial=seed", "--map", "zeros=target_sparsity"]
    assert main(["compare", str(ours), str(theirs), *argv, "--format", "json"]) == 0
    captured = capsys.readouterr()
    (one,) = json.loads(captured.out)
    assert (one["mean [theirs.csv]"], one["difference [theirs.csv]"], one["pairs [theirs.csv]"]) == (
        92,
        1.5,
        2,
    )
    assert "dataset: cifar10 -> " in captured.err


def test_another_programs_seeds_may_be_texts_and_make_no_pairs(tmp_path, capsys):
    ours = table(tmp_path, "ours.csv", [told("dpf", 0.9, s, 90 + s) for s in (0, 1)])
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("method,top1,seed,epochs\ndpf,91,first,ten\ndpf,93,second,ten\n")
    for paths in ([theirs], [ours, theirs], [theirs, ours]):
        argv = ["compare", *map(str, paths), "--map", "method=method", "--format", "json"]
        assert main(argv) == 0
    (one,) = json.loads(capsys.readouterr().out.rpartition("\n[\n")[2].join(("[", "")))
    assert (one["difference [ours.csv]"], one["interval [ours.csv]"]) == (-1.5, "welch")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--map", "acc"], "map=acc=: expected THEIRS=OURS"),
        (["--map", "ac=top1"], "did you mean 'acc'"),
        (["--map", "algo=top1,acc=top1"], "top1 would occur more than once"),
        (["--map", "algo=method"], "metric=top1: expected a numeric column"),
        ([], "--map theirs=ours"),
        (["--fail-below", "-1"], "fail-below=-1.0: expected two tables"),
        (["--fail-on-missing"], "fail-on-missing: expected two tables"),
    ],
)
def test_bad_names_are_one_line(tmp_path, capsys, argv, said):
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("algo,acc\ndpf,91\n")
    assert main(["compare", str(theirs), *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sparsebench: error: ") and said in line


def test_latex_is_booktabs_with_deviations_in_math(tmp_path, capsys):
    rows = [told("one_shot", 0.9, s, 90 + 2 * s) for s in (0, 1)] + [
        told("dense", 0.0, s, 93 + s) for s in (0, 1)
    ]
    put(tmp_path / "runs_1%", rows)
    assert main(["compare", str(tmp_path / "runs_1%"), "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert r"one\_shot & 0.9 & $91.00 \pm 1.41$ (2) & 1 & $-2.50$ [$-8.85$, $+3.85$] \\" in text
    assert "_" not in text.replace(r"\_", "") and "%" not in text.replace(r"\%", "").partition("\n")[2]


def test_long_names_of_tables_become_letters_for_people_alone(tmp_path, capsys):
    names = ("cifar10-resnet20-one-run-of-it", "cifar10-resnet20-one-run")
    rows = ([told("dpf", 0.9, 0, 90)], [told("dpf", 0.9, 0, 91), told("gmp", 0.9, 0, 90)])
    paths = [str(table(tmp_path, name, row)) for name, row in zip(names, rows, strict=True)]
    assert main(["compare", *paths]) == 0
    text = capsys.readouterr().out
    header, *_ = text.splitlines()
    assert "top1 (n) [A]" in header and "difference [B]" in header and "[cifar" not in text
    assert f"A: {names[0]}\nB: {names[1]}\n" in text and "note: 1 configuration only in B\n" in text
    assert main(["compare", *paths, "--format", "csv"]) == 0
    assert f"difference [{names[1]}]" in capsys.readouterr().out


def test_how_often_a_run_is_evaluated_makes_no_variant_of_it(tmp_path, capsys):
    argv = ["model=mlp", "model.hidden=[8]", "epochs=2", "device=cpu", f"results_dir={tmp_path}"]
    for method in ("dense", "snip"):
        for every in ("1ep", "2ep", "5it"):
            assert main(["train", f"prune={method}", *argv, f"eval_every={every}"]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert [line.split()[2] for line in said.splitlines()[1:3]] == ["dense", "snip"] and said.count(
        "(1)"
    ) == 2
    assert "note: 4 rows of the same configuration and seed as another have the same weights_hash" in said
    assert main(["compare", str(tmp_path), "--metric", "best_val_top1"]) == 0  # these depend on it
    said = capsys.readouterr().out
    assert said.count("(1)") == 6 and "eval_every" in said and "weights_hash" not in said


def test_one_training_under_two_ids_counts_once(tmp_path):
    rows = [told("dpf", 0.9, 0, 90.0, weights_hash="aa", run_id=str(n)) for n in (0, 1)]
    rows += [told("dpf", 0.9, 1, 92.0, weights_hash="bb"), told("gmp", 0.9, 0, 89.0, weights_hash="")]
    result = found(table(tmp_path, "t", rows))
    frame = result.frame.set_index("method")
    assert (frame.loc["dpf", "n"], frame.loc["dpf", "mean"], frame.loc["dpf", "excluded"]) == (2, 91.0, 0)
    assert sum("has the same weights_hash: one training, counted once" in note for note in result.notes) == 1
