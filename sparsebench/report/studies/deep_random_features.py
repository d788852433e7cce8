"""Test error against the number of samples, depth by depth; real against Gaussian features."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sparsebench.report.style import COLORS, MARKERS, Drawing, legend, log_ticks, plain

LINES = (
    "Lines: the sharp prediction. Dots: real deep random features, means over seeds, bars one standard error."
)


def drawings(tables: Mapping[str, pd.DataFrame]) -> list[Drawing]:
    """Errors of simulated depths, what depth does, traces of the resolvent, universality, linearisation."""
    rows, curves = tables["deep_random_features"], tables["curves"]
    found = []
    if len(rows):
        found += (
            [_errors(rows, curves), _teacher(rows)]
            if (rows["target"] == "teacher").any()
            else [_errors(rows, curves)]
        )
    if len(curves):
        found.append(_depths(curves))
    if len(tables["resolvent"]):
        found.append(_traces(tables["resolvent"]))
    if len(tables["universality"]):
        found.append(_universality(tables["universality"]))
    if len(tables["linearisation"]):
        found.append(_linearisation(tables["linearisation"]))
    return found


def _errors(rows: pd.DataFrame, curves: pd.DataFrame) -> Drawing:
    own = rows[rows["target"] == "shared"]
    lams = sorted(own["lam"].unique())
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    for axes, lam in zip(figure.subplots(1, len(lams), squeeze=False)[0], lams, strict=True):
        for i, (depth, part) in enumerate(own[own["lam"] == lam].groupby("L")):
            color, label = COLORS[i % 6], f"{depth} layer{'s' if depth != 1 else ''}"
            line = curves[(curves["lam"] == lam) & (curves["L"] == depth)]
            x, y = (line["alpha"], line["theory_test"]) if len(line) else (part["alpha"], part["theory_det"])
            axes.plot(x, y, color=color, label=label if lam == lams[0] else None)
            axes.errorbar(
                part["alpha"], part["mc_test"], yerr=part["se_test"], color=color, fmt="o", markersize=3
            )
        axes.set(
            title=f"ridge {lam:g}",
            xlabel="samples over features",
            ylabel="test error (y²)",
            xscale="log",
            yscale="log",
        )
        _ticks(axes)
    legend(figure)
    return Drawing("test_error", "Test error of ridge regression on deep random features", LINES, figure, own)


def _teacher(rows: pd.DataFrame) -> Drawing:
    own = rows[rows["target"] == "teacher"]
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (lam, part) in enumerate(own.groupby("lam")):
        axes.plot(part["alpha"], part["theory_cond"], color=COLORS[i % 6], label=f"prediction, ridge {lam:g}")
        axes.errorbar(
            part["alpha"],
            part["mc_test"],
            yerr=part["se_test"],
            color=COLORS[i % 6],
            fmt="o",
            label="simulation",
        )
    axes.set(xlabel="samples over features", ylabel="test error (y²)", xscale="log")
    _ticks(axes)
    legend(figure)
    return Drawing("teacher", "A target that the features do not know: sign units", LINES, figure, own)


def _depths(curves: pd.DataFrame) -> Drawing:
    lams = sorted(curves["lam"].unique())
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    depths = sorted(curves["L"].unique())
    for axes, lam in zip(figure.subplots(1, len(lams), squeeze=False)[0], lams, strict=True):
        for i, depth in enumerate(depths):
            part = curves[(curves["lam"] == lam) & (curves["L"] == depth)]
            shade = str(0.75 - 0.75 * i / max(len(depths) - 1, 1))
            axes.plot(
                part["alpha"],
                part["theory_test"],
                color=shade,
                label=f"L={depth}" if lam == lams[0] else None,
            )
        axes.set(
            title=f"ridge {lam:g}",
            xlabel="samples over features",
            ylabel="test error (y²)",
            xscale="log",
            yscale="log",
        )
        _ticks(axes)
    legend(figure)
    caption = "The prediction alone. With a small ridge the peak at as many samples as features is lower the deeper."
    return Drawing("depths", "Depth regularises", caption, figure, curves)


def _traces(rows: pd.DataFrame) -> Drawing:
    rows = rows[rows["d"] == rows["d"].mode().iloc[0]]
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, ((lam, depth), part) in enumerate(rows.groupby(["lam", "L"])):
        error = 100 * part["se_trace"] / part["theory_trace"]
        axes.errorbar(
            part["alpha"], 100 * part["rel_dev"], yerr=error, color=COLORS[i % 6], marker=MARKERS[i % 7],
            label=f"ridge {lam:g}, L={depth}",
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="samples over features", ylabel="deviation from the prediction (%)", xscale="log")
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_locator(NullLocator())
    legend(figure)
    caption = "Deviation of the measured trace from its deterministic equivalent, with one standard error."
    return Drawing("resolvent", "Trace of the resolvent", caption, figure, rows)


def _universality(rows: pd.DataFrame) -> Drawing:
    losses = list(dict.fromkeys(rows["loss"]))
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    grid = figure.subplots(2, len(losses), squeeze=False, sharex=True)
    for column, loss in enumerate(losses):
        part = rows[rows["loss"] == loss]
        for axes, what in zip(grid[:, column], ("error", "loss"), strict=True):
            first = column == 0 and what == "loss"
            for name, color, marker, size in (("gaussian", COLORS[1], "s", 7), ("real", COLORS[0], "o", 3.5)):
                axes.errorbar(
                    part["alpha"], part[f"{name}_{what}"], yerr=part[f"se_{name}_{what}"], color=color, marker=marker,
                    markersize=size, linestyle="none", fillstyle="none" if name == "gaussian" else "full",
                    label=f"{name} features" if first else None,
                )  # fmt: skip
            if what == "loss" and part["theory_loss"].notna().any():
                axes.plot(
                    part["alpha"], part["theory_loss"], color="black", label="prediction" if first else None
                )
            axes.set_xscale("log")
            axes.set_xticks(
                sorted(part["alpha"].unique()), [plain(a) for a in sorted(part["alpha"].unique())]
            )
            axes.xaxis.set_minor_locator(NullLocator())
        grid[0][column].set_title(f"{loss} loss")
        grid[1][column].set_xlabel("samples over features")
    grid[0][0].set_ylabel("test error of labels")
    grid[1][0].set_ylabel("test loss")
    legend(figure)
    caption = "Real deep random features and Gaussian ones with the predicted covariance; bars are one standard error."
    return Drawing(
        "universality", "Universality: only the covariance of the features matters", caption, figure, rows
    )


def _linearisation(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (depth, part) in enumerate(rows.groupby("L")):
        axes.plot(part["d"], part["rel_frob_error"], "o-", color=COLORS[i % 6], label=f"L={depth}")
        start = part.iloc[0]
        axes.plot(
            part["d"], start["rel_frob_error"] * (start["d"] / part["d"]) ** 0.5, ":", color="grey",
            label="d to the power -1/2" if not i else None,
        )  # fmt: skip
    axes.set(xlabel="inputs d", ylabel="relative error (Frobenius)", xscale="log", yscale="log")
    _ticks(axes)
    legend(figure)
    caption = "Distance of the features' covariance from its linearisation, estimated without bias from two samples."
    return Drawing("linearisation", "Error of the linearised covariance", caption, figure, rows)


def _ticks(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            log_ticks(axis)
