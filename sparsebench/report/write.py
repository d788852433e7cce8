"""Write a report: figures, their data, and the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sparsebench.errors import SettingError
from sparsebench.files import atomic, write_text
from sparsebench.records.run_folder import runs
from sparsebench.report import figures, run_figures
from sparsebench.report.data import PAIR, ReportData, load, points
from sparsebench.report.page import Pair, render
from sparsebench.report.study_sections import sections
from sparsebench.report.style import FORMATS, Drawing, heading, rendered, settings, styles

PAGE = "index.html"
OWN = 'content="sparsebench report"'
"""Marker that identifies a page written by this module."""

COSTS = (
    ("train_flops", "training_flops", "training FLOPs", "Accuracy against training FLOPs"),
    ("macs_sparse", "inference_macs", "inference MACs", "Accuracy against inference MACs"),
)


def write(source: Path, output: Path, command: str) -> tuple[ReportData | None, int]:
    """Write the report on ``source`` into the folder ``output``; equal results give equal bytes.

    Args:
        source: A run folder, a folder of runs or theory studies, or a CSV of summary rows.
        output: The folder; created if missing. An earlier report in it is replaced.
        command: The command that creates this report, shown on the page.

    Returns:
        The reported runs, if there are any, and the number of theory studies.

    Raises:
        SettingError: ``source`` holds no results, or ``output`` cannot be used as the folder; nothing has been written.
    """
    page = output / PAGE
    earlier = page.is_file()
    if output.exists() and not output.is_dir():
        raise SettingError("output", output, "a folder; a file with this name exists")
    if earlier and OWN not in page.read_text("utf-8", errors="replace")[:1000]:
        raise SettingError("output", output, f"a folder whose {PAGE}, if it exists, is a report")
    theory = list(sections(source)) if source.is_dir() else []
    results = None if theory and next(runs(source), None) is None else load(source)
    means = points(results.frame) if results else pd.DataFrame()
    with settings():
        pairs = list(_pairs(results, means)) if results else []
    text = render(source, results, means, pairs, theory, output, command)
    folder = output / "figures"
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
        anchor = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{dataset}-{model}").strip("-.") or "results"
        while anchor in taken:
            anchor += "-"
        taken.add(anchor)
        drawings = [*_of_means(own, anchor, methods)]
        notes: list[str] = []
        if results.folders:
            drawn, notes = _of_runs(results, own, anchor)
            drawings += drawn
        budgets = sorted(own["budget"].unique())
        several = f"{len(budgets)} budgets, each with its own lines: "
        notes.insert(0, several + "; ".join(budgets) if len(budgets) > 1 else f"Budget: {budgets[0]}.")
        context = f"{dataset}, {model}" + (f": {budgets[0]}" if len(budgets) == 1 else "")
        for drawing in drawings:
            heading(drawing.figure, f"{drawing.title}. {context}")
        files = {drawing.name: rendered(drawing.figure) for drawing in drawings}
        yield Pair(anchor, f"{dataset}, {model}", drawings, files, notes)


def _of_means(own: pd.DataFrame, anchor: str, methods: list[str]) -> Iterator[Drawing]:
    looks = styles(own, methods)
    figure, caption = figures.accuracy(own, looks)
    yield Drawing(f"{anchor}-accuracy", "Accuracy against sparsity", caption, figure, own)
    for column, name, axis, title in COSTS:
        figure, caption, data = figures.cost(own, looks, column, axis)
        yield Drawing(f"{anchor}-{name}", title, caption, figure, data)


def _of_runs(results: ReportData, own: pd.DataFrame, anchor: str) -> tuple[list[Drawing], list[str]]:
    """Layer-wise sparsities and training curves at the most common target sparsity, and notes on what is not shown."""
    sparsity = run_figures.level(own)
    chosen = run_figures.at(own, sparsity)
    drawings, notes = [], []
    heat = run_figures.layers(results, chosen[chosen["method"] != "dense"])
    if heat is not None:
        caption = (
            f"Sparsity of each layer in the runs at {sparsity:g}, means over n seeds"
            f"{_most(len(chosen), figures.MOST)}. Grey: not prunable."
        )
        drawings.append(Drawing(f"{anchor}-layers", f"Layer-wise sparsity at {sparsity:g}", caption, *heat))
    dense = own[(own["method"] == "dense") & ~own.index.isin(chosen.index)]
    shown = pd.concat([dense, chosen])
    parts = run_figures.trainings(results, shown)
    lines = sum(len(labels) for _, labels, _ in parts)
    for number, (figure, _, data) in enumerate(parts, 1):
        part = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
        caption = (
            f"Dense runs and those at {sparsity:g}: the run with the lowest seed of each configuration, {lines} of "
            f"{len(shown)} configurations, ordered by accuracy. Dotted: the scheduled sparsity. "
            "Mask flips are counted since the previous evaluation."
        )
        drawings.append(
            Drawing(f"{anchor}-training-{number}", f"Trainings at {sparsity:g}{part}", caption, figure, data)
        )
    if lines < len(shown):
        notes.append(
            f"Training curves show {lines} of {len(shown)} configurations: at most "
            f"{run_figures.TOGETHER * run_figures.FIGURES}, and only runs evaluated more than once (eval_every)."
        )
    return drawings, notes


def _most(given: int, most: int) -> str:
    return f"; the {most} of {given} configurations with the most runs" if given > most else ""
