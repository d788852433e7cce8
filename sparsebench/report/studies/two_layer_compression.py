"""Few ReLU nodes for many: the remaining error, how the units turn to the nodes' mean, and the error's rates."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sparsebench.report.style import COLORS, LINES, MARKERS, Drawing, legend, log_ticks, plain

STUDENTS = {"simplex": "simplex", "random": "random units", "worst": "worst direction"}


def drawings(tables: Mapping[str, pd.DataFrame]) -> list[Drawing]:
    """One figure per problem."""
    rows, rate = tables["two_layer_compression"], tables["rate"]
    makers = {"simplified": _residual, "tilt": _tilt, "full": _full}
    found = [make(own) for name, make in makers.items() if len(own := rows[rows["problem"] == name])]
    return [*found, _rate(rate)] if len(rate) else found


def _residual(rows: pd.DataFrame) -> Drawing:
    figure, axes = _figure()
    for i, (d, own) in enumerate(rows.groupby("d")):
        own, color = own.sort_values("units"), COLORS[i % 6]
        energy = own["best_excess"] / (own["residual"] - 1)
        theory = 1 + own["etf_excess"] / energy
        fits = own["units"] <= own["d"] + 1
        axes.plot(own["units"][fits], theory[fits], color=color, label=f"simplex, d={d}")
        if not fits.all():
            tail = own.index[max(int(fits.sum()) - 1, 0) :]  # from the last that fits on
            label = f"bound for M > d + 1, d={d}"
            axes.plot(own["units"][tail], theory[tail], color=color, linestyle=":", label=label)
        axes.plot(own["units"], own["residual"], "o", color=color, markersize=4, label=f"best found, d={d}")
    axes.set(xlabel="units of the student M", ylabel="error / energy of the target", yscale="log")
    axes.yaxis.set_major_formatter(plain)
    legend(figure)
    caption = f"Infinitely many nodes. Dots: the best of {int(rows['restarts'].iloc[0])} searches from random starts."
    return Drawing("residual", "Remaining error with few nodes", caption, figure, rows)


def _tilt(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for i, (units, own) in enumerate(rows.groupby("units")):
        for axes, theory, measured in (
            (panels[0], "cos_theory", "cos_mean"), (panels[1], "gram_offdiag_theory", "gram_offdiag_mean"),
        ):  # fmt: skip
            label = f"M={units}" if axes is panels[0] else None
            axes.plot(own["mean"], own[theory], color=COLORS[i % 6], label=label)
            axes.plot(own["mean"], own[measured], MARKERS[i % 7], color=COLORS[i % 6], markersize=4)
    for axes, y in zip(panels, ("cosine of a unit with the mean", "cosine of two units"), strict=True):
        axes.set(xlabel="length of the nodes' mean |m|", ylabel=y, xscale="log")
        axes.set_xticks(sorted(rows["mean"].unique()), [f"{m:g}" for m in sorted(rows["mean"].unique())])
        axes.xaxis.set_minor_locator(NullLocator())
    legend(figure)
    caption = "Infinitely many nodes. Lines: a simplex off the mean, tilted. Dots: the best student found."
    return Drawing("tilt", "Units turn to the mean of the nodes", caption, figure, rows)


def _full(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for i, (mean, own) in enumerate(rows.groupby("mean")):
        for axes, column in ((panels[0], "rel_dev"), (panels[1], "gram_rms_dev")):
            label = f"|m|={mean:g}" if axes is panels[0] else None
            own_mean = own.groupby("nodes")[column].mean()
            axes.plot(own["nodes"], own[column], MARKERS[i % 7], color=COLORS[i % 6], markersize=3, alpha=0.6)
            axes.plot(own_mean.index, own_mean, color=COLORS[i % 6], label=label)
    panels[0].axhline(0, color="black", linewidth=0.8)
    panels[0].set_ylabel("excess / that of the frame − 1")
    panels[1].set_ylabel("rms deviation of the units' cosines")
    panels[1].set_yscale("log")
    log_ticks(panels[1].yaxis)
    for axes in panels:
        axes.set(xlabel="nodes of the target N", xscale="log")
        axes.set_xticks(sorted(rows["nodes"].unique()), [f"{n:g}" for n in sorted(rows["nodes"].unique())])
        axes.xaxis.set_minor_locator(NullLocator())
    legend(figure)
    m, d = int(rows["units"].iloc[0]), int(rows["d"].iloc[0])
    caption = f"Best student of M={m} units, d={d} inputs: one dot per target, lines are their means."
    return Drawing("nodes", "The best student of finitely many nodes", caption, figure, rows)


def _rate(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    kinds = list(rows["student"].drop_duplicates())
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for i, (d, own) in enumerate(rows[rows["student"] == kind].groupby("d")):
            label = f"d={d}" if axes is panels[0] else None
            axes.plot(
                own["nodes"], own["theory_error"], color=COLORS[i % 6], linestyle=LINES[i % 4], label=label
            )
            axes.errorbar(
                own["nodes"], own["error"], yerr=own["se_error"], fmt=MARKERS[i % 7], color=COLORS[i % 6],
                markersize=3.5, linewidth=0.8, fillstyle="none",
            )  # fmt: skip
        axes.set(xlabel="nodes of the target N", xscale="log", yscale="log", title=STUDENTS[kind])
        axes.xaxis.set_major_formatter(plain)
        axes.yaxis.set_major_formatter(plain)
    panels[0].set_ylabel("|error − its limit|, rms or mean (y²)")
    legend(figure)
    caption = (
        "Lines: rates 1/√(dN) of a given student, 1/√N in the worst direction, to leading order in d. Dots: means over "
        "draws of the nodes, bars one standard error."
    )
    return Drawing("rate", "How far many nodes are from infinitely many", caption, figure, rows)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    return figure, figure.add_subplot()
