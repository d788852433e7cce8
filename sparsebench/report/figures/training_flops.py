"""Accuracy against training FLOPs."""

from __future__ import annotations

from sparsebench.report.cost import cost
from sparsebench.report.figure import Drawn, Group, ReportFigure
from sparsebench.report.style import Drawing


def draw(group: Group) -> Drawn:
    """The figure of a group."""
    figure, caption, data = cost(group.points, group.styles, "train_flops", "training FLOPs")
    return Drawn([Drawing("training_flops", "Accuracy against training FLOPs", caption, figure, data)])


FIGURE = ReportFigure(draw, order=1)
