"""Write a report: figures, their data, and the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from sparsebench.errors import SettingError
from sparsebench.files import atomic, leads_out, write_text
from sparsebench.records.damage import Report, refuse
from sparsebench.records.run_folder import runs
from sparsebench.report.data import PAIR, ReportData, load, points
from sparsebench.report.figure import Group, draw
from sparsebench.report.page import Pair, render
from sparsebench.report.study_sections import sections
from sparsebench.report.style import FORMATS, heading, rendered, settings, styles

PAGE = "index.html"

LONGEST = 100
"""Characters of a data set and a model in the names of files."""

OWN = 'content="sparsebench report"'
"""Marker that identifies a page written by this module."""


def write(
    source: Path, output: Path, command: str, report: Report = refuse, note: Callable[[str], object] = str
) -> tuple[ReportData | None, int]:
    """Write the report on ``source`` into the folder ``output``; equal results give equal bytes.

    Args:
        source: A run folder, a folder of runs or theory studies, or a CSV of summary rows.
        output: The folder; created if missing. An earlier report in it is replaced.
        command: The command that creates this report, shown on the page.
        report: Called with every run and study that is damaged and left out; by default it is an error.
        note: Called with a line about every run that is there more than once with other results.

    Returns:
        The reported runs, if there are any, and the number of theory studies.

    Raises:
        SettingError: ``source`` holds no results, or ``output`` cannot be used as the folder; nothing has been written.
    """
    page = output / PAGE
    earlier = page.is_file()
    folder = output / "figures"
    if output.exists() and not output.is_dir():
        raise SettingError("output", output, "a folder; a file with this name exists")
    for place in (output, folder):
        if place.is_symlink() and leads_out(place, place.parent):  # whoever made the results may have made it
            raise SettingError("output", place, "a folder; this is a link to another one")
    if earlier and OWN not in page.read_text("utf-8", errors="replace")[:1000]:
        raise SettingError("output", output, f"a folder whose {PAGE}, if it exists, is a report")
    theory = list(sections(source, report)) if source.is_dir() else []
    results = None if theory and next(runs(source), None) is None else load(source, report, note)
    means = points(results.frame) if results else pd.DataFrame()
    with settings():
        pairs = list(_pairs(results, means)) if results else []
    text = render(source, results, means, pairs, theory, output, command)
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for pair in [*pairs, *(section.pair for section in theory)]:
        for drawing in pair.drawings:
            for form in FORMATS:
                with atomic(folder / f"{drawing.name}.{form}") as file:
                    file.write(pair.files[drawing.name][form])
            write_text(folder / f"{drawing.name}.csv", drawing.data.to_csv(index=False, lineterminator="\n"))
            written |= {f"{drawing.name}.{form}" for form in (*FORMATS, "csv")}
    write_text(page, text)
    if earlier:  # delete figures of data sets that are no longer in the results
        for path in folder.iterdir():
            if path.name not in written and path.suffix[1:] in (*FORMATS, "csv"):
                path.unlink()
    return results, len(theory)


def _pairs(results: ReportData, means: pd.DataFrame) -> Iterator[Pair]:
    """The figures of every data set and model with valid runs."""
    methods = sorted(means["method"].astype(str).unique())
    taken: set[str] = set()
    for (dataset, model), own in means.groupby(PAIR, sort=True):
        anchor = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{dataset}-{model}").strip("-.")[:LONGEST] or "results"
        while anchor in taken:
            anchor += "-"
        taken.add(anchor)
        drawn = draw(Group(results, own, styles(own, methods)), anchor)
        drawings, notes = drawn.drawings, [*drawn.notes]
        budgets = sorted(own["budget"].unique())
        several = f"{len(budgets)} budgets, each with its own lines: "
        notes.insert(0, several + "; ".join(budgets) if len(budgets) > 1 else f"Budget: {budgets[0]}.")
        context = f"{dataset}, {model}" + (f": {budgets[0]}" if len(budgets) == 1 else "")
        rows = results.frame[(results.frame["dataset"] == dataset) & (results.frame["model"] == model)]
        notes += [note.removeprefix("note: ") for note in rows["mixed"].unique() if note]
        for drawing in drawings:
            heading(drawing.figure, f"{drawing.title}. {context}")
        files = {drawing.name: rendered(drawing.figure) for drawing in drawings}
        yield Pair(anchor, f"{dataset}, {model}", drawings, files, notes)
