"""The gap between random networks and their pruned copies: against the fraction removed, the width and the channels."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sparsebench.report.style import COLORS, LINES, MARKERS, Drawing, legend, plain

METHOD = {"random": COLORS[0], "magnitude": COLORS[1]}
GAP = "gap E|F−f|²/E|F|²"
CAPTION = "Lines: the limit of wide layers. Dots: means of the simulation over {n} networks, bars one standard error."


def drawings(tables: Mapping[str, pd.DataFrame]) -> list[Drawing]:
    """Gap against the fraction removed, with its bound; gap and norm against the width; gap of convolutions."""
    rows, widths, convolution = (tables[t] for t in ("random_network_pruning", "widths", "convolution"))
    found = []
    if len(rows):
        found += [_shares(rows, "err"), _shares(rows, "err_rescaled"), _bound(rows)]
    if len(widths):
        found.append(_widths(widths))
    if len(convolution):
        found.append(_convolution(convolution))
    return found


def _shares(rows: pd.DataFrame, kind: str) -> Drawing:
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    panels = figure.subplots(1, rows["dist"].nunique(), squeeze=False, sharey=True)[0]
    for axes, (dist, own) in zip(panels, rows.groupby("dist", sort=False), strict=True):
        _curves(axes, own, kind, "depth", axes is panels[0])
        axes.set_title({"gauss": "Gaussian weights", "uniform": "uniform weights"}[str(dist)])
        axes.set_xlabel("fraction of the weights removed ρ")
    rescaled = kind == "err_rescaled"
    panels[0].set_ylabel(GAP)
    legend(figure)
    title = "Gap of pruned networks" + (", their layers rescaled" if rescaled else "")
    return Drawing("gap_rescaled" if rescaled else "gap", title, _caption(rows), figure, rows)


def _curves(axes: Axes, rows: pd.DataFrame, kind: str, by: str, labelled: bool, same: bool = False) -> None:
    """Dots for a method and value of ``by``; a line too, one for all values if the theory is the ``same``."""
    values = list(rows[by].drop_duplicates())
    for (method, value), own in rows.groupby(["method", by], sort=False):
        i = values.index(value)
        name, color = f"{method}, {by} {value}", METHOD[str(method)]
        if i == 0 or not same:
            label = f"{method}, wide limit" if same else name
            line = LINES[0 if same else i % 4]
            axes.plot(
                own["rho"],
                own[f"theory_{kind}"],
                color=color,
                linestyle=line,
                label=label if labelled else None,
            )
        axes.errorbar(
            own["rho"], own[f"mc_{kind}"], yerr=own[f"se_{kind}"], color=color, fmt=MARKERS[i % 7], markersize=4,
            linewidth=0.8, fillstyle="none", label=name if same and labelled else None,
        )  # fmt: skip


def _bound(rows: pd.DataFrame) -> Drawing:
    """The bound by operator norms, far above."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    own = rows[rows["dist"] == rows["dist"].iloc[0]]
    axes = figure.add_subplot()
    depths = list(own["depth"].drop_duplicates())
    for (method, depth), part in own.groupby(["method", "depth"], sort=False):
        color, i = METHOD[str(method)], depths.index(depth)
        name = f"{method}, depth {depth}"
        axes.plot(
            part["rho"],
            part["mc_err"],
            color=color,
            linestyle=LINES[i % 4],
            marker=MARKERS[i % 7],
            label=name,
        )
        axes.plot(
            part["rho"], part["product_bound"], color=color, linestyle=LINES[i % 4], alpha=0.4, linewidth=2.5,
            label=f"bound: {name}",
        )  # fmt: skip
    axes.set(xlabel="fraction of the weights removed ρ", ylabel=GAP, yscale="log")
    axes.yaxis.set_major_formatter(plain)
    legend(figure)
    caption = "Dots: the simulation. Wide lines: the bound by a product of the layers' operator norms."
    return Drawing(
        "gap_bound", "Gap of pruned networks and its bound by operator norms", caption, figure, own
    )


def _widths(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    alphas = list(rows["alpha"].drop_duplicates())
    quantities = (("root of the gap", "err"), ("operator norm of the removed", "opnorm"))
    for axes, (title, kind) in zip(panels, quantities, strict=True):
        for (method, alpha), own in rows.groupby(["method", "alpha"], sort=False):
            i, color = alphas.index(alpha), METHOD[str(method)]
            theory, measured = ("theory_err", "mc_err") if kind == "err" else ("opnorm_theory", "opnorm_mc")
            power = 0.5 if kind == "err" else 1.0
            values, error = own[measured] ** power, own[f"se_{kind}"]
            if kind == "err":
                error = error / (2 * values)
            exponent = float(str(alpha)) * (1 if method == "random" else 3)
            label = f"{method}, α={alpha:g}: width^−{exponent:.2g}" if kind == "err" else None
            axes.plot(own["width"], own[theory] ** power, color=color, linestyle=LINES[i % 4], label=label)
            axes.errorbar(
                own["width"],
                values,
                yerr=error,
                color=color,
                fmt=MARKERS[i % 7],
                markersize=4,
                linewidth=0.8,
                fillstyle="none",
            )
        axes.set(xscale="log", yscale="log", xlabel="width m", title=title)
        axes.set_xticks(
            sorted(rows["width"].unique()), [f"{width:g}" for width in sorted(rows["width"].unique())]
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(plain)
    panels[0].set_ylabel("√(E|F−f|²/E|F|²)")
    panels[1].set_ylabel("‖W − W̃‖")
    legend(figure)
    title = "D^(1−α) of a layer's D weights removed: gap and operator norm against the width"
    caption = _caption(rows) + " The legend gives the exponents; those of the gap are for a small gap."
    return Drawing("widths", title, caption, figure, rows)


def _convolution(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    panels = figure.subplots(1, rows["depth"].nunique(), squeeze=False, sharey=True)[0]
    for axes, (depth, own) in zip(panels, rows.groupby("depth", sort=False), strict=True):
        _curves(axes, own, "err", "channels", axes is panels[0], same=True)
        axes.set(xlabel="fraction of the weights removed ρ", title=f"{depth} convolutions")
    panels[0].set_ylabel(GAP)
    legend(figure)
    kernel, side = int(rows["kernel"].iloc[0]), int(rows["side"].iloc[0])
    title = f"Gap of pruned convolutional networks, {kernel}×{kernel} on periodic {side}×{side} images"
    return Drawing("convolution", title, _caption(rows), figure, rows)


def _caption(rows: pd.DataFrame) -> str:
    return CAPTION.format(n=int(rows["seeds"].iloc[0]))
