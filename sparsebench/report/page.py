"""The page: one HTML file that needs no network; all strings from results are escaped."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from sparsebench.records.validity import FINISHED
from sparsebench.report.data import ReportData, texts
from sparsebench.report.style import FORMATS, Drawing

CHOICES = ("dataset", "model", "method", "state")
"""Columns with a drop-down filter."""

COLUMNS = (
    ("run_id", "run", "text", None), ("dataset", "dataset", "text", None), ("model", "model", "text", None),
    ("method", "method", "text", None), ("variant", "method's settings", "text", None),
    ("target_sparsity", "target sparsity", "number", None), ("sparsity", "sparsity", "number", 5),
    ("seed", "seed", "number", None), ("top1", "top1 (%)", "number", 2),
    ("difference_to_dense", "to dense (points)", "difference", 2), ("state", "state", "text", None),
    ("round", "round", "text", None), ("budget", "budget", "text", None), ("val_top1", "val_top1 (%)", "number", 2),
    ("macs_sparse", "inference MACs", "number", 0), ("train_flops", "training FLOPs", "number", None),
    ("train_flops_ratio", "of dense training", "number", 3), ("seconds", "seconds", "number", 1),
    ("device", "device", "text", None), ("version", "version", "text", None), ("commit", "commit", "text", None),
    ("started", "started", "text", None), ("command", "command", "command", None),
    ("dense_command", "", "text", None), ("folder", "", "text", None),
)  # fmt: skip
"""Columns of the table of runs: (column, heading or empty if it is not shown as a column, kind, decimals)."""


@dataclass(frozen=True)
class Pair:
    """The section of a data set and model.

    Args:
        anchor: Anchor of the section, for links.
        title: Heading.
        drawings: Figures.
        files: Name of a figure -> format -> bytes.
        notes: Sentences about what is not shown.
    """

    anchor: str
    title: str
    drawings: Sequence[Drawing]
    files: Mapping[str, Mapping[str, bytes]]
    notes: Sequence[str]


def render(
    source: Path, results: ReportData | None, points: pd.DataFrame, pairs: Sequence[Pair], studies: Sequence[Any],
    output: Path, command: str,
) -> str:  # fmt: skip
    """Render the page.

    Args:
        source: The folder or CSV that is reported on.
        results: The runs, if there are any.
        points: Means over seeds.
        pairs: Sections of data sets and models.
        studies: Sections of theory studies (:class:`sparsebench.report.study_sections.StudySection`).
        output: Folder of the page; links to run folders are relative to it.
        command: The command that creates this page.
    """
    style, script = (
        files("sparsebench.report").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js")
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("sparsebench.report").joinpath("page.html").read_text("utf-8"))
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}"
    return template.render(
        title=f"{source.resolve().name}: sparse-training results",
        policy=policy, style=style, script=script, command=command, runs=results is not None,
        facts=_facts(results) if results else [], notes=_notes(results) if results else [],
        pairs=[_section(pair) for pair in pairs],
        studies=[{**_section(s.pair), "facts": s.facts, "checks": s.checks} for s in studies],
        means=_means(points) if results else None, choices=CHOICES, data=_rows(results, output) if results else {},
    )  # fmt: skip


def _digest(text: str) -> str:
    """Hash of the only script, or style, that the content security policy allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _section(pair: Pair) -> dict[str, Any]:
    figures = []
    for drawing in pair.drawings:
        own = pair.files[drawing.name]
        form = min(("svg", "png"), key=lambda form: len(own[form]))
        figures.append({
            "name": drawing.name, "title": drawing.title, "caption": drawing.caption,
            "kind": {"svg": "image/svg+xml", "png": "image/png"}[form],
            "image": base64.b64encode(own[form]).decode(), "forms": [*FORMATS, "csv"],
        })  # fmt: skip
    return {"anchor": pair.anchor, "title": pair.title, "figures": figures, "notes": pair.notes}


def _facts(results: ReportData) -> list[tuple[str, list[str]]]:
    """Provenance of the results: number of runs, code, kinds of machines."""
    frame = results.frame
    states = frame["state"].value_counts().sort_index()
    runs = [f"{int(frame['counts'].sum())} of {len(frame)} valid"]
    runs += [f"{number} {state}" for state, number in states.items() if state != FINISHED]
    if results.unfinished:
        runs.append(f"{results.unfinished} unfinished, not shown")
    facts = [("runs", runs)]
    columns = {"sparsebench": "version", "torch": "torch", "device": "device", "schema": "schema"}
    for name, column in columns.items():
        facts.append((name, _counts(frame[column])))
    facts.insert(4, ("code", _counts(_commits(frame))))
    return facts


def _counts(values: pd.Series) -> list[str]:
    counts = texts(values).replace("", "unknown").value_counts().sort_index()
    most = counts.sort_values(ascending=False, kind="stable").head(12)
    more = [f"and {len(counts) - len(most)} more"] if len(counts) > len(most) else []
    return [f"{value} ({number} run{'s' if number > 1 else ''})" for value, number in most.items()] + more


def _commits(frame: pd.DataFrame) -> pd.Series:
    """The commit, marked if tracked files differed from it."""
    dirty = frame["git_dirty"].astype(str).isin(["True", "true"]).map({True: " (dirty)", False: ""})
    return texts(frame["git_commit"]).str[:10] + dirty


def _notes(results: ReportData) -> list[str]:
    notes = []
    if not results.folders:
        notes.append(
            "Created from a CSV: without the run folders there are no layer-wise sparsities and no training curves."
        )
    left = int((results.frame["state"] != FINISHED).sum())
    if left:
        notes.append(
            f"{left} of {len(results.frame)} runs are marked in the table of runs and excluded from means and figures: "
            "they diverged, missed their target sparsity, or are an intermediate round of a multi-round method."
        )
    without = results.frame[results.frame["counts"] & results.frame["difference_to_dense"].isna()]
    if len(without):
        notes.append(
            f"{len(without)} runs have no dense run with the same data, model, budget and seed, or have several that "
            "differ; the table of runs gives the command that trains a missing one."
        )
    return notes


def _means(points: pd.DataFrame) -> dict[str, Any]:
    columns = [
        ("dataset", False), ("model", False), ("budget", False), ("method", False), ("settings", False),
        ("target sparsity", True), ("sparsity", True), ("n", True), ("top1 (%)", True), ("deviation", True),
        ("to dense (points)", True), ("inference MACs", True), ("training FLOPs", True),
    ]  # fmt: skip
    rows = [
        [p["dataset"], p["model"], p["budget"], p["method"], p["variant"], _number(p["target_sparsity"], "g"),
         f"{p['sparsity']:.5f}", str(p["n"]), _number(p["top1"], ".2f"), _number(p["top1_std"], ".2f"),
         _number(p["difference_to_dense"], "+.2f") or "no dense run", _number(p["macs_sparse"], ",.0f"),
         _number(p["train_flops"], ".3e")]
        for p in points.to_dict("records")
    ]  # fmt: skip
    return {"columns": [{"name": name, "number": number} for name, number in columns], "rows": rows}


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


def _rows(results: ReportData, output: Path) -> dict[str, Any]:
    """The table of runs; strings are stored as indices into a list, so that 5,000 rows stay small."""
    frame = results.frame.assign(commit=_commits(results.frame))
    base = os.path.realpath(output)
    links = {
        run: Path(os.path.relpath(os.path.realpath(path), base)) for run, path in results.folders.items()
    }
    rounds = zip(frame["round"], frame["rounds"], strict=True)
    frame["round"] = [f"{done:g} of {all_:g}" if done == done else None for done, all_ in rounds]
    frame["folder"] = [f"{_quoted(links[run])}/" if run in links else None for run in frame["run_id"]]
    columns, values = [], []
    for key, name, kind, digits in COLUMNS:
        column: dict[str, Any] = {"key": key, "name": name, "kind": kind}
        series = frame[key]
        if kind in ("number", "difference"):
            numbers = pd.to_numeric(series, errors="coerce")
            own: list[Any] = [None if not math.isfinite(v) else int(v) if v == int(v) else v for v in numbers]
        else:
            place = {text: i for i, text in enumerate(sorted({*texts(series)} - {""}))}
            own = [place.get(text) for text in texts(series)]
            column["texts"] = list(place)
        if digits is not None:
            column["digits"] = digits
        columns.append(column)
        values.append(own)
    return {"columns": columns, "rows": [list(row) for row in zip(*values, strict=True)]}


def _quoted(path: Path) -> str:
    """A relative path as a link: its parts are quoted, and a colon in the first part is not taken as a scheme."""
    from urllib.parse import quote

    return "./" + "/".join(quote(part) for part in path.parts)
