"""Papers' numbers: the tables that are kept, and ours beside them."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest

from sparsebench.cli import main
from sparsebench.compare.published import COLUMNS, family, is_published, read_published
from sparsebench.files import read_csv, write_csv
from sparsebench.paths import reference_dir, references
from tests.support.tables import table, told

PAPERS = {path.stem: path for path in sorted((reference_dir() / "papers").glob("*.csv"))}

ROWS = {
    "acdc": 10, "akamaster": 5, "bearpaw": 6, "bimask": 2, "distiller": 5, "dnw": 19, "dpf": 84, "dpf_unofficial": 4,
    "gale": 4, "gap": 6, "granet": 4, "grasp": 112, "itop": 5, "jantre": 10, "renda": 251, "resnet": 5, "rigl": 60,
    "rigl_reproducibility": 9, "sbp_sr": 9, "sfp": 17, "snfs": 29, "srste": 5, "str": 25, "synflow": 315,
    "torch_pruning": 5, "torchvision": 1, "wrn": 2,
}  # fmt: skip


def test_every_row_is_kept():
    counts = {name: len(path.read_text(encoding="utf-8").splitlines()) - 1 for name, path in PAPERS.items()}
    assert counts == ROWS and sum(counts.values()) == 1009


@pytest.mark.parametrize("name", PAPERS)
def test_a_row_says_where_it_is_from_and_how_sure_it_is(name):
    assert is_published(PAPERS[name])
    rows = read_csv(PAPERS[name])
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        assert row["source"] and row["paper"] and row["method"] and row["model_as_published"]
        sure = ("memory-high", "memory-medium", "verified-author-repo", "verified-thirdparty-repo")
        assert row["confidence"] in sure
        assert row["selection"] in ("last", "best_test", "best_val", "unknown")
        assert row["epochs"] == "unknown" or int(row["epochs"]) > 0
        assert row["n"] == "unknown" or int(row["n"]) > 0
        assert (row["std_kind"] == "") == (row["std"] == "")
        assert row["sparsity"] == "" or 0 <= float(row["sparsity"]) < 1
        assert row["top1"] == "" or 0 < float(row["top1"]) < 100
        assert (
            row["counted_layers"] == "none" if row["method"] == "dense" else row["counted_layers"] != "none"
        )


@pytest.mark.parametrize(
    ("name", "chosen", "expected"),
    [
        ("dpf", {"model": "resnet20_b", "method": "dpf", "sparsity": 0.9}, {"top1": 90.88, "std": 0.07, "n": "3"}),
        ("dpf", {"model": "resnet50", "method": "dpf", "sparsity": 0.826},
         {"top1": 74.55, "counted_layers": "all_parameters", "epochs": "unknown"}),
        ("rigl", {"method_as_published": "RigL ERK 5x", "sparsity": 0.9, "confidence": "verified-author-repo"},
         {"top1": 76.42, "epochs": "500", "counted_layers": "convolutions+classifier"}),
        ("srste", {"model": "resnet18"}, {"top1": 71.2, "method": "SR-STE 2:4"}),
        ("torchvision", {}, {"model": "resnet50", "method": "dense", "confidence": "memory-high"}),
    ],
)  # fmt: skip
def test_a_few_values(name, chosen, expected):
    frame = read_published(PAPERS[name])
    for column, value in chosen.items():
        frame = frame[frame[column] == value]
    (row,) = frame.to_dict("records")
    assert {column: row[column] for column in expected} == expected


def test_methods_that_we_have_are_in_our_spelling():
    from tests.support.configs import options

    names = {row["method"] for path in PAPERS.values() for row in read_csv(path)}
    assert {"dense", "dpf", "rigl", "snfs", "snip", "gmp", "imp", "acdc", "str", "dnw"} <= names & set(
        options("prune")
    )
    lower = {name for name in names if name == name.lower() and " " not in name}
    assert lower <= set(options("prune"))  # what is spelled as ours is ours


def test_names_that_differ_by_their_variant_are_one_family():
    models = ("resnet20", "resnet20_b", "resnet56_bottleneck", "resnet32_b_stable_w32", "wrn28-10_dropout0.3")
    assert [family(m) for m in models] == ["resnet20", "resnet20", "resnet56", "resnet32_w32", "wrn28-10"]


def paper(tmp_path, *rows):
    """A paper's table in which every fact of the protocol is known."""
    known = {
        "paper": "Some (2020)", "dataset": "cifar10", "model": "resnet20", "model_as_published": "ResNet-20",
        "std": "0.2", "std_kind": "sample", "n": "3", "epochs": "10", "selection": "last", "counted_layers":
        "convolutions", "source": "its repository", "confidence": "verified-author-repo",
    }  # fmt: skip
    path = tmp_path / "some.csv"
    write_csv(path, COLUMNS, [{**known, "method_as_published": r["method"].upper(), **r} for r in rows])
    return str(path)


DENSE = {"method": "dense", "sparsity": "0", "top1": "93.00", "counted_layers": "none"}
DPF = {"method": "dpf", "sparsity": "0.9", "top1": "91.00"}


def compared(capsys, *argv):
    assert main(["compare", *map(str, argv), "--format", "csv"]) == 0
    captured = capsys.readouterr()
    return pd.read_csv(io.StringIO(captured.out)).set_index("method"), captured.err


def test_the_same_protocol_is_a_reproduction_with_gap_and_drops(tmp_path, capsys):
    some = paper(tmp_path, DENSE, DPF)
    rows = [told("dense", 0.0, s, 92.5 + s) for s in (0, 1)] + [told("dpf", 0.9, s, 89.5 + s) for s in (0, 1)]
    frame, said = compared(capsys, some, table(tmp_path, "ours.csv", rows))
    assert list(frame["verdict"]) == ["reproduction", "reproduction"] and said == ""
    assert frame.loc["dpf", ["theirs", "mean", "gap"]].tolist() == [91.0, 90.0, -1.0]
    assert frame.loc["dpf", ["drop_theirs", "drop_ours"]].tolist() == [2.0, 3.0]
    assert list(frame["from_memory"]) == [False, False]


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ({"epochs": "300"}, {}, "epochs 10 of 300"),
        ({"epochs": "unknown"}, {}, "their epochs unknown"),
        ({"selection": "best_test"}, {}, "our last epoch, their best test epoch"),
        ({"selection": "unknown"}, {}, "their reported epoch unknown"),
        ({"counted_layers": "unknown"}, {}, "their counted layers unknown"),
        ({"counted_layers": "convolutions+classifier"}, {},
         "sparsity of convolutions, theirs of convolutions+classifier"),
        ({}, {"argv": ["prunable.first_conv=false", "prunable.last_fc=true"]},
         "sparsity of convolutions-first+classifier, theirs of convolutions"),
        ({"model": "resnet20_b"}, {}, "model resnet20, theirs resnet20_b"),
        ({}, {"argv": ["dataset.train_samples=6000"]}, "ours with dataset.train_samples=6000"),
        ({"top1": "", "std": "", "std_kind": ""}, {}, "they have no number"),
        ({}, {"status": "diverged"}, "none of our runs is valid"),
    ],
)  # fmt: skip
def test_another_protocol_is_no_reproduction(tmp_path, capsys, theirs, ours, said):
    some = paper(tmp_path, {**DPF, **theirs})
    rows = [told("dpf", 0.9, 0, 90.0, *ours.pop("argv", ()), **ours)]
    frame, _ = compared(capsys, some, table(tmp_path, "ours.csv", rows))
    assert frame.loc["dpf", "verdict"] == f"not a reproduction: {said}"


def test_sparsities_match_as_exactly_as_they_are_printed(tmp_path, capsys):
    rows = [{**DPF, "sparsity": s, "method_as_published": s} for s in ("0.9", "0.95", "0.683772")]
    some = paper(tmp_path, *rows)
    mine = [told("dpf", s, 0, 90.0) for s in (0.9, 0.6837722339831621, 0.68)]
    frame, said = compared(capsys, some, table(tmp_path, "ours.csv", mine))
    assert frame.set_index("sparsity")["n"].fillna(0).to_dict() == {0.9: 1, 0.95: 0, 0.683772: 1}
    assert "1 configuration of ours.csv not in the paper: resnet20 dpf 0.68" in said


@pytest.mark.parametrize("form", ["table", "csv", "markdown", "latex", "json"])
def test_what_is_from_memory_is_marked_in_every_format(tmp_path, capsys, form):
    ours = table(tmp_path, "ours.csv", [told("dpf", 0.9, 0, 90.0)])
    assert main(["compare", "reference:dpf", str(ours), "--format", form]) == 0
    text = capsys.readouterr().out
    assert text.count("memory-high") == 17 and "reproduction" in text
    if form == "json":
        assert all(row["from_memory"] is True for row in json.loads(text))
    elif form != "csv":
        assert "recalled from memory" in text


def test_a_paper_alone_is_listed(capsys):
    assert main(["compare", "reference:torchvision"]) == 0
    assert "memory-high" in capsys.readouterr().out


def test_a_data_set_that_the_paper_has_not_is_said(tmp_path, capsys):
    ours = table(tmp_path, "ours.csv", [told("dpf", 0.9, 0, 99.0, dataset="digits")])
    assert main(["compare", "reference:dpf", str(ours)]) == 0
    assert (
        "the paper has no data set and model of ours.csv; it has cifar10 ResNet-20" in capsys.readouterr().out
    )


def test_checks_work_beside_a_paper(tmp_path, capsys):
    some = paper(tmp_path, DENSE, DPF)
    ours = str(table(tmp_path, "ours.csv", [told("dpf", 0.9, 0, 90.0)]))
    assert main(["compare", some, ours, "--fail-below", "-0.5", "--fail-on-missing"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("gap below -0.5 in 1 configuration: ResNet-20 DPF 0.9; "
                         "no runs of ours in 1 configuration: ResNet-20 DENSE 0")  # fmt: skip


def test_our_measurements_are_references_too(capsys):
    assert main(["compare", "reference:digits_resnet20_amd_epyc_2_cores"]) == 0
    assert "98.79 ± 0.58 (3)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["reference:rigle"], "reference=rigle: expected one of "),
        (["reference:rigle"], "(did you mean 'rigl'?)"),
        (["reference:"], "reference: expected one of "),
        (["reference:dpf", "reference:rigl"], "path=reference:rigl: expected one paper"),
        (["reference:dpf", "OURS", "--metric", "top5"], "metric=top5: expected top1, and no --on"),
        (["reference:dpf", "OURS", "--on", "method"], "on=method: expected"),
        (["reference:dpf", "nowhere"], "path=nowhere"),
    ],
)
def test_bad_references_are_one_line(tmp_path, capsys, argv, said):
    ours = str(table(tmp_path, "ours.csv", [told("dpf", 0.9, 0, 90.0)]))
    assert main(["compare", *(ours if word == "OURS" else word for word in argv)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sparsebench: error: ") and said in line
    assert set(references()) >= set(PAPERS)
