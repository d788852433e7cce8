"""Means over runs that were not computed alike, and tables that hold the same runs."""

from __future__ import annotations

import json

import pytest

from sparsebench.cli import main
from sparsebench.compare.comparison import compare
from sparsebench.files import read_csv
from sparsebench.records.collect import read
from tests.support.tables import put, reported, row, table

ALIKE = {
    "version": "0.1.0",
    "torch": "2.9.0",
    "device": "cpu",
    "numerics": "cpu EPYC ranks=1 threads=1 torch=2.9.0",
}


def notes(rows, folder):
    result = compare([("here", read(put(folder, rows)))])
    return [note for note in result.notes if "mixed" in note], result.frame["mixed"].tolist()


def two(**second):
    return [row("dpf", 0.9, 0, 90.0, **ALIKE), row("dpf", 0.9, 1, 91.0, **ALIKE | second)]


@pytest.mark.parametrize(
    ("second", "text"),
    [
        ({}, ""),
        ({"numerics": ""}, ""),  # not known is not another
        ({"version": "0.2.0"}, "sparsebench 0.1.0 (1 run) and 0.2.0 (1 run)"),
        ({"device": "H100"}, "device cpu (1 run) and H100 (1 run)"),
        (
            {"torch": "2.10.0", "numerics": "cpu EPYC ranks=1 threads=1 torch=2.10.0"},
            "torch 2.9.0 (1 run) and 2.10.0 (1 run)",
        ),
        (
            {"numerics": "cpu EPYC ranks=1 compile threads=2 torch=2.9.0"},
            "threads=1 (1 run) and compile threads=2 (1 run)",
        ),
        ({"numerics_changed_at": "40"}, "numerics that changed in a resumed run (1 of 2 runs)"),
    ],
)
def test_a_mean_over_runs_that_differ_is_said_once_per_configuration(second, text, tmp_path):
    rows = [*two(**second), row("gmp", 0.9, 0, 80.0, **ALIKE)]
    lines, column = notes(rows, tmp_path)
    assert column == [text, ""]
    assert lines == ([f"note: the mean for dpf is over mixed runs: {text}"] if text else [])


def test_runs_that_do_not_count_are_not_in_the_mean(tmp_path):
    rows = [*two(), row("dpf", 0.9, 2, 1.0, **ALIKE | {"torch": "2.10.0"}, sparsity_ok=False)]
    assert notes(rows, tmp_path) == ([], [""])


def test_the_command_prints_it_below_the_table_and_in_the_data(tmp_path, capsys):
    put(tmp_path, two(torch="2.10.0"))
    assert main(["compare", str(tmp_path)]) == 0
    assert "torch 2.9.0 (1 run) and 2.10.0 (1 run)" in capsys.readouterr().out
    assert main(["compare", str(tmp_path), "--format", "json"]) == 0
    said = capsys.readouterr()
    assert (
        json.loads(said.out)[0]["mixed"] == "torch 2.9.0 (1 run) and 2.10.0 (1 run)" and "mixed" in said.err
    )


def test_a_report_says_it_too(tmp_path):
    rows = [reported("dpf", 0.9, seed, 90.0 + seed, torch=f"2.{seed}") for seed in (0, 1)]
    assert main(["report", str(put(tmp_path / "r", rows)), "-o", str(tmp_path / "page")]) == 0
    assert "torch 2.0 (1 run) and 2.1 (1 run)" in (tmp_path / "page" / "index.html").read_text()


def test_one_run_in_two_folders_counts_once_and_other_results_are_said(tmp_path, capsys):
    first, here = row("dpf", 0.9, 0, 90.0, **ALIKE), tmp_path / "here"
    for name in "ab":
        put(here / name, [first])
    assert main(["compare", str(here), "--format", "json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["n"] == 1 and "more than once" not in said.err
    put(here / "c", [first | {"top1": 95.0, "numerics": "other", "started": "2027"}])
    assert main(["compare", str(here), "--format", "json"]) == 0
    said = capsys.readouterr()
    assert [json.loads(said.out)[0][name] for name in ("n", "mean")] == [1, 95.0]
    assert "run dpf0.90 was made more than once" in said.err and "top1 90.0 and 95.0" in said.err
    collected = tmp_path / "all.csv"
    assert main(["collect", *(str(here / name) for name in "abc"), "-o", str(collected)]) == 0
    assert [one["top1"] for one in read_csv(collected)] == ["95.0"]
    assert "made more than once" in capsys.readouterr().err


def test_two_tables_with_the_same_runs_say_so(tmp_path):
    old, new = two(), [{**one, "top1": 99.0} if one["seed"] else one for one in two()]
    tables = [(name, read(table(tmp_path, name, rows))) for name, rows in (("old", old), ("new", new))]
    (note,) = (note for note in compare(tables).notes if "in both" in note)
    assert note == (
        "note: 2 runs are in both old and new, 1 of them with other results: dpf0.91: top1 91.0 -> 99.0"
    )
    (note,) = (note for note in compare([tables[0], ("again", tables[0][1])]).notes if "in both" in note)
    assert note == "note: 2 runs are in both old and again, with equal results"
