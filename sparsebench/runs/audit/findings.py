"""What an audit finds in one run, and what it has not checked: everything that no check has marked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sparsebench.records import schema

CLAIM, NOTE, UNCHECKED = "claim", "note", "not checked"
"""Kinds of findings: a claim that does not hold, something to know about a run, and a column that was not checked."""

A_TIME = "a time"
THE_MACHINE = "of the machine, compared with run.json only"
NOT_KEPT = "of weights that are not kept; --retrain compares it"

CANNOT_BE_CHECKED = {
    "seconds": A_TIME,
    "images_per_second": A_TIME,
    "peak_memory_mb": "of the machine",
    "started": f"{A_TIME}, compared with run.json only",
    **dict.fromkeys(("device", "version", "torch", "numerics", "numerics_changed_at"), THE_MACHINE),
    **dict.fromkeys(
        ("git_commit", "git_dirty"), "of the code, compared with run.json and this checkout only"
    ),
    "kept_zeros": "the masks of a run without a target are not kept",
    "unreadable_images": "of the training, whose images are not read again",
    "skipped_steps": "of the training",
    "replayed_steps": "of the training",
    "mask_updates": "of the training; --retrain compares it",
    "last_update_step": "of the training; --retrain compares it",
    **{
        f"{schema.METRICS} {column}": NOT_KEPT
        for column in (
            "train_loss",
            "val_loss",
            "val_top1",
            "val_top5",
            "mask_flips",
            "pruning_error",
            "explored",
        )
    },
    f"{schema.METRICS} sparsity": "the method guarantees no number; --retrain compares it",
    **{f"{schema.METRICS} {column}": A_TIME for column in ("seconds", "images_per_second")},
    **{
        f"{schema.PROVENANCE} {name}": "of the machine"
        for name in ("machine", "libraries", "resumed", "threads", "numerics", "code")
    },
}
"""Column -> why a run's folder does not tell whether it holds, though it may contradict others."""


@dataclass(frozen=True)
class Finding:
    """Something found in a run.

    Args:
        run: Name of the run folder.
        kind: :data:`CLAIM`, :data:`NOTE` or :data:`UNCHECKED`.
        column: Column of the summary, or a file and what it is in it.
        claimed: What the run says.
        found: What was found instead, or why it was not checked.
    """

    run: str
    kind: str
    column: str
    claimed: str
    found: str


class Report:
    """Collects the findings of one run.

    Args:
        run: Name of the run folder.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.row: Mapping[str, str] = {}
        self.found: list[Finding] = []
        self.checked: set[str] = set()

    def fail(self, column: str, claimed: object, found: object) -> None:
        """A claim does not hold."""
        self.checked.add(column)
        self.found.append(Finding(self.run, CLAIM, column, str(claimed), str(found)))

    def note(self, column: str, claimed: object, found: object) -> None:
        """Something to know, which makes no claim false."""
        self.found.append(Finding(self.run, NOTE, column, str(claimed), str(found)))

    def unchecked(self, columns: Iterable[str] | str, why: object) -> None:
        """Columns that were not checked; those that a check has marked already are left out."""
        for column in [columns] if isinstance(columns, str) else columns:
            if column not in self.checked:
                self.checked.add(column)
                claimed = self.row.get(column, "")
                self.found.append(Finding(self.run, UNCHECKED, column, claimed, str(why)))

    def holds(self, *columns: str) -> None:
        """Columns whose every value has been checked."""
        self.checked.update(columns)

    def compare(
        self, found: Mapping[str, Any], within: float = 0.0, why: str = "", full: bool = True
    ) -> None:
        """Compare the row's columns with what was ``found``.

        Args:
            found: Column -> value.
            within: What numbers may differ by.
            why: Added to what was found.
            full: Whether equality shows that the claim holds, and not only that it contradicts nothing.
        """
        for column, value in found.items():
            if not same(self.row.get(column), value, within):
                self.fail(column, self.row.get(column, "no such column"), f"{value}{why}")
            elif full:
                self.checked.add(column)

    @property
    def failed(self) -> bool:
        """Whether a claim does not hold."""
        return any(finding.kind == CLAIM for finding in self.found)


def same(claimed: str | None, found: object, within: float = 0.0) -> bool:
    """Whether the text of a CSV equals what was found: as text, or as a number up to ``within``."""
    if claimed is None:
        return False
    if claimed == str(found):
        return True
    a, b = number(claimed), number(str(found))
    if a is None or b is None:
        return False
    return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= within


def number(text: str | None) -> float | None:
    """A number of a CSV; ``None`` if it is none."""
    try:
        return float(text or "")
    except ValueError:
        return None
