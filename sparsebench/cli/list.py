"""``sparsebench list``: the available options, read from the configs and the source without importing it."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from sparsebench.errors import SettingError, one_of
from sparsebench.paths import find_source, groups, options

GROUPS = {
    "models": "model",
    "datasets": "dataset",
    "methods": "prune",
    "schedules": "schedule",
    "allocations": "allocation",
    "scores": "score",
    "optimizers": "optimizer",
    "lr_schedules": "lr_schedule",
    "recipes": "recipe",
    "evaluations": "evaluate",
    "trackers": "tracker",
    "experiments": "experiment",
    "theory": "theory",
}


@dataclass(frozen=True)
class Entry:
    """One option of a config group."""

    name: str
    description: str
    reference: str


def main(arguments: Sequence[str]) -> int:
    """Print one line per option.

    Raises:
        SettingError: There is no such group.
    """
    parser = argparse.ArgumentParser(
        prog="sparsebench list", description="Lists the available options with their papers."
    )
    parser.add_argument("group", nargs="?", help=", ".join(GROUPS))
    parser.add_argument("--format", choices=("table", "json"), default="table")
    chosen = parser.parse_args(arguments)
    if chosen.group is not None and chosen.group not in {*GROUPS, *GROUPS.values()}:
        raise SettingError("group", chosen.group, one_of(GROUPS, chosen.group))
    listed = {
        label: entries(group)
        for label, group in GROUPS.items()
        if chosen.group in (None, label, group) and group in groups()
    }
    if chosen.format == "json":
        print(json.dumps({label: [asdict(e) for e in found] for label, found in listed.items()}, indent=2))
        return 0
    for number, (label, found) in enumerate(listed.items()):
        if len(listed) > 1:
            word = "study" if label == "theory" else GROUPS[label]
            print(f"{chr(10) if number else ''}{label} ({word}=...)")
        width = max((len(entry.name) for entry in found), default=0)
        for entry in found:
            paper = f"  [{entry.reference}]" if entry.reference else ""
            print(f"  {entry.name:<{width}}  {entry.description}{paper}")
    return 0


def entries(group: str) -> list[Entry]:
    """The options of ``group``, by name."""
    return [_entry(path) for path in options(group).values()]


def _entry(path: Path) -> Entry:
    text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text) or {}  # an option that also sets other groups nests its own
        target = content.get("_target_") or (content.get(path.parent.name) or {}).get("_target_")
    except (yaml.YAMLError, AttributeError):
        return Entry(path.stem, f"cannot be read: {path} is not a mapping in YAML", "")
    documented = _docstring(target) if target else ""
    comments = " ".join(line.lstrip("# ") for line in text.splitlines() if re.match(r"# (?!@)", line))
    if target and not documented and not comments:
        documented = _imported(target)
    if not documented:
        return Entry(path.stem, comments, "")
    return Entry(path.stem, documented.splitlines()[0], _reference(documented))


def _docstring(target: str) -> str:
    """The docstring of a dotted name, read from the source file because importing it would import torch."""
    module, _, name = target.rpartition(".")
    file = find_source(module)
    if file is not None and file.is_dir():
        file /= "__init__.py"
    if file is None or file.suffix != ".py" or not file.is_file():
        return ""
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except SyntaxError:
        return ""
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return ast.get_docstring(node) or ""
    return ""


def _imported(target: str) -> str:
    """The docstring of an object that is defined elsewhere, such as a class that a package re-exports."""
    module, _, name = target.rpartition(".")
    try:
        return inspect.cleandoc(getattr(importlib.import_module(module), name).__doc__ or "")
    except Exception:  # the import of a broken package can raise anything
        return ""


def _reference(docstring: str) -> str:
    """The first reference, up to its venue and year."""
    match = re.search(r"References:\n((?:[ ]+\S.*(?:\n|$))+)", docstring)
    if match is None:
        return ""
    first = " ".join(match[1].split())
    end = re.search(r"\b(?:19|20)\d\d\b", first)
    return first[: end.end()] if end else first
