"""Figures of means: accuracy against sparsity, and against the cost of training and inference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from sparsebench.report.style import COLORS, DENSE, LINES, count, legend, plain, scale, sparsity_axis

TOGETHER = 8
"""Lines that can be distinguished in one panel; more get a panel each."""

MOST = 48
"""Maximum number of lines in a figure; those with the most runs are shown."""

SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

ACCURACY = "test top-1 accuracy (%)"

SPARSITY = "sparsity (fraction of zeros among the prunable weights)"

OTHERS = "Each panel shows one line in blue, and the others in grey."

Curves = list[tuple[str, pd.DataFrame]]


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
    curves = _most_runs(every)
    left = "" if len(curves) == len(every) else f" The {MOST} of {len(every)} lines with the most runs."
    bars = "Means over n seeds; error bars and bands are the sample standard deviation."
    if all(rows["sparsity"].round(2).nunique() < 2 for _, rows in curves):
        kept = points[points["label"].isin([*(label for label, _ in curves), *dense["label"]])]
        return _dots(kept), f"{bars} Every method has one sparsity here; one row each, best on top.{left}"
    if len(curves) > TOGETHER:
        figure, grid = _panels(curves, dense, lambda rows: scale_like(rows, sparse))
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
    _dense_lines(axes, dense)
    sparsity_axis(axes, sparse["sparsity"])
    axes.set(xlabel=SPARSITY, ylabel=ACCURACY)
    legend(figure)
    return figure, f"{bars}{left}"


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
    curves = _most_runs([(str(label), rows) for label, rows in sparse.groupby("label", sort=True)])
    power = 3 * int(math.log10(max(points[column].max(), 1)) // 3)
    xlabel = f"{name} (×10{str(power).translate(SUPERSCRIPT)})" if power else name
    wide = 0 < points[column].min() * 30 < points[column].max()
    read = (
        "One point per configuration: mean over n seeds and sample standard deviation. Thin steps: the Pareto front"
        f"{' of each budget' if points['budget'].nunique() > 1 else ''}, where nothing cheaper is as accurate."
    )
    if len(curves) > TOGETHER and any(len(rows) > 1 for _, rows in curves):
        figure, grid = _panels(curves, dense, lambda rows: rows[column] / 10**power)
        for axes, (_, rows) in zip(grid, curves, strict=False):
            _fronts(axes, points[points["budget"].isin(rows["budget"])], column, power)
        _cost_axis(grid[0], wide)
        figure.supxlabel(xlabel, fontsize=8, y=0.1 / figure.get_figheight())
        return figure, f"{read} {OTHERS}", points
    curves.sort(key=lambda curve: -curve[1]["top1"].max())
    joined = len(curves) <= TOGETHER
    usual = dict.fromkeys(sparse["label"], _usual(points if sparse.empty else sparse)) | dict.fromkeys(
        dense["label"], 0.0
    )
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
            label=_named(label, rows, usual[label]),
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


def scale_like(rows: pd.DataFrame, every: pd.DataFrame) -> pd.Series:
    """Positions of ``rows`` on the axis that shows ``every``."""
    return scale(every["sparsity"]).loc[rows.index]


def _most_runs(curves: Curves) -> Curves:
    kept = sorted(curves, key=lambda curve: -int(curve[1]["n"].sum()))[:MOST]
    return sorted(kept, key=lambda curve: curve[0])


def _dense_lines(axes: Axes, dense: pd.DataFrame, *, vertical: bool = False, named: bool = True) -> None:
    """Draw dense runs as horizontal lines, with a band of one standard deviation."""
    line, band = (axes.axvline, axes.axvspan) if vertical else (axes.axhline, axes.axhspan)
    for i, row in enumerate(dense.to_dict("records")):
        style = {**DENSE, "linestyle": DENSE["linestyle"] if i == 0 else LINES[1 + i % 3]}
        line(row["top1"], label=f"{row['label']} (n={row['n']})" if named else None, zorder=1, **style)
        if row["top1_std"] > 0:
            band(
                row["top1"] - row["top1_std"], row["top1"] + row["top1_std"], color="black", alpha=0.08, lw=0
            )


def _panels(
    curves: Curves, dense: pd.DataFrame, place: Callable[[pd.DataFrame], pd.Series]
) -> tuple[Figure, list[Axes]]:
    """Small multiples: the same axes for all, one highlighted line in each; ``place`` gives the positions of rows."""
    columns = 4 if len(curves) <= 12 else 6
    lines = math.ceil(len(curves) / columns)
    height = 1.6 * lines + 1.1
    figure = Figure(figsize=(10, height))  # fixed positions: automatic layout of many panels takes seconds
    figure.subplots_adjust(
        left=0.06, right=0.99, bottom=0.5 / height, top=1 - 0.65 / height, wspace=0.12, hspace=0.35
    )
    grid = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel())
    segments = [np.column_stack([place(rows), rows["top1"]]) for _, rows in curves]
    single = np.array([line[0] for line in segments if len(line) == 1]).reshape(-1, 2)
    for axes, (label, rows) in zip(grid, curves, strict=False):
        axes.add_collection(LineCollection(segments, colors="#cccccc", linewidths=0.6, zorder=1))
        axes.plot(single[:, 0], single[:, 1], ".", color="#cccccc", markersize=3, zorder=1)
        axes.errorbar(
            place(rows),
            rows["top1"],
            rows["top1_std"],
            color=COLORS[0],
            marker="o",
            markersize=3.5,
            capsize=2,
            elinewidth=0.8,
        )
        _dense_lines(axes, dense[dense["budget"].isin(rows["budget"])], named=False)
        axes.set_title(_wrapped(f"{label} ({count(rows['n'])})", 32), fontsize=7, pad=3)
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    for axes in grid[max(len(curves) - columns, 0) : len(curves)]:
        axes.tick_params(labelbottom=True)
    if len(dense):
        band = Line2D([], [], **DENSE, label=f"dense ({count(dense['n'])})")
        figure.legend(handles=[band], loc="upper right")
    figure.supylabel(ACCURACY, fontsize=8, x=0.01)
    return figure, grid


def _dots(points: pd.DataFrame) -> Figure:
    """One row per configuration, best on top; the dense run's accuracy as a vertical line."""
    points = points.sort_values("top1", kind="stable")
    dense, sparse = points[points["method"] == "dense"], points[points["method"] != "dense"]
    shown = sparse if len(sparse) else dense
    usual = _usual(shown)
    names = [_named(row["label"], shown[shown.index == i], usual) for i, row in shown.iterrows()]
    figure = Figure(figsize=(7, 0.19 * len(names) + 1.1), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(names))
    axes.errorbar(shown["top1"], rows, xerr=shown["top1_std"], color=COLORS[0], fmt="o", capsize=2.5)
    axes.set_yticks(rows, names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    if len(sparse):
        _dense_lines(axes, dense, vertical=True)
    axes.set(xlabel=f"{ACCURACY} at sparsity {usual:g}")
    if len(dense) and len(sparse):
        figure.legend(loc="outside upper right")
    return figure


def _usual(points: pd.DataFrame) -> float:
    return float(points["sparsity"].round(2).mode().iloc[0])


def _named(label: str, rows: pd.DataFrame, usual: float) -> str:
    """A line's label with its number of seeds, and its sparsity if that is a single unusual one."""
    text = f"{label} ({count(rows['n'])})"
    unusual = len(rows) == 1 and abs(rows["sparsity"].iloc[0] - usual) > 0.004
    return f"{text} at {rows['sparsity'].iloc[0]:.3f}" if unusual else text


def _wrapped(text: str, width: int) -> str:
    """``text`` in at most two lines."""
    if len(text) <= width:
        return text
    cut = text.rfind(" ", 0, width + 1)
    cut = cut if cut > 0 else width
    rest = text[cut:].strip()
    return f"{text[:cut]}\n{rest if len(rest) <= width else rest[: width - 1] + '…'}"
