#!/usr/bin/env python3
"""Plot test accuracy against sparsity, one line a method, or one dot a method where there is one sparsity.

    scripts/plot_accuracy.py TABLE_OR_FOLDER OUTPUT.png|svg|pdf        (needs matplotlib: pip install .[plots])

Points are means over seeds, bars the sample standard deviation; only finished runs that reached their sparsity count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from sparsebench.records.collect import read
from sparsebench.records.configurations import counted

try:
    import matplotlib
except ImportError:
    raise SystemExit("plot_accuracy.py: matplotlib is not installed; pip install '.[plots]'") from None
matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--metric", default="top1", help="a column (default: %(default)s)")
    options = parser.parse_args()
    frame = read(options.table)
    frame = frame[counted(frame)]
    if "round" in frame:  # of several trainings, the last
        frame = frame[frame["round"].isna() | (frame["round"] == frame["rounds"])]
    frame = frame.assign(at=frame["sparsity"].round(3))
    points = frame.groupby(["method", "at"])[options.metric].agg(["mean", "std", "count"]).reset_index()
    figure, axes = plt.subplots(figsize=(8, 0.28 * points["method"].nunique() + 2.5), layout="constrained")
    sparse = points[points["method"] != "dense"]
    if sparse["method"].value_counts().max() > 1:
        lines(axes, points, options.metric)
    else:
        dots(axes, points, options.metric)
    models = ", ".join(sorted(set(frame["model"])))
    budgets = ", ".join(f"{epochs} epochs" for epochs in sorted(set(frame["epochs"])))
    axes.set_title(f"{', '.join(sorted(set(frame['dataset'])))}, {models}, {budgets}", fontsize=10)
    axes.grid(alpha=0.3)
    figure.savefig(options.output, dpi=150)
    return 0


def lines(axes: plt.Axes, points: pd.DataFrame, metric: str) -> None:
    """Accuracy against sparsity; dense as a horizontal line."""
    for method, rows in points.groupby("method"):
        if method == "dense":
            axes.axhline(rows["mean"].iloc[0], color="black", linestyle="--", label="dense")
        else:
            axes.errorbar(rows["at"], rows["mean"], rows["std"], marker="o", capsize=3, label=str(method))
    axes.set_xlabel("sparsity")
    axes.set_ylabel(f"test {metric} (%)")
    axes.legend()


def dots(axes: plt.Axes, points: pd.DataFrame, metric: str) -> None:
    """One row a method, best on top, its sparsity beside it."""
    points = points.sort_values("mean")
    labels = [f"{method} ({at:g})" for method, at in zip(points["method"], points["at"], strict=True)]
    axes.errorbar(points["mean"], labels, xerr=points["std"], fmt="o", capsize=3)
    axes.set_xlabel(f"test {metric} (%)")


if __name__ == "__main__":
    raise SystemExit(main())
