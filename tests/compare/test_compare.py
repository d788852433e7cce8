from __future__ import annotations

import io
import json
import os

import pandas as pd
import pytest

from sparsebench.cli import main
from sparsebench.compare.comparison import compare
from sparsebench.compare.layout import format_for_display
from sparsebench.compare.table import exact, render
from sparsebench.errors import SettingError
from sparsebench.files import read_csv
from sparsebench.records.collect import read
from tests.support.tables import put, row


@pytest.fixture
def old(tmp_path):
    rows = [row("dense", 0.0, s, v) for s, v in enumerate((92.0, 93.0))]
    rows += [row("dpf", 0.9, s, v) for s, v in enumerate((90.0, 91.0, 92.0))]
    rows += [row("dpf", 0.9, 3, 99.0, sparsity_ok=False), row("dpf", 0.9, 4, "", status="diverged")]
    return put(tmp_path / "old", rows)


@pytest.fixture
def new(tmp_path):
    rows = [row("dpf", 0.9, s, v) for s, v in enumerate((91.0, 92.0))]
    return put(tmp_path / "new" / "deeper", [*rows, row("gmp", 0.9, 0, 88.5)]).parent


def test_one_table_by_hand(old):
    table = compare([("old", read(old))]).frame
    dense, dpf = table.to_dict("records")
    assert (dense["method"], dense["n"], dense["mean"], dense["difference_to_dense"]) == (
        "dense",
        2,
        92.5,
        0.0,
    )
    assert dense["std"] == pytest.approx(0.5**0.5)
    assert (dpf["n"], dpf["mean"], dpf["std"], dpf["excluded"]) == (3, 91.0, 1.0, 2)
    assert (dpf["difference_to_dense"], dpf["pairs"]) == (
        -2.0,
        2,
    )  # -2 at seed 0 and at seed 1; no dense seed 2


def test_two_tables_by_hand(old, new):
    table = compare([("old", read(old)), ("new", read(new))]).frame.set_index("method")
    assert table.loc["dpf", "difference [new]"] == 1.0  # of seeds 0 and 1, which both have
    assert table.loc["dpf", "pairs [new]"] == 2
    assert table.loc["dpf", "only_in"] == "" and table.loc["gmp", "only_in"] == "new"
    assert table.loc["dpf", "n [new]"] == 2
    assert table.loc["gmp", "mean [new]"] == 88.5
    assert pd.isna(table.loc["gmp", "mean [old]"]) and pd.isna(table.loc["dense", "mean [new]"])
    assert pd.isna(table.loc["gmp", "std [new]"])  # one seed has no deviation


def test_configurations_that_share_a_name_are_told_apart_by_hash(tmp_path):
    rows = [row("dpf", 0.9, 0, 90.0), row("dpf", 0.9, 1, 80.0, config_hash="other")]
    assert len(compare([("a", read(put(tmp_path, rows)))]).frame) == 2


def test_the_same_run_in_two_places_counts_once_and_the_later_one(tmp_path):
    put(tmp_path / "a", [row("dpf", 0.9, 0, 90.0)])
    put(tmp_path / "b", [row("dpf", 0.9, 0, 91.0, started="2026-02-01T00:00:00Z")])
    frame = read(tmp_path)
    assert list(frame["top1"]) == [91.0]


def test_a_run_folder_and_a_csv_are_read_like_a_tree(old, tmp_path):
    single = read(old / "run-dpf0.90")
    assert list(single["top1"]) == [90.0]
    collected = tmp_path / "all.csv"
    read(old).to_csv(collected, index=False)
    pd.testing.assert_frame_equal(read(collected), read(old))


def test_on_joins_by_the_named_columns(old):
    table = compare([("old", read(old))], on=["method", "seed"]).frame
    assert list(table.columns[:2]) == ["method", "seed"] and len(table) == 7


@pytest.mark.parametrize(("form", "parse"), [("csv", lambda t: pd.read_csv(io.StringIO(t))),
                                            ("json", lambda t: pd.DataFrame(json.loads(t)))])  # fmt: skip
def test_csv_and_json_keep_every_digit(old, form, parse):
    table = compare([("old", read(old))]).frame.drop(
        columns=["interval", "dense_command", "mixed"]
    )  # texts, empty here
    table = table.astype({"pairs": float})
    pd.testing.assert_frame_equal(parse(exact(table, form)), table, check_dtype=False, rtol=1e-14)


def test_markdown_is_a_table_of_equal_width(old):
    cells, _ = format_for_display(compare([("old", read(old))]), 2)
    lines = render(cells, "markdown").splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 4
    assert lines[0].startswith("| dataset | model    | method |")
    assert "91.00 ± 1.00 (3)" in lines[3] and "-2.00 [-2.00, -2.00]" in lines[3]


def test_the_command_prints_the_table_and_names_what_it_left_out(old, new, capsys):
    assert main(["compare", str(old), str(new)]) == 0
    captured = capsys.readouterr()
    assert "difference [new]" in captured.out and "+1.00 [+1.00, +1.00]" in captured.out
    assert captured.err == (
        f"sparsebench: {old}: 2 of 7 runs left out: 1 diverged (dpf0.94), 1 missed its sparsity (dpf0.93)\n"
    )


def test_a_run_without_a_summary_is_counted_as_unfinished(old, capsys):
    for name in ("running", "deeper/interrupted"):
        (old / name).mkdir(parents=True)
        (old / name / "run.json").write_text("{}")
    put(old, [row("dpf", 0.9, seed, "", status="diverged") for seed in (5, 6, 7)])
    assert main(["compare", str(old)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "7 of 12 runs left out: 4 diverged (dpf0.94, dpf0.95, dpf0.96, ...), "
        "1 missed its sparsity (dpf0.93), 2 unfinished"
    )


def test_a_run_folder_is_not_entered_and_a_link_back_is_not_followed(old):
    put(old / "run-dpf0.90", [row("gmp", 0.9, 0, 1.0)])
    (old / "more").mkdir()
    os.symlink(old, old / "more" / "back")
    assert set(read(old)["method"]) == {"dense", "dpf"} and len(read(old)) == 7


def test_a_small_difference_of_a_loss_is_shown_and_not_rounded_to_zero(tmp_path, capsys):
    rows = [row("dense", 0.0, 0, 92.0, test_loss=0.3123), row("dpf", 0.9, 0, 91.0, test_loss=0.3143)]
    assert main(["compare", str(put(tmp_path, rows)), "--metric", "test_loss"]) == 0
    dpf = capsys.readouterr().out.splitlines()[2].split()
    assert "0.3143" in dpf and dpf[-1] == "+0.002"


def test_bars_in_a_label_do_not_break_a_markdown_table(old):
    cells, _ = format_for_display(compare([("a", read(old)), ("b|c", read(old))]), 2)
    lines = render(cells, "markdown").splitlines()
    assert "top1 (n) [b\\|c]" in lines[0] and len({len(line) for line in lines}) == 1


def test_output_goes_to_a_file(old, tmp_path, capsys):
    assert main(["compare", str(old), "--format", "csv", "-o", str(tmp_path / "t.csv")]) == 0
    assert capsys.readouterr().out == ""
    assert len(pd.read_csv(tmp_path / "t.csv")) == 2


@pytest.mark.parametrize(
    ("argv", "named", "hint"),
    [
        (["nowhere"], "path=nowhere", "a folder of runs"),
        (["OLD", "--metric", "top2"], "metric=top2", "did you mean 'top"),
        (["OLD", "--metric", "method"], "metric=method", "numeric column"),
        (["OLD", "--on", "metod"], "on=metod", "did you mean 'method'"),
        (["EMPTY"], "path=", "it contains none"),
        (["OLD", "-o", "nowhere/t.csv"], "output=nowhere/t.csv", "a folder that exists"),
        (["OLD", "-o", "empty"], "output=empty", "a file"),
    ],
)
def test_bad_input_is_one_line(old, tmp_path, capsys, monkeypatch, argv, named, hint):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    argv = [{"OLD": str(old), "EMPTY": str(tmp_path / "empty")}.get(w, w) for w in argv]
    assert main(["compare", *argv]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"sparsebench: error: {named}") and hint in line


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "No columns"),
        (b"a,b\n1,2\n", "results of schema 1; it holds no schema column"),
        (b"schema,run_id\n0,x\n", "results of schema 1; it holds schema 0"),
        (b"schema,run_id\n", "it holds no rows"),
        (b"schema\n1\n", "it lacks run_id"),
        (b'"abc\n', "EOF inside string"),
        (b"\xff\xfe\x00", "decode"),
    ],
)
def test_a_csv_that_is_not_ours_is_refused(tmp_path, content, why):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=f"path={path}: expected .*{why}"):
        read(path)


def test_collect_writes_the_rows_as_they_are_without_their_places(tmp_path, capsys):
    rows = [row("dense", 0.0, 0, 92.0), row("lottery", 0.9, 0, 0.1 + 0.2, round="3")]
    for each in rows:
        each["command"] = "sparsebench train prune=x 'results_dir=/a b' data_root=/c seed=0"
        put(tmp_path / "runs", [each])
    output = tmp_path / "all.csv"
    assert main(["collect", str(tmp_path / "runs"), "-o", str(output)]) == 0
    found = read_csv(output)
    assert [r["method"] for r in found] == ["dense", "lottery"] and [r["round"] for r in found] == ["", "3"]
    assert found[1]["top1"] == str(0.1 + 0.2)
    assert {r["command"] for r in found} == {"sparsebench train prune=x seed=0"}
    assert len(read(output)) == 2
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    assert main(["collect", str(tmp_path / "empty")]) == 2
    assert "expected a folder with finished runs" in capsys.readouterr().err
