"""Selection of the runs for figures of single runs: at one sparsity, with their folders."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sparsebench.report.data import ReportData

NEAR = 0.02
"""Distance from the target sparsity within which methods without a target are shown with those that have one."""


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


def run_folders(results: ReportData, config_hash: str) -> list[Path]:
    """The run folders of a configuration's valid runs, by seed."""
    frame = results.frame
    own = frame[(frame["config_hash"] == config_hash) & frame["counts"]].sort_values("seed", kind="stable")
    return [results.folders[run] for run in own["run_id"] if run in results.folders]
