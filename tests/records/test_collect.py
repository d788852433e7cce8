"""Tables from run folders."""

from __future__ import annotations

import pandas as pd
import pytest

from sparsebench.errors import SettingError
from sparsebench.files import write_csv
from sparsebench.records import schema
from sparsebench.records.collect import STRING_COLUMNS, read


def summary(path, run_id, extra=None, **values):
    """A summary of plausible values, and columns that only some runs have."""
    row = {column.name: {str: "x", bool: True}.get(column.type, 1) for column in schema.SUMMARY_TABLE}
    row |= {"schema": schema.SCHEMA, "run_id": run_id, "started": "2026", **values, **(extra or {})}
    path.mkdir(parents=True)
    write_csv(path / schema.SUMMARY, (*schema.SUMMARY_COLUMNS, *(extra or {})), [row])


def test_runs_with_and_without_extra_columns_are_one_table(tmp_path):
    summary(tmp_path / "a-1", "1", {"round": 2, "note": "one, two"}, target_sparsity="")
    summary(tmp_path / "b-2", "2", {"ece": 0.25}, command="sparsebench train 'x=[1,\n2]'")
    summary(tmp_path / "c-3", "0003", top1=99.5)
    together = read(tmp_path)
    apart = [pd.read_csv(p / schema.SUMMARY, dtype=STRING_COLUMNS) for p in sorted(tmp_path.iterdir())]
    pd.testing.assert_frame_equal(
        together.set_index("run_id"),
        pd.concat(apart).set_index("run_id").loc[together["run_id"]],
        check_dtype=False,
    )
    assert [*together.columns] == [*schema.SUMMARY_COLUMNS, "round", "note", "ece"]
    assert set(together["run_id"]) == {"1", "2", "0003"}


@pytest.mark.parametrize("content", ["", "\n", "schema\n", "schema\n1,2\n", "schema,run_id\n1\n"])
def test_a_summary_that_is_none_is_refused(tmp_path, content):
    summary(tmp_path / "a-1", "1")
    (tmp_path / "b-2").mkdir()
    (tmp_path / "b-2" / schema.SUMMARY).write_text(content)
    with pytest.raises(SettingError):
        read(tmp_path)
