"""Code that does not come with this package: whose it is, and a hash of all of it that a class is made of."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import site
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from sparsebench.config.signatures import imported_from, locate
from sparsebench.paths import find_source

DIGITS = 16

RECORDED = ("sparsebench", "torch", "torchvision")
"""Packages whose versions every run records, as what it was made with, and not as what it is."""


def code_of(target: str) -> dict[str, str]:
    """What a class or function consists of, besides this package, PyTorch and Python itself.

    Modules of a folder (of ``PYTHONPATH``, of an editable installation, of a config dir) count by the content of all
    their files that the class's own file imports, and those import in turn: found in the sources, so that nothing is
    imported. Released distributions count by version.

    Args:
        target: Dotted name of the class or function.

    Returns:
        Top-level name of the package or module -> hash of its sources, or the version of its distribution. Empty for
        this package's own; the name with an empty value if there is no source for it.
    """
    top = target.partition(".")[0]
    if top in RECORDED or top in sys.stdlib_module_names:
        return {}
    found = locate(target)
    if found is None:
        return {top: _version(top) or ""}
    module, path, _ = found
    if (version := _released(top, path)) is not None:
        return {top: version}
    listing = "".join(f"{name} {digest}\n" for name, digest in sorted(_sources(module, path).items()))
    return {top: hashlib.sha256(listing.encode()).hexdigest()[:DIGITS]}


def source_files(target: str) -> dict[str, str]:
    """Module -> hash of its file, for all modules that :func:`code_of` counts by their content."""
    found, top = locate(target), target.partition(".")[0]
    if found is None or top in RECORDED or top in sys.stdlib_module_names or _released(top, found[1]):
        return {}
    return _sources(found[0], found[1])


def _sources(module: str, path: Path) -> dict[str, str]:
    """Module -> hash of its file: of a module, the packages that it is in, and all that they import from folders."""
    sources: dict[str, str] = {}
    stack = [(module, path)]
    while stack:
        name, file = stack.pop()
        if name in sources:
            continue
        content = file.read_bytes()
        sources[name] = hashlib.sha256(content).hexdigest()[:DIGITS]
        parents = [name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)]
        for other in (*parents, *_imports(content, name, file.name == "__init__.py")):
            top = other.partition(".")[0]
            if top in RECORDED or top in sys.stdlib_module_names or other in sources:
                continue
            if (found := _module(other)) is not None and _released(top, found) is None:
                stack.append((other, found))
    return sources


def _module(name: str) -> Path | None:
    """The file of exactly this module or package."""
    path = find_source(name)
    if path is not None and path.is_dir():
        path = path / "__init__.py"
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


@cache
def _imports(content: bytes, module: str, package: bool) -> tuple[str, ...]:
    """Names that a source may import: each module that it names, and what it takes from one, which may be a module."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # importing it says what is wrong
        return ()
    path = Path("__init__.py" if package else "module.py")
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        for name in _named(node, module, path):
            found |= dict.fromkeys(name.rsplit(".", n)[0] for n in range(name.count("."), 0, -1))
            found[name] = None
    return tuple(found)


def _named(node: ast.AST, module: str, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and (base := imported_from(node, module, path)):
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _released(top: str, path: Path) -> str | None:
    """The version of the released distribution that a file is of; ``None`` for files of a folder, and of Python."""
    if not any(path.is_relative_to(folder) for folder in _site_packages()):
        return None
    return _version(top)


@cache
def _site_packages() -> tuple[Path, ...]:
    named = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return tuple({Path(folder) for folder in (*named, site.getusersitepackages()) if folder})


def _version(top: str) -> str | None:
    """The version of the distribution that provides a top-level name, if any does."""
    names = _distributions().get(top)
    return importlib.metadata.version(names[0]) if names else None


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
