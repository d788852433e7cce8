"""Common parts of accuracy figures: selection of lines, small multiples, dense runs, labels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsebench.report.style import COLORS, DENSE, LINES, count

TOGETHER = 8
"""Lines that can be distinguished in one panel; more get a panel each."""

MOST = 48
"""Maximum number of lines in a figure; those with the most runs are shown."""

ACCURACY = "test top-1 accuracy (%)"

OTHERS = "Each panel shows one line in blue, and the others in grey."

Curves = list[tuple[str, pd.DataFrame]]


def most_runs(curves: Curves) -> Curves:
    """The :data:`MOST` lines with the most runs, by name."""
    kept = sorted(curves, key=lambda curve: -int(curve[1]["n"].sum()))[:MOST]
    return sorted(kept, key=lambda curve: curve[0])


def dense_lines(axes: Axes, dense: pd.DataFrame, *, vertical: bool = False, named: bool = True) -> None:
    """Draw dense runs as horizontal lines, with a band of one standard deviation."""
    line, band = (axes.axvline, axes.axvspan) if vertical else (axes.axhline, axes.axhspan)
    for i, row in enumerate(dense.to_dict("records")):
        style = {**DENSE, "linestyle": DENSE["linestyle"] if i == 0 else LINES[1 + i % 3]}
        line(row["top1"], label=f"{row['label']} (n={row['n']})" if named else None, zorder=1, **style)
        if row["top1_std"] > 0:
            band(
                row["top1"] - row["top1_std"], row["top1"] + row["top1_std"], color="black", alpha=0.08, lw=0
            )


def panels(
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
        dense_lines(axes, dense[dense["budget"].isin(rows["budget"])], named=False)
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


def usual_sparsity(points: pd.DataFrame) -> float:
    """The most common sparsity of the points, in two decimals."""
    return float(points["sparsity"].round(2).mode().iloc[0])


def line_name(label: str, rows: pd.DataFrame, usual: float) -> str:
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
