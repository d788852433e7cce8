"""Means over runs that were not computed alike: other versions of the code or of PyTorch, devices, or numerics."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sparsebench.compare.configurations import DESCRIBING, Joined, as_text

COLUMNS = {"version": "sparsebench", "torch": "torch", "device": "device"}
"""Column of a summary -> how a note calls it."""

NUMERICS, CHANGED = "numerics", "numerics_changed_at"


def mixed(joined: Joined, frame: pd.DataFrame, table: int = 0) -> pd.Series:
    """What the valid runs of each configuration were computed with, where that is not one thing.

    Args:
        joined: From :func:`sparsebench.compare.configurations.join`.
        frame: The summary rows of one of its tables; runs that do not say what they were computed with are skipped.
        table: Number of that table.

    Returns:
        By number of the configuration: a text such as ``torch 2.9.0 (1 run) and 2.10.0 (2 runs)``; empty if all of its
        runs agree, or there are none.
    """
    texts = pd.Series("", index=joined.table.index, dtype=object)
    here = [column for column in (*COLUMNS, NUMERICS, CHANGED) if column in frame]
    if not here:
        return texts
    runs = joined.runs[table]
    good = runs["good"].to_numpy()
    known = frame[here].reset_index(drop=True)[good].assign(key=runs["key"].to_numpy()[good])
    groups = known.groupby("key", observed=True)
    several = groups.size() > 1
    differing = (groups[[c for c in here if c != CHANGED]].nunique() > 1).any(axis=1)
    if CHANGED in here:
        differing |= groups[CHANGED].count() > 0
    for key in several.index[several & differing]:
        texts[key] = _description(groups.get_group(key))
    return texts


def mixed_notes(joined: Joined, texts: pd.Series, label: str = "") -> list[str]:
    """One line for every configuration of :func:`mixed` that is."""
    where = f" of {label}" if label else ""
    return [
        f"note: the mean{where} for {configuration_name(joined, int(str(key)))} is over mixed runs: {text}"
        for key, text in texts.items()
        if text
    ]


def configuration_name(joined: Joined, key: int) -> str:
    """The values that tell a configuration from the others; all that describe it if it is the only one."""
    row = joined.table.loc[key]
    varying = [name for name in joined.keys if joined.table[name].nunique(dropna=False) > 1]
    names = varying or [name for name in joined.keys if name in DESCRIBING]
    values = [(name, as_text(row[name])) for name in names]
    return " ".join(value if name in DESCRIBING else f"{name}={value}" for name, value in values if value)


def _description(part: pd.DataFrame) -> str:
    told = [
        _counted(name, part[column].dropna().astype(str).tolist())
        for column, name in COLUMNS.items()
        if column in part
    ]
    if NUMERICS in part:
        skipped = [column for column in COLUMNS if column in part and part[column].nunique() > 1]
        told.append(_counted("", _shortened(part[NUMERICS].dropna().astype(str).tolist(), skipped)))
    if CHANGED in part and (changed := int(part[CHANGED].notna().sum())):
        told.append(f"numerics that changed in a resumed run ({changed} of {len(part)} runs)")
    return "; ".join(text for text in told if text)


def _shortened(texts: Sequence[str], skipped: Sequence[str]) -> list[str]:
    """Texts of numerics without the words that all have, and without what other columns say."""
    words = [text.split() for text in texts]
    common = set.intersection(*map(set, words)) if words else set()
    left = [[word for word in own if word not in common] for own in words]
    if "torch" in skipped:
        left = [[word for word in own if not word.startswith("torch=")] for own in left]
    if "device" in skipped:  # the first words are its type and its name
        left = [[word for word in own if "=" in word] for own in left]
    return [" ".join(own) or "without" for own in left] if any(left) else []


def _counted(name: str, values: Sequence[str]) -> str:
    """``name value (runs) and value (runs)``; empty if there is one value only."""
    counts = {value: values.count(value) for value in dict.fromkeys(values)}
    if len(counts) < 2:
        return ""
    each = " and ".join(f"{value} ({n} run{'s' if n > 1 else ''})" for value, n in counts.items())
    return f"{name} {each}".strip()
