"""Minima of broken symmetry and their losses, and linear regions against the width."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sparsebench.report.style import COLORS, MARKERS, Drawing, legend, plain

EFFECTIVE = {"raw_regions": "all", "eff_regions_1pct": "within 1 %", "eff_regions_3pct": "within 3 %"}


def drawings(tables: Mapping[str, pd.DataFrame]) -> list[Drawing]:
    """Ends of training by symmetry, the reduced problem up to large k, and regions against width and sign changes."""
    ends, reduced, regions = (tables[name] for name in ("shallow_relu", "reduced", "regions"))
    found = []
    if len(ends):
        found.append(_ends(ends))
    if len(reduced):
        found.append(_reduced(reduced))
    if len(regions):
        found.append(_regions(regions))
    return found


def _ends(rows: pd.DataFrame) -> Drawing:
    """Losses and fractions of the spurious minima of each symmetry."""
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes, spurious = sorted(rows["k"].unique()), rows[rows["spurious"]]
    last = [int(blocks.split()[-1]) if " " in blocks else 0 for blocks in spurious["blocks"]]
    two = spurious["blocks"].str.count(" ") == 1
    kinds = spurious.assign(
        kind=[f"S(k−{m}) × S({m})" if t else "other" for m, t in zip(last, two, strict=True)]
    )
    for i, (kind, own) in enumerate(kinds.groupby("kind")):
        color = COLORS[i % 6]
        left.plot(own["k"], own["loss"], MARKERS[i % 7], color=color, fillstyle="none", label=str(kind))
        theory = own.groupby("k")["predicted_loss"].first()
        left.plot(theory.index, theory, color=color)
        count = own.groupby("k").size().reindex(sizes, fill_value=0)
        right.plot(sizes, count / rows.groupby("k").size(), MARKERS[i % 7] + "-", color=color)
    fraction = rows.groupby("k")["spurious"].mean()
    right.plot(fraction.index, fraction, color="black", marker=".", label="all spurious minima")
    left.set(xlabel="units k", ylabel="loss of a spurious minimum (y²)", xticks=sizes)
    right.set(xlabel="units k", ylabel="fraction of the random starts", xticks=sizes)
    legend(figure)
    starts = int(rows.groupby("k").size().max())
    caption = (
        f"Dots: ends of training, {starts} random starts for each k. Lines on the left: the minimum of the loss among "
        "matrices of that symmetry."
    )
    return Drawing("symmetry", "Spurious minima and their symmetry", caption, figure, rows)


def _reduced(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    texts = {
        "minimum": ("k_loss", "k × loss", "minimum of S(k−1) × S(1)", "1/2 − 2/π²"),
        "one block": ("loss", "loss (y²)", "critical point of S(k)", "1/2 − 1/π"),
    }
    for i, (axes, (point, (column, label, title, limit))) in enumerate(
        zip(panels, texts.items(), strict=True)
    ):
        own = rows[rows["point"] == point]
        axes.plot(own["k"], own[column], "o-", color=COLORS[i], markersize=3.5, fillstyle="none")
        axes.axhline(
            own["limit"].iloc[0], color="black", linestyle="--", linewidth=0.8, label=f"limit {limit}"
        )
        axes.set(xlabel="units k", ylabel=label, title=title, xscale="log")
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend(loc="lower right")
    title = "Loss among matrices of a given symmetry, up to large k"
    return Drawing("reduced", title, "Dots: the reduced problem. Dashed: its limit.", figure, rows)


def _regions(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    widths = sorted(rows["width"].unique())
    changes = sorted(rows["changes"].unique())
    for i, change in enumerate(changes):
        own = rows[rows["changes"] == change].groupby("width").mean(numeric_only=True)
        left.plot(
            own.index, own["raw_regions"], MARKERS[i % 7] + "-", color=COLORS[i % 6], label=f"r={change}"
        )
        left.plot(own.index, own["eff_regions_1pct"], MARKERS[i % 7] + "--", color=COLORS[i % 6])
    for i, width in enumerate(widths):
        own = rows[rows["width"] == width]
        for column, line in (("eff_regions_1pct", "-"), ("eff_regions_3pct", ":")):
            mean = own.groupby("changes")[column].mean()
            name = f"{EFFECTIVE[column]}, width {width}"
            color = "black" if i == 0 else "grey"
            right.plot(
                mean.index, mean, line, marker=MARKERS[i % 7], color=color, fillstyle="none", label=name
            )
    right.plot(
        changes, [2 * r + 2 for r in changes], color="black", linewidth=0.8, linestyle="-.", label="2 r + 2"
    )
    left.set(xscale="log", yscale="log", xlabel="units", ylabel="regions: all (full), within 1 % (dashed)")
    left.set_xticks(widths, [str(width) for width in widths])
    left.xaxis.set_minor_locator(NullLocator())
    left.yaxis.set_major_formatter(plain)
    right.set(xlabel="changes of the labels' sign r", ylabel="effective regions", xticks=changes)
    legend(figure)
    caption = (
        "Means over the seeds. Effective regions: the fewest affine pieces that are the network within 1 % or 3 % of "
        "its largest output on [−1, 1]."
    )
    return Drawing("regions", "Linear regions of trained univariate networks", caption, figure, rows)
