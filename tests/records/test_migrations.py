"""Results of other schemas: steps one after another, and clear words where there is none."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from sparsebench.cli import main
from sparsebench.errors import SettingError
from sparsebench.records.migrations import STEPS, migrate, migration
from sparsebench.records.schema import SCHEMA
from tests.support.tables import table, told


@pytest.fixture
def oldest():
    """The public way to declare a step, here from schemas before the first; taken back at the end."""

    @migration(SCHEMA - 2)
    def percent(frame):
        return frame.assign(top1=100 * frame["accuracy"]).drop(columns="accuracy")

    @migration(SCHEMA - 1)
    def renamed(frame):
        return frame.rename(columns={"net": "model"})

    yield
    del STEPS[SCHEMA - 2], STEPS[SCHEMA - 1]


def test_rows_of_two_schemas_end_in_the_present_one(oldest):
    frame = pd.DataFrame({"schema": [SCHEMA - 2, SCHEMA - 2], "accuracy": [0.5, 0.25], "net": ["a", "b"]})
    found = migrate(frame, "x.csv")
    assert list(found["schema"]) == [SCHEMA, SCHEMA]
    assert list(found["top1"]) == [50.0, 25.0] and list(found["model"]) == ["a", "b"]
    assert list(frame.columns) == ["schema", "accuracy", "net"]  # as it was


def test_mixed_rows_keep_their_order(oldest):
    frame = pd.DataFrame(
        {"schema": [SCHEMA, SCHEMA - 1, SCHEMA], "model": ["a", None, "c"], "net": [None, "b", None]}
    )
    assert list(migrate(frame[["schema", "net"]].query(f"schema < {SCHEMA}"), "x")["model"]) == ["b"]
    assert list(migrate(frame.drop(columns="net"), "x").index) == [0, 1, 2]


def test_the_present_schema_is_left_alone():
    frame = pd.DataFrame({"schema": [SCHEMA]})
    assert migrate(frame, "x") is frame


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (
            SCHEMA + 1,
            f"schema {SCHEMA} or older; it holds schema {SCHEMA + 1}, which a newer sparsebench wrote",
        ),
        (SCHEMA - 1, f"results of schema {SCHEMA}; it holds schema {SCHEMA - 1}"),
        ("one", f"results of schema {SCHEMA}; it holds schema one"),
    ],
)
def test_a_schema_without_a_way_here_is_named(schema, why):
    with pytest.raises(SettingError, match=f"path=x.csv: expected .*{why}"):
        migrate(pd.DataFrame({"schema": [schema]}), "x.csv")


def test_tables_of_two_schemas_compare(oldest, tmp_path, capsys):
    new = table(tmp_path, "new.csv", [told("dpf", 0.9, s, 91 + s) for s in (0, 1)])
    rows = [told("dpf", 0.9, s, 90 + s, schema=SCHEMA - 1, run_id=f"old {s}") for s in (0, 1)]
    old = table(tmp_path, "old.csv", [{"net" if c == "model" else c: v for c, v in r.items()} for r in rows])
    assert main(["compare", str(old), str(new), "--format", "json"]) == 0
    captured = capsys.readouterr()
    (one,) = json.loads(captured.out)
    assert (one["model"], one["difference [new.csv]"], one["pairs [new.csv]"]) == ("resnet20", 1.0, 2)
    assert captured.err == ""
