"""The one table of columns, against the texts and the code that use it."""

from __future__ import annotations

import re

import pytest

from sparsebench.distributed.device import Device
from sparsebench.files import read_csv
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.records import schema
from sparsebench.runs import result
from sparsebench.training.flops import TrainingFLOPs, count_layers
from sparsebench.training.runner import History
from tests.support import ROOT
from tests.support.small import Net

README = (ROOT / "results" / "README.md").read_text(encoding="utf-8")

OURS = [path for path in sorted((ROOT / "results" / "reference").glob("*.csv"))
        if path.read_text(encoding="utf-8").startswith("schema,")]  # fmt: skip


def explained(section):
    """The columns in the tables of a section of results/README.md, in their order."""
    rows = re.findall(
        r"^\| (`.*?`) \|", README.partition(f"## {section}\n")[2].partition("\n## ")[0], re.MULTILINE
    )
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.mark.parametrize(
    ("section", "columns"), [("metrics.csv", schema.METRICS_TABLE), ("layers.csv", schema.LAYERS_TABLE)]
)
def test_results_readme_explains_the_columns_in_their_order(section, columns):
    assert explained(section) == list(schema.names(columns))


def test_results_readme_explains_the_summary_and_what_evaluations_append():
    found = explained("summary.csv")
    assert tuple(found[: len(schema.SUMMARY_COLUMNS)]) == schema.SUMMARY_COLUMNS
    appended = found[len(schema.SUMMARY_COLUMNS) :]
    assert appended and set(appended) <= set(schema.names(schema.APPENDED_TABLE))
    assert all(f"`{name}`" in README for name in schema.names(schema.APPENDED_TABLE))


def test_no_column_is_twice_in_a_table_and_each_has_one_line():
    for table in ((*schema.SUMMARY_TABLE, *schema.APPENDED_TABLE), schema.METRICS_TABLE, schema.LAYERS_TABLE):
        assert len(set(schema.names(table))) == len(table)
        assert all(column.meaning and "\n" not in column.meaning for column in table)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_results_that_are_kept_have_the_columns_types(path):
    rows = read_csv(path)
    assert rows and tuple(rows[0])[: len(schema.SUMMARY_COLUMNS)] == schema.SUMMARY_COLUMNS
    for row in rows:
        for column in schema.SUMMARY_TABLE:
            text = row[column.name]
            if column.type is bool:
                assert text in ("True", "False") or (column.optional and text == ""), column.name
            elif text == "":
                assert column.optional, column.name
            else:
                column.type(text)


def test_every_maker_makes_its_columns():
    model = Net()
    names = ["conv1.weight", "conv2.weight"]
    weights = MaskedParameters({name: model.get_parameter(name) for name in names})
    layers = count_layers(model, (1, 7, 7))
    device, history = Device(name="cpu"), History()
    made = {
        "compute_cost_columns": result.compute_cost_columns(model, names, layers, (1, 7, 7), 0),
        "training_columns": result.training_columns(weights, 0, TrainingFLOPs(layers, weights)),
        "layer_rows": result.layer_rows(model, names, layers)[0],
    }
    for maker, found in made.items():
        columns = {c.name: c.type for c in (*schema.SUMMARY_TABLE, *schema.LAYERS_TABLE) if c.maker == maker}
        assert set(found) == set(columns)
        assert all(isinstance(value, columns[name]) or value == "" for name, value in found.items()), maker
    accuracies = result.accuracy_columns(history, device, 0)
    assert set(accuracies) == {c.name for c in schema.SUMMARY_TABLE if c.maker == "accuracy_columns"}
    assert {c.maker for c in schema.SUMMARY_TABLE} == {*made, "accuracy_columns", ""} - {"layer_rows"}


def test_what_evaluations_measure_has_a_direction():
    assert [schema.lower_is_better(c) for c in ("ece", "nll", "disagreement", "top1_worst_class")] == [
        True, True, True, False,
    ]  # fmt: skip
    for name in ("test_loss", "seconds", "macs_sparse", "train_flops_ratio", "nonzero", "their_memory"):
        assert schema.lower_is_better(name)
    for name in (
        "top1",
        "sparsity",
        "compression",
        "speedup_theoretical",
        "images_per_second",
        "seed",
        "theirs",
    ):
        assert not schema.lower_is_better(name)
