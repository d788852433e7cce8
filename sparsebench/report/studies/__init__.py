"""Figures of the theory studies: one module each with ``drawings(tables)``, found by the study's name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping

import pandas as pd

from sparsebench.report.style import Drawing, heading, rendered, settings


def drawings(study: str, tables: Mapping[str, pd.DataFrame]) -> list[Drawing]:
    """The figures of a study; none if it has no module here.

    Args:
        study: Name of the study.
        tables: Tables by name; they may be empty.
    """
    if importlib.util.find_spec(f"{__name__}.{study}") is None:
        return []
    found: list[Drawing] = importlib.import_module(f"{__name__}.{study}").drawings(tables)
    return found


def files(study: str, tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of a study's figures."""
    with settings():
        for drawing in drawings(study, tables):
            heading(drawing.figure, f"{drawing.title}. {study}")
            for form, content in rendered(drawing.figure, ("png", "svg")).items():
                yield f"{drawing.name}.{form}", content
