"""Style and file formats of figures: colour-blind safe colours, reproducible bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from sparsebench.errors import printable

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Palette of Okabe and Ito (Color Universal Design, 2008) without yellow (too light) and black (the dense runs')."""

MARKERS = "os^DvPX"
LINES = ("-", "--", "-.", ":")
DENSE: dict[str, Any] = {"color": "black", "linestyle": (0, (5, 2)), "linewidth": 1.0}
WIDEST = 36
"""Maximum length of legend labels that are placed next to the figure."""

FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Drawing:
    """A figure with its title and caption.

    Args:
        name: Stem of its file names.
        title: Heading on the page.
        caption: What is shown, and for which runs.
        figure: The figure.
        data: The plotted data, one row per point.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    data: pd.DataFrame


@contextmanager
def settings() -> Iterator[None]:
    """Matplotlib's settings while figures are created and saved, so that a user's own settings have no effect."""
    own: Any = {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.5,
        "axes.axisbelow": True,
        "lines.markersize": 4.5,
        "lines.linewidth": 1.2,
        "legend.frameon": False,
        "legend.fontsize": 7,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "figure.dpi": 150,
        "svg.hashsalt": "sparsebench",
        "pdf.fonttype": 42,
        "text.parse_math": False,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(own)
        yield


def styles(points: pd.DataFrame, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Label -> colour and marker of its method, dashes of its budget.

    Args:
        points: Configurations of one data set and model.
        methods: All methods of the report, so that a method has the same style in every figure. Styles repeat
            after 42.
    """
    found = {}
    budgets = list(dict.fromkeys(points["budget"]))
    lines = points[["method", "budget", "label"]].drop_duplicates()
    for (method, budget), labels in lines.groupby(["method", "budget"], sort=True)["label"]:
        i = methods.index(str(method))
        for j, label in enumerate(labels):  # the same method with different settings
            found[str(label)] = {
                "color": COLORS[i % 6],
                "marker": MARKERS[(i + j) % 7],
                "linestyle": LINES[budgets.index(budget) % 4],
            }
    return found


def rendered(figure: Figure, formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """Encode the figure in each format, without dates."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # computes the layout once for all formats
        figure.set_layout_engine("none")
    found = {}
    for form in formats:
        buffer = io.BytesIO()
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        figure.savefig(buffer, format=form, metadata=dates)
        found[form] = buffer.getvalue()
    return found


def scale(sparsity: pd.Series) -> pd.Series:
    """Positions on the axis of :func:`sparsity_axis`: log10 of the compression, or the sparsity itself below 0.9."""
    return -np.log10((1 - sparsity).clip(lower=1e-6)) if sparsity.max() >= 0.895 else sparsity


def sparsity_axis(axes: Axes, sparsity: pd.Series, most: int = 9) -> None:
    """Put ticks at the plotted sparsities, labelled as sparsities, on the axis of :func:`scale`."""
    found = sparsity.round(3).value_counts()
    values = pd.Series(sorted(found.index, key=lambda value: (-found[value], -value)))
    places = scale(values) if scale(sparsity) is not sparsity else values
    room = max((places.max() - places.min()) / most, 1e-9)
    ticks: list[int] = []
    for i in range(len(values)):  # the most common first, then the highest, which matter most
        if all(abs(places[i] - places[j]) >= room for j in ticks):
            ticks.append(i)
    axes.set_xticks([places[i] for i in ticks], [f"{values[i]:g}" for i in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.06)


def count(n: Sequence[int] | pd.Series) -> str:
    """``n=3``, or ``n=2–3`` if points differ."""
    low, high = min(n), max(n)
    return f"n={low}" if low == high else f"n={low}–{high}"


def plain(value: float, position: float = 0) -> str:
    """A tick label without exponent: ``0.001``."""
    return f"{value:g}"


def log_ticks(axis: Axis) -> None:
    """Put ticks at 1, 2 and 5 times powers of ten on a logarithmic axis, with labels without exponents."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(plain)
    axis.set_minor_locator(NullLocator())


def legend(figure: Figure, columns: int = 1) -> None:
    """Add one legend for all axes: next to them, or below (with added height) if its labels are long."""
    entries = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles, labels = zip(*entries, strict=True)
    if max(map(len, labels)) <= WIDEST:
        figure.legend(handles, labels, loc="outside right upper", ncols=columns)
        return
    columns = max(int(figure.get_figwidth() / (0.06 * max(map(len, labels)) + 0.5)), 1)  # inches
    figure.set_figheight(figure.get_figheight() + 0.16 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def heading(figure: Figure, text: str) -> None:
    """Add a small title at the top left, for files viewed without the page."""
    place = {} if figure.get_layout_engine() else {"y": 1 - 0.07 / figure.get_figheight()}
    # Characters per inch, with room for a legend.
    lines = textwrap.fill(
        printable(text), int(12 * figure.get_figwidth()), max_lines=4, break_long_words=True, placeholder=" …"
    )
    figure.suptitle(lines, x=0.01, ha="left", va="top", fontsize=7, **place)
