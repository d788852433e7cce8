"""The interface of a figure of the report, and the discovery of all of them in ``report/figures``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sparsebench.report.data import ReportData
from sparsebench.report.style import Drawing


@dataclass(frozen=True)
class Group:
    """The data of a figure: the runs of one data set and model.

    Args:
        results: All runs of the report, with their folders.
        points: Means over seeds of this group's configurations that have valid runs
            (:func:`sparsebench.report.data.points`).
        styles: Label of a line -> colour, marker and line style.
    """

    results: ReportData
    points: pd.DataFrame
    styles: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Drawn:
    """The output of a module of figures.

    Args:
        drawings: Figures, possibly none; their names are unique among all modules.
        notes: Sentences about what is not shown.
    """

    drawings: Sequence[Drawing] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ReportFigure:
    """The object ``FIGURE`` of a module of ``report/figures``.

    Args:
        draw: Draws the figure for a group.
        order: Position within a section of the page; equal ones are sorted by the module's name.
    """

    draw: Callable[[Group], Drawn]
    order: int = 50


def figures() -> Iterator[ReportFigure]:
    """Every figure, in the order of the page."""
    names = sorted(path.stem for path in Path(__file__).with_name("figures").glob("[!_]*.py"))
    found = [importlib.import_module(f"{__package__}.figures.{name}").FIGURE for name in names]
    yield from sorted(found, key=lambda figure: figure.order)  # stable: equal ones stay sorted by name


def draw(group: Group, anchor: str) -> Drawn:
    """All figures of a group, their names after ``anchor``."""
    parts = [figure.draw(group) for figure in figures()]
    drawings = [
        replace(drawing, name=f"{anchor}-{drawing.name}") for part in parts for drawing in part.drawings
    ]
    return Drawn(drawings, [note for part in parts for note in part.notes])
