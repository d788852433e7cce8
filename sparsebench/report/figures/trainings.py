"""Training curves: accuracy, sparsity, mask flips and pruning error over the epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sparsebench.files import open_plain
from sparsebench.records import schema
from sparsebench.records.damage import Report
from sparsebench.report.data import ReportData
from sparsebench.report.figure import Drawn, Group, ReportFigure
from sparsebench.report.selection import at, level, run_folders
from sparsebench.report.style import COLORS, MARKERS, Drawing, legend, plain

TOGETHER = 6
"""Runs per figure of training curves: one colour each."""

FIGURES = 3
"""Maximum number of figures of training curves per data set and model."""

PANELS = (
    ("val_top1", "validation top-1 accuracy (%)"),
    ("sparsity", "sparsity (fraction of zeros)"),
    ("mask_flips", "mask flips (fraction of mask bits)"),
    ("pruning_error", "pruning error ‖w − m⊙w‖² / ‖w‖²"),
)


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
        for folder in run_folders(results, row["config_hash"])[:1]:
            frame = _metrics(folder, results.report)
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


def _metrics(folder: Path, report: Report) -> pd.DataFrame | None:
    """The evaluations of a run; ``None`` if it has no file of them that can be read."""
    try:
        with open_plain(folder / schema.METRICS) as file:
            frame = pd.read_csv(file)
        return frame[list(schema.METRICS_COLUMNS)].astype(float)
    except FileNotFoundError:
        return None
    except (KeyError, ValueError, OSError):  # pandas' parsing and decoding errors are ValueErrors
        report(folder, f"{schema.METRICS} is no table of {', '.join(schema.METRICS_COLUMNS)}")
    return None


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


def draw(group: Group) -> Drawn:
    """The figures of a group, at the most common target sparsity, and a note on what is not shown."""
    if not group.results.folders:
        return Drawn()
    sparsity = level(group.points)
    chosen = at(group.points, sparsity)
    dense = group.points[(group.points["method"] == "dense") & ~group.points.index.isin(chosen.index)]
    shown = pd.concat([dense, chosen])
    parts = trainings(group.results, shown)
    lines = sum(len(labels) for _, labels, _ in parts)
    caption = (
        f"Dense runs and those at {sparsity:g}: the run with the lowest seed of each configuration, {lines} of "
        f"{len(shown)} configurations, ordered by accuracy. Dotted: the scheduled sparsity. "
        "Mask flips are counted since the previous evaluation."
    )
    drawings = []
    for number, (figure, _, data) in enumerate(parts, 1):
        part = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
        drawings.append(
            Drawing(f"training-{number}", f"Trainings at {sparsity:g}{part}", caption, figure, data)
        )
    left_out = (
        f"Training curves show {lines} of {len(shown)} configurations: at most {TOGETHER * FIGURES}, and only runs "
        "evaluated more than once (eval_every)."
    )
    return Drawn(drawings, [left_out] if lines < len(shown) else [])


FIGURE = ReportFigure(draw, order=4)
