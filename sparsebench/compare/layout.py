"""Layout of a comparison for display: few columns, mean and deviation in one cell."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sparsebench.compare.comparison import Comparison, configurations

LABEL = 20
"""Maximum length of a table's label in a column header."""

CONSTANT_COLUMNS = ("epochs", "batch_size", "precision")
"""Keys that are printed once instead of as a column if all rows agree."""


def number(value: object, decimals: int | None, sign: str = "") -> str:
    """Format a value with ``decimals``, or with four significant digits for ``None``; empty if it is missing."""
    if value is None or value is pd.NA or value != value:
        return ""
    number = float(value)  # type: ignore[arg-type]
    if decimals is None:
        return f"{number + 0.0:{sign}.4g}"
    return f"{round(number, decimals) + 0.0:{sign}.{decimals}f}"  # + 0.0 avoids a negative zero


def format_mean_std(mean: object, std: object, n: object, decimals: int | None) -> str:
    """Format as ``mean ± deviation (number of runs)``, leaving out missing parts.

    Example:
        >>> format_mean_std(90.88, 0.07, 3, 2), format_mean_std(90.88, None, 1, 2), format_mean_std(None, None, 0, 2)
        ('90.88 ± 0.07 (3)', '90.88 (1)', '')
    """
    middle, spread = number(mean, decimals), number(std, decimals)
    if not middle:
        return ""
    known = "" if n is None or n is pd.NA or n != n else f" ({'?' if n == 'unknown' else n})"
    return f"{middle} ± {spread}{known}" if spread else f"{middle}{known}"


def lettered(result: Comparison) -> tuple[Comparison, list[str]]:
    """Replace long labels by letters; returns the comparison, and lines that explain the letters."""
    if len(result.labels) < 2 or max(map(len, result.labels)) <= LABEL:
        return result, []
    letters = {label: chr(ord("A") + i) if i < 26 else str(i + 1) for i, label in enumerate(result.labels)}

    def shortened(text: str) -> str:
        for label, letter in sorted(letters.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(label, letter)
        return text

    frame = result.frame.assign(only_in=result.frame["only_in"].map(shortened))
    ends = {f" [{label}]": f" [{letter}]" for label, letter in letters.items()}
    renamed = {
        column: column.removesuffix(end) + ends[end]
        for column in map(str, frame)
        for end in ends
        if column.endswith(end)
    }
    short = Comparison(
        frame.rename(columns=renamed),
        result.keys,
        list(letters.values()),
        result.metric,
        [shortened(note) for note in result.notes],
    )
    return short, [f"{letter}: {label}" for label, letter in letters.items()]


def mean_std_cells(frame: pd.DataFrame, columns: Sequence[str], decimals: int | None) -> pd.Series:
    """:func:`format_mean_std` of every row, from its columns of means, deviations and numbers of runs."""
    rows = frame[list(columns)].itertuples(index=False)
    return pd.Series([format_mean_std(mean, std, n, decimals) for mean, std, n in rows], dtype=object)


def format_for_display(result: Comparison, decimals: int | None) -> tuple[pd.DataFrame, list[str]]:
    """Format the cells as strings, and the lines below the table.

    Args:
        result: Result of :func:`sparsebench.compare.comparison.compare`.
        decimals: Decimals of means, deviations and differences; ``None`` for four significant digits.
    """
    result, legend = lettered(result)
    frame, suffixes = result.frame, [f" [{label}]" for label in result.labels]
    once = constant_columns(result)
    cells = {k: frame[k].map(_plain) for k in result.keys if k not in once}
    for suffix in suffixes if len(suffixes) > 1 else [""]:
        parts = [f"{name}{suffix}" for name in ("mean", "std", "n")]
        cells[f"{result.metric} (n){suffix}"] = mean_std_cells(frame, parts, decimals)
        if frame[f"excluded{suffix}"].fillna(0).gt(0).any():
            cells[f"excluded{suffix}"] = frame[f"excluded{suffix}"].map(_plain)
        cells[f"rank{suffix}"] = _rank(frame, suffix)
        difference = "difference" + (suffix or "_to_dense")
        if difference in frame:
            cells[difference] = _difference(frame, difference, suffix, decimals)
    if "only_in" in frame and (frame["only_in"] != "").any():
        cells["only in"] = frame["only_in"]
    lines = [*_intervals(frame, suffixes), *result.notes]
    if once:
        lines.insert(0, "all: " + ", ".join(f"{k} {_plain(frame[k].iloc[0])}" for k in once))
    return pd.DataFrame(cells), [*legend, *lines]


def constant_columns(result: Comparison) -> list[str]:
    """Keys in which all rows agree."""
    return [k for k in CONSTANT_COLUMNS if k in result.keys and result.frame[k].nunique(dropna=False) == 1]


def _rank(frame: pd.DataFrame, suffix: str) -> pd.Series:
    ranks = frame[f"rank{suffix}"].map(_plain)
    if f"rank_change{suffix}" not in frame:
        return ranks
    moved = frame[f"rank_change{suffix}"]
    return ranks + moved.map(lambda by: "" if by is pd.NA or by != by else f" ({by:+d})" if by else " (=)")


def _difference(frame: pd.DataFrame, name: str, suffix: str, decimals: int | None) -> pd.Series:
    found = []
    for row in frame[[name, f"low{suffix}", f"high{suffix}"]].itertuples(index=False):
        value, low, high = (number(v, decimals, "+") for v in row)
        found.append(f"{value} [{low}, {high}]" if low else value)
    if "dense_command" in frame:
        absent = (frame["dense_command"] != "") & frame[name].isna()
        found = ["no dense run" if gone else text for text, gone in zip(found, absent, strict=True)]
    return pd.Series(found, dtype=object)


def _intervals(frame: pd.DataFrame, suffixes: list[str]) -> list[str]:
    kinds = pd.concat([frame[c] for c in frame if str(c).split(" [")[0] == "interval"]).value_counts()
    kind_names = {"paired": "by seed", "welch": "Welch's"}
    named = [f"{kind_names[kind]} in {configurations(kinds[kind])}" for kind in kind_names if kind in kinds]
    return [f"[ , ]: 95 % confidence intervals, {' and '.join(named)}"] if named else []


def _plain(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
