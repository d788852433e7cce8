"""What a figure of the report is, and the search for all of them in ``report/figures``."""

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
    """What a figure is drawn from: the runs of one data set and model.

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
    """What a module of figures has drawn.

    Args:
        drawings: The figures, none where the runs have nothing to show; their names are unique among all modules.
        notes: What is left out, in sentences.
    """

    drawings: Sequence[Drawing] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ReportFigure:
    """The object ``FIGURE`` of a module of ``report/figures``.

    Args:
        draw: Draws it for a group.
        order: Where it stands in a section of the page; by the module's name where it is equal.
    """

    draw: Callable[[Group], Drawn]
    order: int = 50


def figures() -> Iterator[ReportFigure]:
    """Every figure, in the order of the page."""
    names = sorted(path.stem for path in Path(__file__).with_name("figures").glob("[!_]*.py"))
    found = [importlib.import_module(f"{__package__}.figures.{name}").FIGURE for name in names]
    yield from sorted(found, key=lambda figure: figure.order)  # stable: by name where it is equal


def draw(group: Group, anchor: str) -> Drawn:
    """All figures of a group, their names after ``anchor``."""
    parts = [figure.draw(group) for figure in figures()]
    drawings = [
        replace(drawing, name=f"{anchor}-{drawing.name}") for part in parts for drawing in part.drawings
    ]
    return Drawn(drawings, [note for part in parts for note in part.notes])
