"""Networks of growing width and the linear theory: error against size, with equally many non-zero weights."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsebench.report.style import COLORS, MARKERS, Drawing, legend, log_ticks

LINEAR = (
    ("none", False, "unpruned", "black", "o"),
    ("magnitude", False, "magnitude", COLORS[0], "o"),
    ("magnitude", True, "magnitude, retrained", COLORS[0], "s"),
    ("oracle", True, "oracle, retrained", COLORS[2], "s"),
    ("random", True, "random, retrained", COLORS[3], "s"),
)


def drawings(tables: Mapping[str, pd.DataFrame]) -> list[Drawing]:
    """Networks on the left, if there are any, least squares on the right."""
    linear, networks = tables["overparam_prune_network"], tables["networks"]
    figure = Figure(figsize=(7.5 if len(networks) else 5.5, 4.0), layout="constrained")
    panels = figure.subplots(1, 2 if len(networks) else 1, squeeze=False)[0]
    if len(networks):
        _networks(panels[0], networks)
    _linear(panels[-1], linear)
    legend(figure)
    caption = (
        "Right: least squares on random ReLU features of the same images; lines are the prediction for Gaussian "
        f"features of their covariance, dots the simulation over {int(linear['seeds'].iloc[0])} seeds. "
    )
    if len(networks):
        caption += f"Left: trained networks, means over {int(networks['seeds'].max())} seeds. "
    caption += "Grey: small from the start. Bars are one standard error."
    title = f"Small from the start, or large and then pruned? {linear['dataset'].iloc[0]}"
    data = pd.concat([linear.assign(part="features"), networks.assign(part="networks")])
    return [Drawing("networks", title, caption, figure, data)]


def _networks(axes: Axes, rows: pd.DataFrame) -> None:
    dense = rows[rows["method"] == "dense"].sort_values("prunable")
    sparse = rows[rows["method"] != "dense"]
    axes.errorbar(
        dense["prunable"],
        dense["error"],
        yerr=dense["se_error"],
        color="black",
        marker="o",
        label="dense network",
    )
    kept = int(sparse["nonzero"].mode().iloc[0]) if len(sparse) else 0
    for i, (method, own) in enumerate(sparse[sparse["nonzero"] == kept].groupby("method")):
        own = own.sort_values("prunable")
        axes.errorbar(
            own["prunable"], own["error"], yerr=own["se_error"], color=COLORS[i % 6], marker=MARKERS[i % 7],
            label=f"{method} network",
        )  # fmt: skip
    small = dense[dense["nonzero"] == kept]
    if len(small):
        axes.axhline(small["error"].iloc[0], color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="prunable weights", ylabel="test error (%)", xscale="log")
    axes.set_title(f"Networks with {kept:,} non-zero weights" if kept else "Networks")
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _linear(axes: Axes, rows: pd.DataFrame) -> None:
    n, keep = int(rows["n"].iloc[0]), int(rows["keep"].min())
    for method, retrain, label, color, marker in LINEAR:
        own = rows[(rows["method"] == method) & (rows["retrain"] == retrain)].sort_values("p")
        for _, part in own.groupby(own["p"] > n):  # the risk is infinite between
            axes.plot(part["p"], part["theory_risk"], color=color, linestyle="--" if retrain else "-")
        axes.errorbar(
            own["p"], own["mc_risk"], yerr=own["se_risk"], color=color, fmt=marker, markersize=3.5,
            fillstyle="none" if retrain else "full", label=f"{label} features",
        )  # fmt: skip
    small = rows[(rows["p"] == keep) & (rows["method"] == "none")]
    if len(small):
        axes.axhline(small["mc_risk"].iloc[0], color="grey", linestyle=":", linewidth=1)
    axes.axvline(n, color="grey", linewidth=0.6)
    axes.set(
        xlabel="features p",
        ylabel="risk (y²)",
        xscale="log",
        yscale="log",
        title=f"Least squares, {keep} of p features",
    )
    for axis in (axes.xaxis, axes.yaxis):
        log_ticks(axis)
