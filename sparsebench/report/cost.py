"""Accuracy against a cost, with the Pareto front of every budget."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from sparsebench.report.lines import ACCURACY, OTHERS, TOGETHER, line_name, most_runs, panels, usual_sparsity
from sparsebench.report.style import LINES, legend, plain

SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def cost(
    points: pd.DataFrame, styles: dict[str, dict[str, Any]], column: str, name: str
) -> tuple[Figure, str, pd.DataFrame]:
    """Accuracy against a cost, with the Pareto front of every budget.

    Args:
        points: Configurations of one data set and model.
        styles: Label -> colour, marker and line style.
        column: Column of the cost.
        name: Axis label of the cost, with its unit.

    Returns:
        The figure, a caption, and the points with a column ``pareto``.
    """
    points = points.assign(pareto=pareto(points, column))
    dense, sparse = points[points["method"] == "dense"], points[points["method"] != "dense"]
    curves = most_runs([(str(label), rows) for label, rows in sparse.groupby("label", sort=True)])
    power = 3 * int(math.log10(max(points[column].max(), 1)) // 3)
    xlabel = f"{name} (×10{str(power).translate(SUPERSCRIPT)})" if power else name
    wide = 0 < points[column].min() * 30 < points[column].max()
    read = (
        "One point per configuration: mean over n seeds and sample standard deviation. Thin steps: the Pareto front"
        f"{' of each budget' if points['budget'].nunique() > 1 else ''}, where nothing cheaper is as accurate."
    )
    if len(curves) > TOGETHER and any(len(rows) > 1 for _, rows in curves):
        figure, grid = panels(curves, dense, lambda rows: rows[column] / 10**power)
        for axes, (_, rows) in zip(grid, curves, strict=False):
            _fronts(axes, points[points["budget"].isin(rows["budget"])], column, power)
        _cost_axis(grid[0], wide)
        figure.supxlabel(xlabel, fontsize=8, y=0.1 / figure.get_figheight())
        return figure, f"{read} {OTHERS}", points
    curves.sort(key=lambda curve: -curve[1]["top1"].max())
    joined = len(curves) <= TOGETHER
    usual = dict.fromkeys(
        sparse["label"], usual_sparsity(points if sparse.empty else sparse)
    ) | dict.fromkeys(dense["label"], 0.0)
    figure = Figure(figsize=(7.5, max(4.2, 0.155 * len(curves) + 0.6)), layout="constrained")
    axes = figure.add_subplot()
    for label, rows in [*curves, *((str(label), rows) for label, rows in dense.groupby("label"))]:
        style = {**styles[label], **({} if joined else {"linestyle": ""})}
        if rows["method"].iloc[0] == "dense":
            style = {"color": "black", "marker": "*", "markersize": 9, "linestyle": ""}
        axes.errorbar(
            rows[column] / 10**power,
            rows["top1"],
            rows["top1_std"],
            label=line_name(label, rows, usual[label]),
            capsize=2.5,
            elinewidth=0.8,
            alpha=0.9,
            **style,
        )
    _fronts(axes, points, column, power, named=not joined)
    _cost_axis(axes, wide)
    axes.set(xlabel=xlabel, ylabel=ACCURACY)
    legend(figure, 1 + (len(curves) > 30))
    return figure, f"{read} The legend is ordered by accuracy.", points


def pareto(points: pd.DataFrame, column: str) -> pd.Series:
    """Which points are on the Pareto front: more accurate than all others of the same budget that cost no more."""
    ordered = points.sort_values([column, "top1"], ascending=[True, False], kind="stable")
    best = ordered.groupby("budget")["top1"].transform(
        lambda values: values.astype(float).cummax().shift(fill_value=-math.inf)
    )
    return (ordered["top1"] > best).reindex(points.index)


def _fronts(axes: Axes, points: pd.DataFrame, column: str, power: int, named: bool = False) -> None:
    """Draw the Pareto front of every budget as steps; ``named``: with the names of its points."""
    for i, (_, rows) in enumerate(points[points["pareto"]].groupby("budget")):
        front = rows.sort_values(column)
        x = [*front[column] / 10**power, points[column].max() / 10**power]
        axes.step(
            x,
            [*front["top1"], front["top1"].max()],
            where="post",
            color="#666666",
            linewidth=0.8,
            linestyle=LINES[(i + 1) % 4],
            zorder=1,
            label=None if i else "Pareto front",
        )
        for place, accuracy_, label in zip(x, front["top1"], front["label"], strict=False):
            if named and len(front) <= 12:
                axes.annotate(
                    str(label),
                    (place, accuracy_),
                    (-3, 4),
                    textcoords="offset points",
                    ha="right",
                    fontsize=6,
                    color="#444444",
                )


def _cost_axis(axes: Axes, wide: bool) -> None:
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.06)
