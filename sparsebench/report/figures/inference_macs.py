"""Accuracy against inference MACs."""

from __future__ import annotations

from sparsebench.report.cost import cost
from sparsebench.report.figure import Drawn, Group, ReportFigure
from sparsebench.report.style import Drawing


def draw(group: Group) -> Drawn:
    """The figure of a group."""
    figure, caption, data = cost(group.points, group.styles, "macs_sparse", "inference MACs")
    return Drawn([Drawing("inference_macs", "Accuracy against inference MACs", caption, figure, data)])


FIGURE = ReportFigure(draw, order=2)
