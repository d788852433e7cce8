"""Accuracy against sparsity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sparsebench.report.figure import Drawn, Group, ReportFigure
from sparsebench.report.lines import (
    ACCURACY,
    MOST,
    OTHERS,
    TOGETHER,
    dense_lines,
    line_name,
    most_runs,
    panels,
    usual_sparsity,
)
from sparsebench.report.style import COLORS, Drawing, count, legend, scale, sparsity_axis

SPARSITY = "sparsity (fraction of zeros among the prunable weights)"


def accuracy(points: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> tuple[Figure, str]:
    """Accuracy against sparsity: lines (one panel each if there are many), or dots if none has two points.

    Args:
        points: Configurations of one data set and model, as :func:`sparsebench.report.data.points` gives them.
        styles: Label -> colour, marker and line style.

    Returns:
        The figure, and a caption.
    """
    dense, sparse = points[points["method"] == "dense"], points[points["method"] != "dense"]
    every = [(str(label), rows) for label, rows in sparse.groupby("label", sort=True)]
    curves = most_runs(every)
    left = "" if len(curves) == len(every) else f" The {MOST} of {len(every)} lines with the most runs."
    bars = "Means over n seeds; error bars and bands are the sample standard deviation."
    if all(rows["sparsity"].round(2).nunique() < 2 for _, rows in curves):
        kept = points[points["label"].isin([*(label for label, _ in curves), *dense["label"]])]
        return _dots(kept), f"{bars} Every method has one sparsity here; one row each, best on top.{left}"
    if len(curves) > TOGETHER:
        figure, grid = panels(curves, dense, lambda rows: scale_like(rows, sparse))
        sparsity_axis(grid[0], sparse["sparsity"], most=5)
        figure.supxlabel(SPARSITY, fontsize=8, y=0.1 / figure.get_figheight())
        return figure, f"{bars} {OTHERS}{left}"
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for label, rows in curves:
        axes.errorbar(
            scale_like(rows, sparse),
            rows["top1"],
            rows["top1_std"],
            label=f"{label} ({count(rows['n'])})",
            capsize=2.5,
            elinewidth=0.8,
            **styles[label],
        )
    dense_lines(axes, dense)
    sparsity_axis(axes, sparse["sparsity"])
    axes.set(xlabel=SPARSITY, ylabel=ACCURACY)
    legend(figure)
    return figure, f"{bars}{left}"


def scale_like(rows: pd.DataFrame, every: pd.DataFrame) -> pd.Series:
    """Positions of ``rows`` on the axis that shows ``every``."""
    return scale(every["sparsity"]).loc[rows.index]


def _dots(points: pd.DataFrame) -> Figure:
    """One row per configuration, best on top; the dense run's accuracy as a vertical line."""
    points = points.sort_values("top1", kind="stable")
    dense, sparse = points[points["method"] == "dense"], points[points["method"] != "dense"]
    shown = sparse if len(sparse) else dense
    usual = usual_sparsity(shown)
    names = [line_name(row["label"], shown[shown.index == i], usual) for i, row in shown.iterrows()]
    figure = Figure(figsize=(7, 0.19 * len(names) + 1.1), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(names))
    axes.errorbar(shown["top1"], rows, xerr=shown["top1_std"], color=COLORS[0], fmt="o", capsize=2.5)
    axes.set_yticks(rows, names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    if len(sparse):
        dense_lines(axes, dense, vertical=True)
    axes.set(xlabel=f"{ACCURACY} at sparsity {usual:g}")
    if len(dense) and len(sparse):
        figure.legend(loc="outside upper right")
    return figure


def draw(group: Group) -> Drawn:
    """The figure of a group."""
    figure, caption = accuracy(group.points, group.styles)
    return Drawn([Drawing("accuracy", "Accuracy against sparsity", caption, figure, group.points)])


FIGURE = ReportFigure(draw, order=0)
