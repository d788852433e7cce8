"""Figures of single runs: sparsity of every layer, and training curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sparsebench.errors import SettingError
from sparsebench.files import read_csv
from sparsebench.records import schema
from sparsebench.report.data import ReportData
from sparsebench.report.figures import MOST
from sparsebench.report.style import COLORS, MARKERS, count, legend, plain

TOGETHER = 6
"""Runs per figure of training curves: one colour each."""

FIGURES = 3
"""Maximum number of figures of training curves per data set and model."""

NEAR = 0.02
"""Distance from the target sparsity within which methods without a target are shown with those that have one."""

PANELS = (
    ("val_top1", "validation top-1 accuracy (%)"),
    ("sparsity", "sparsity (fraction of zeros)"),
    ("mask_flips", "mask flips (fraction of mask bits)"),
    ("pruning_error", "pruning error ‖w − m⊙w‖² / ‖w‖²"),
)


def level(points: pd.DataFrame) -> float:
    """The most common target sparsity, in case of ties the highest; 0 if nothing is pruned."""
    counts = points.loc[points["target_sparsity"] > 0, "target_sparsity"].value_counts()
    if counts.empty:
        found = points.loc[points["method"] != "dense", "sparsity"]
        return float(found.round(2).mode().max()) if len(found) else 0.0
    return float(counts[counts == counts.max()].index.max())


def at(points: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    """The configurations with the target ``sparsity``, and those without a target that came near it."""
    requested = (points["target_sparsity"] - sparsity).abs() < 1e-9
    near = points["target_sparsity"].isna() & ((points["sparsity"] - sparsity).abs() <= NEAR)
    return points[requested | near]


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
            for folder in _folders(results, row["config_hash"])
            if (series := _layers(folder / schema.LAYERS)) is not None
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


def trainings(results: ReportData, points: pd.DataFrame) -> list[tuple[Figure, list[str], pd.DataFrame]]:
    """Training curves: accuracy, sparsity with its schedule, mask flips and pruning error over the epochs.

    Args:
        results: The runs, with their folders.
        points: Configurations; of each, the run with the lowest seed is shown.

    Returns:
        Figure, labels of its lines, and their data, for groups of :data:`TOGETHER` configurations ordered by
        accuracy; at most :data:`FIGURES`. A run that was evaluated only once has no curve.
    """
    histories: list[tuple[str, pd.DataFrame]] = []
    for row in points.sort_values("top1", ascending=False, kind="stable").to_dict("records"):
        for folder in _folders(results, row["config_hash"])[:1]:
            frame = _metrics(folder / schema.METRICS)
            if frame is not None and len(frame) > 1:
                histories.append((row["label"], frame))
        if len(histories) == TOGETHER * FIGURES:
            break
    found = []
    for start in range(0, len(histories), TOGETHER):
        group = histories[start : start + TOGETHER]
        columns = ["label", "step", "epoch", "scheduled_sparsity", *(column for column, _ in PANELS)]
        data = pd.concat([frame.assign(label=label) for label, frame in group])[columns]
        found.append((_curves(group), [label for label, _ in group], data))
    return found


def _folders(results: ReportData, config_hash: str) -> list[Path]:
    """The run folders of a configuration's valid runs, by seed."""
    frame = results.frame
    own = frame[(frame["config_hash"] == config_hash) & frame["counts"]].sort_values("seed", kind="stable")
    return [results.folders[run] for run in own["run_id"] if run in results.folders]


def _layers(path: Path) -> pd.Series | None:
    """Layer -> sparsity, NaN if it is not prunable; ``None`` if the file does not exist."""
    try:
        rows = read_csv(path)  # not pandas, which takes ten times as long for hundreds of small files
        return pd.Series(
            {r["layer"]: float(r["sparsity"]) if r["prunable"] == "True" else math.nan for r in rows},
            dtype=float,
        )
    except FileNotFoundError:
        return None
    except (KeyError, ValueError, TypeError) as error:
        allowed = f"a CSV of layers: {', '.join(schema.LAYERS_COLUMNS)}"
        raise SettingError("path", path, allowed) from error


def _metrics(path: Path) -> pd.DataFrame | None:
    """The evaluations of a run; ``None`` if the file does not exist."""
    try:
        frame = pd.read_csv(path)
        return frame[list(schema.METRICS_COLUMNS)].astype(float)
    except FileNotFoundError:
        return None
    except (KeyError, ValueError) as error:  # pandas' parsing and decoding errors are ValueErrors
        allowed = f"a CSV of evaluations: {', '.join(schema.METRICS_COLUMNS)}"
        raise SettingError("path", path, allowed) from error


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


def _curves(group: list[tuple[str, pd.DataFrame]]) -> Figure:
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True).ravel()
    for i, (label, frame) in enumerate(group):
        style: dict[str, Any] = {"color": COLORS[i % len(COLORS)], "markersize": 3, "linewidth": 1.1}
        style["marker"] = MARKERS[i % len(MARKERS)]
        style["markevery"] = max(len(frame) // 12, 1)
        for axes, (column, _) in zip(grid, PANELS, strict=True):
            axes.plot(frame["epoch"], frame[column], label=label if column == "val_top1" else None, **style)
        grid[1].plot(
            frame["epoch"], frame["scheduled_sparsity"], color=style["color"], linewidth=0.8, linestyle=":"
        )
    for axes, (_, name) in zip(grid, PANELS, strict=True):
        axes.set_ylabel(name)
    for axes in grid[2:]:
        axes.set_xlabel("epoch")
    grid[1].set_ylim(-0.02, 1.02)
    grid[2].set_yscale("symlog", linthresh=1e-4)  # shows whole masks, single weights, and zero
    grid[2].yaxis.set_major_formatter(plain)
    grid[2].yaxis.set_minor_locator(NullLocator())
    grid[2].set_ylim(bottom=0)
    grid[3].set_ylim(bottom=0)
    legend(figure)
    return figure
