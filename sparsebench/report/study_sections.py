"""Theory studies in a report: figures drawn from their tables, and the results of their checks."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sparsebench.errors import reason
from sparsebench.files import read_text
from sparsebench.records.damage import Report, refuse
from sparsebench.records.study_folder import StudyFolder, studies
from sparsebench.report.page import Pair
from sparsebench.report.studies import drawings
from sparsebench.report.style import heading, rendered, settings


@dataclass(frozen=True)
class StudySection:
    """The section of a study.

    Args:
        pair: Figures of the study.
        facts: (name, value) pairs of provenance.
        checks: Rows of its summary.csv, those that failed first.
    """

    pair: Pair
    facts: list[tuple[str, str]]
    checks: list[dict[str, Any]]


def sections(source: Path, report: Report = refuse) -> Iterator[StudySection]:
    """One section for each finished study under ``source``.

    Args:
        source: The folder.
        report: Called with every study that cannot be read and is left out; by default it is an error.
    """
    for folder in studies(source, report):
        try:
            yield _section(folder)
        except Exception as error:  # drawn from anybody's tables
            report(
                folder.path, f"a study whose files cannot be read: {type(error).__name__}: {reason(error)}"
            )


def _section(folder: StudyFolder) -> StudySection:
    origin = folder.provenance()
    name = str(origin["study"])
    tables = {table: pd.read_csv(io.StringIO(read_text(folder.table(table)))) for table in origin["tables"]}
    anchor = re.sub(r"[^A-Za-z0-9_.]+", "-", folder.path.name)[-100:]
    files, drawn = {}, []
    with settings():
        for drawing in drawings(name, tables):
            heading(drawing.figure, f"{drawing.title}. {name}")
            drawn.append(replace(drawing, name=f"{anchor}-{drawing.name}"))
            files[drawn[-1].name] = rendered(drawing.figure)
    checks = sorted(folder.checks(), key=lambda row: row["passed"] == "True")
    passed = sum(row["passed"] == "True" for row in checks)
    facts = [
        ("checks", f"{passed} of {len(checks)} passed"),
        ("shows", str(origin.get("shows", ""))),
        ("paper", str(origin.get("paper", ""))),
        ("command", str(origin.get("command", ""))),
        (
            "created",
            f"{origin.get('started', '')}, {origin.get('seconds', '')} s on {origin.get('device', '')}",
        ),
        ("sparsebench", f"{origin.get('version', '')}, commit {(origin.get('commit') or [''])[0][:10]}"),
    ]
    return StudySection(
        Pair(anchor, f"Theory: {name}", drawn, files, []), facts, [_texts(row) for row in checks]
    )


def _texts(row: dict[str, str]) -> dict[str, Any]:
    """Round numbers for display; the CSV has all digits."""
    numbers = ("predicted", "measured", "standard_error", "deviation", "tolerance")
    return {**row, **{name: f"{float(row[name]):.5g}" for name in numbers}, "passed": row["passed"] == "True"}
