"""Migrations of results of older versions, one step per schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from sparsebench.errors import SettingError
from sparsebench.records.schema import SCHEMA

Step = Callable[[pd.DataFrame], pd.DataFrame]
"""Summary rows of one schema -> the same rows in the next; called with all or some of the columns."""

STEPS: dict[int, Step] = {}
"""Schema -> the step to the next one, filled by :func:`migration`."""


def migration(schema: int) -> Callable[[Step], Step]:
    """Declare a function as the step from ``schema`` to ``schema + 1``.

    Add a function here when raising ``SCHEMA``, so that old results stay readable.

    Example:
        >>> @migration(1)
        ... def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        ...     return frame.rename(columns={"model_sparsity": "total_sparsity"})
    """

    def declare(step: Step) -> Step:
        assert schema not in STEPS, f"there are two steps from schema {schema}"
        STEPS[schema] = step
        return step

    return declare


def migrate(
    frame: pd.DataFrame, named: object, schema: int = SCHEMA, steps: Mapping[int, Step] = STEPS
) -> pd.DataFrame:
    """Migrate ``frame`` to ``schema``, one step after another.

    Args:
        frame: Summary rows with a column ``schema``; not modified.
        named: Their source, for error messages.
        schema: Target schema.
        steps: Schema -> step to the next one.

    Raises:
        SettingError: The rows are newer than ``schema``, or older than the first step.
    """
    if "schema" not in frame:
        raise SettingError("path", named, f"results of schema {schema}; it holds no schema column")
    found = list(frame["schema"].unique())
    if found == [schema]:
        return frame
    parts = [_upgraded(frame[frame["schema"] == one], one, named, schema, steps) for one in found]
    if not parts:
        raise SettingError("path", named, f"results of schema {schema}; it holds no rows")
    return pd.concat(parts).sort_index()


def _upgraded(
    rows: pd.DataFrame, version: object, named: object, schema: int, steps: Mapping[int, Step]
) -> pd.DataFrame:
    number = pd.to_numeric(pd.Series([version]), errors="coerce").iloc[0]
    if number > schema:
        raise SettingError(
            "path",
            named,
            f"results of schema {schema} or older; it holds schema {version}, which a newer sparsebench wrote",
        )
    while number < schema and number in steps:
        rows = steps[int(number)](rows)
        number += 1
        rows = rows.assign(schema=int(number))
    if number != schema:
        raise SettingError("path", named, f"results of schema {schema}; it holds schema {version}")
    return rows
