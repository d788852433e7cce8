"""Sparsity of every layer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sparsebench.records import schema
from sparsebench.records.damage import DamagedRunError, Report, read_rows
from sparsebench.report.data import ReportData
from sparsebench.report.figure import Drawn, Group, ReportFigure
from sparsebench.report.lines import MOST
from sparsebench.report.selection import at, level, run_folders
from sparsebench.report.style import Drawing, count


def layers(results: ReportData, points: pd.DataFrame) -> tuple[Figure, pd.DataFrame] | None:
    """Heat map of the sparsity of every layer, means over seeds: one row per configuration.

    Args:
        results: The runs, with their folders.
        points: Configurations of one model; the :data:`MOST` with the most runs are shown.

    Returns:
        The figure and its data, or ``None`` if no run has layers.
    """
    shown = (
        points.sort_values("n", ascending=False, kind="stable").head(MOST).sort_values("label", kind="stable")
    )
    table: dict[str, pd.Series] = {}
    for row in shown.to_dict("records"):
        tables = [
            series
            for folder in run_folders(results, row["config_hash"])
            if (series := _layers(folder, results.report)) is not None
        ]
        if tables:
            name = f"{row['label']} ({count([len(tables)])})"
            name += f" at {row['sparsity']:.3f}" if math.isnan(row["target_sparsity"]) else ""
            together = pd.concat(tables, axis=1, sort=False)
            table[name if name not in table else f"{name} {row['config_hash']}"] = together.mean(axis=1)
    if not table:
        return None
    matrix = pd.DataFrame(table).T  # the columns in the order of the layers
    order = list(dict.fromkeys(layer for series in table.values() for layer in series.index))
    matrix = matrix[order]
    return _heat_map(matrix), matrix.rename_axis("configuration").reset_index()


def _layers(folder: Path, report: Report) -> pd.Series | None:
    """Layer -> sparsity, NaN if it is not prunable; ``None`` if a run has no file of them that can be read."""
    try:
        rows = read_rows(
            folder / schema.LAYERS
        )  # not pandas, which takes ten times as long for many small files
        return pd.Series(
            {r["layer"]: float(r["sparsity"]) if r["prunable"] == "True" else math.nan for r in rows},
            dtype=float,
        )
    except FileNotFoundError:
        return None
    except DamagedRunError as error:
        report(folder, error.why)
    except (KeyError, ValueError):
        report(folder, f"{schema.LAYERS} is no table of {', '.join(schema.LAYERS_COLUMNS)}")
    return None


def _heat_map(matrix: pd.DataFrame) -> Figure:
    rows, columns = matrix.shape
    longest = max(len(name) for name in matrix.index) * 0.055
    names = [name.removesuffix(".weight") for name in matrix.columns]
    step = -(-columns // 70)
    height = 0.2 * rows + 0.06 * max(map(len, names)) + 1.0
    width = min(max(0.27 * columns, 4.0), 13) + longest + 1
    figure = Figure(figsize=(width, max(height, 2.6)), layout="constrained")
    axes = figure.add_subplot()
    values = matrix.to_numpy(dtype=float)
    low = np.floor(np.nanmin(values) * 10) / 10 if np.isfinite(values).any() else 0.0
    axes.set_facecolor("#bbbbbb")
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values),
        cmap="cividis",
        vmin=min(low, 0.9),
        vmax=1,
        edgecolors="white",
        linewidth=0.3,
    )
    if rows * columns <= 900 and columns <= 40:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                bright = (value - min(low, 0.9)) / (1 - min(low, 0.9)) > 0.55
                axes.text(
                    j + 0.5,
                    i + 0.5,
                    _short(value),
                    ha="center",
                    va="center",
                    fontsize=4.5,
                    color="black" if bright else "white",
                    in_layout=False,
                )
    axes.set_xticks(np.arange(0, columns, step) + 0.5, names[::step], rotation=90, fontsize=6)
    axes.set_yticks(np.arange(rows) + 0.5, list(matrix.index), fontsize=7)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlabel("layer, from the input to the output")
    figure.colorbar(mesh, ax=axes, label="sparsity (fraction of zeros)", fraction=0.05, pad=0.01, aspect=25)
    return figure


def _short(value: float) -> str:
    """Format as ``.93``; ``1`` only if all are zero, ``0`` only if none is."""
    if value in (0, 1):
        return f"{value:.0f}"
    return (
        f"{min(max(value, 0.01), 0.99):.2f}".removeprefix("0")
        if value < 0.99
        else f"{value:.3f}".removeprefix("0")
    )


def draw(group: Group) -> Drawn:
    """The figure of a group, at the most common target sparsity."""
    sparsity = level(group.points)
    chosen = at(group.points, sparsity)
    heat = layers(group.results, chosen[chosen["method"] != "dense"])
    if heat is None:
        return Drawn()
    most = f"; the {MOST} of {len(chosen)} configurations with the most runs" if len(chosen) > MOST else ""
    caption = (
        f"Sparsity of each layer in the runs at {sparsity:g}, means over n seeds{most}. Grey: not prunable."
    )
    return Drawn([Drawing("layers", f"Layer-wise sparsity at {sparsity:g}", caption, *heat)])


FIGURE = ReportFigure(draw, order=3)
