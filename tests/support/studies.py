"""A theory study in this process: its tables, and its figures' input."""

from __future__ import annotations

import json

import pandas as pd
import torch

from sparsebench.theory.study import Study, Tables


def ran(study: Study) -> Tables:
    """All tables of a theory study, through JSON as the command keeps them, with exactly the columns promised."""
    tables: Tables = {name: [] for name in study.tables}
    for point in study.points():
        found = study.rows(json.loads(json.dumps(point)), torch.device("cpu"))
        for name, rows in json.loads(json.dumps(found)).items():
            assert all(set(row) == set(study.tables[name]) for row in rows)
            tables[name] += rows
    return tables


def framed(study: Study, tables: Tables) -> dict[str, pd.DataFrame]:
    """The tables as a study's figures are given them."""
    return {name: pd.DataFrame(rows, columns=list(study.tables[name])) for name, rows in tables.items()}
