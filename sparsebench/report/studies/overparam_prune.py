"""Risk against the number of features: the double descent of sparse models."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsebench.report.style import COLORS, Drawing, legend, log_ticks

COLOR = dict(zip(("none", "magnitude", "hessian", "oracle", "random"), ("black", *COLORS), strict=False))
DESIGNS = {
    "diag": "Diagonal covariance",
    "general": "Correlated features",
    "rf": "Random ReLU features",
}
CAPTION = (
    "Lines: the paper's prediction. Dots: means of the simulation over {n} seeds, bars one standard error."
)


def drawings(tables: Mapping[str, pd.DataFrame]) -> list[Drawing]:
    """Risk against features for each design, against the number kept, and with and without retraining."""
    rows = tables["overparam_prune"]
    found = []
    for design, title in DESIGNS.items():
        own = rows[rows["design"] == design]
        own = own[own["keep"].eq(_kept(own)) | own["method"].eq("none") | own["keep"].eq(own["p"])]
        found.append(_against_features(own, design, title))
    found.append(_against_kept(rows[rows["design"] == "diag"]))
    found.append(_retraining(rows))
    return found


def _kept(own: pd.DataFrame) -> int:
    """The number that is kept at every number of features."""
    counts = own[own["method"] != "none"].groupby("keep")["p"].nunique()
    return int(counts.sort_values().index.tolist()[-1])


def _against_features(own: pd.DataFrame, design: str, title: str) -> Drawing:
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for method, color in COLOR.items():
        _curve(
            axes,
            own[(own["method"] == method) & ~own["retrain"]],
            "p",
            _name(method, _kept(own)),
            color=color,
        )
    small = own[(own["method"] == "oracle") & own["retrain"]]
    label = f"small from the start: the {_kept(own)} best features"
    axes.plot(small["p"], small["theory_risk"], color="grey", linestyle=":", label=label)
    _scatter(axes, small, "p", "grey")
    n = int(own["n"].iloc[0])
    axes.axvline(n, color="grey", linewidth=0.6)
    axes.annotate(
        "p = n", (n, 1), xycoords=("data", "axes fraction"), fontsize=7, ha="right", va="top", rotation=90
    )
    _log(axes, "features p", "risk (y²)")
    legend(figure)
    caption = CAPTION.format(n=int(own["seeds"].iloc[0]))
    return Drawing(f"risk_{design}", f"{title}: risk against features", caption, figure, own)


def _against_kept(diag: pd.DataFrame) -> Drawing:
    own = diag[(diag["p"] == diag["p"].max()) & ~diag["retrain"]].sort_values("keep")
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for method in ("magnitude", "hessian", "oracle", "random"):
        _curve(axes, own[own["method"] == method], "keep", method, color=COLOR[method])
    unpruned = own.loc[own["method"] == "none", "theory_risk"]
    if len(unpruned):
        axes.axhline(unpruned.iloc[0], color="black", linewidth=1, label="unpruned")
    _log(axes, "features kept s", "risk (y²)")
    legend(figure)
    p, n = int(own["p"].iloc[0]), int(own["seeds"].iloc[0])
    return Drawing("risk_kept", f"Risk against the features kept of {p}", CAPTION.format(n=n), figure, own)


def _retraining(rows: pd.DataFrame) -> Drawing:
    """Pairs of bars: the most features of every design."""
    own = rows[(rows["p"] == rows.groupby("design")["p"].transform("max")) & (rows["method"] != "none")]
    own = own[
        own["keep"]
        == own["design"].map({d: _kept(rows[rows["design"] == d]) for d in own["design"].unique()})
    ]
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    panels = figure.subplots(1, own["design"].nunique(), squeeze=False)[0]
    for axes, (design, part) in zip(panels, own.groupby("design", sort=False), strict=True):
        for i, retrain in enumerate((False, True)):
            bars = part[part["retrain"] == retrain]
            places = [x + (i - 0.5) * 0.38 for x in range(len(bars))]
            axes.bar(
                places,
                bars["mc_risk"],
                0.36,
                yerr=bars["se_risk"],
                color=COLORS[i],
                label=None if axes is not panels[0] else "pruned and retrained" if retrain else "pruned",
            )
            axes.scatter(places, bars["theory_risk"], color="black", marker="_", s=60, zorder=3)
        axes.set_xticks(range(part["method"].nunique()), part["method"].unique(), rotation=30)
        axes.set_title(f"{design}, p={part['p'].iloc[0]}")
        axes.grid(axis="x", visible=False)
    panels[0].set_ylabel("risk (y²)")
    legend(figure)
    caption = "Bars: simulation with one standard error. Black strokes: the prediction, where there is one."
    return Drawing("retraining", "Does retraining help?", caption, figure, own)


def _name(method: str, keep: int) -> str:
    return "unpruned" if method == "none" else f"{method}, pruned to {keep}"


def _curve(axes: Axes, own: pd.DataFrame, x: str, label: str, color: str) -> None:
    for beyond, part in own.groupby(own["p"] > own["n"]):  # the risk is infinite between
        axes.plot(part[x], part["theory_risk"], color=color, label=None if beyond else label)
    if (own["p"] > own["n"]).all():
        axes.plot([], [], color=color, label=label)
    _scatter(axes, own, x, color)


def _scatter(axes: Axes, own: pd.DataFrame, x: str, color: str) -> None:
    axes.errorbar(
        own[x], own["mc_risk"], yerr=own["se_risk"], color=color, fmt="o", markersize=3, linewidth=0.8
    )


def _log(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, yscale="log")
    log_ticks(axes.yaxis)
