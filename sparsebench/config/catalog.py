"""The options of config groups with their descriptions, read from configs and source files without imports."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from sparsebench.paths import find_source, options


@dataclass(frozen=True)
class Entry:
    """One option of a config group."""

    name: str
    description: str
    reference: str


def entries(group: str) -> list[Entry]:
    """The options of ``group``, by name."""
    return [_entry(path) for path in options(group).values()]


def modules(package: str) -> list[Entry]:
    """The modules of a package with the first lines of their docstrings."""
    folder = find_source(package)
    assert folder is not None
    documented = {
        path.stem: ast.get_docstring(ast.parse(path.read_text("utf-8"))) for path in folder.glob("[!_]*.py")
    }
    return [Entry(name, (text or "").partition("\n")[0], "") for name, text in sorted(documented.items())]


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
    """The docstring of an object that is defined elsewhere, such as a class re-exported by a package."""
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
