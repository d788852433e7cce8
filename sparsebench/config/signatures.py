"""The arguments that a class or function accepts, read from its source file: importing it would import PyTorch."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hydra.utils import get_object

from sparsebench.config.options import stamp_of
from sparsebench.config.renamed import target as present_target
from sparsebench.paths import find_source

DEPTH = 20
"""Re-exports and base classes that are followed."""


class _Unknown(Exception):
    """The source does not tell."""


def accepted_arguments(target: str) -> set[str] | None:
    """Names of the arguments that a class or function accepts; ``None`` if it accepts any.

    Nothing is imported if its source file tells. It does not for what is made at run time, or compiled.

    Args:
        target: Dotted name, which may be an old one.

    Example:
        >>> sorted(accepted_arguments("sparsebench.pruning.methods.dense.Dense"))
        ['weights']
    """
    try:
        return _arguments(present_target(target), DEPTH)
    except _Unknown:
        return _imported(present_target(target))


def locate(target: str) -> tuple[str, Path, list[str]] | None:
    """(module, its file, names within it) of a dotted name; ``None`` if there is no source file."""
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        path = find_source(".".join(parts[:length]))
        if path is not None and path.is_dir():
            path = path / "__init__.py"
        if path is not None and path.suffix == ".py" and path.is_file():
            return ".".join(parts[:length]), path, parts[length:]
    return None


def imported_from(node: ast.ImportFrom, module: str, path: Path) -> str:
    """The module that an import statement in ``module`` names, absolute."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def parsed(path: Path) -> ast.Module:
    """A source file as a syntax tree; empty if it cannot be read or is no Python."""
    return _parsed(path, stamp_of(path))


@cache
def _parsed(path: Path, stamp: object) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])


def _arguments(target: str, depth: int) -> set[str] | None:
    found = locate(target) if depth else None
    if found is None or len(found[2]) != 1:
        raise _Unknown
    module, path, (name,) = found
    for node in _definitions(parsed(path).body, name):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return _parameters(node.args)
        if isinstance(node, ast.ClassDef):
            return _of_class(node, module, path, depth)
        if isinstance(node, ast.ImportFrom):
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            return _arguments(f"{imported_from(node, module, path)}.{original}", depth - 1)
    raise _Unknown


def _definitions(body: list[ast.stmt], name: str) -> Iterator[ast.stmt]:
    """What binds ``name`` in a module, the last one first."""
    for node in reversed(body):
        named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name
        brought = isinstance(node, ast.ImportFrom) and name in {a.asname or a.name for a in node.names}
        if named or brought:
            yield node


def _of_class(node: ast.ClassDef, module: str, path: Path, depth: int) -> set[str] | None:
    if node.keywords or any(not _is_dataclass(decorator) for decorator in node.decorator_list):
        raise _Unknown  # a metaclass or a decorator may replace the constructor
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    if "__init__" in methods:
        return _parameters(methods["__init__"].args, bound=True)
    if "__new__" in methods:
        raise _Unknown
    own = set()
    if node.decorator_list:
        fields = (item for item in node.body if isinstance(item, ast.AnnAssign))
        own = {f.target.id for f in fields if isinstance(f.target, ast.Name) and not _is_class_variable(f)}
    inherited: set[str] | None = set()
    for base in node.bases:
        text = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
        if text in ("object", "ABC", "abc.ABC", "Protocol", "Generic"):
            continue
        inherited = _arguments(_absolute(text, module, path), depth - 1)
        break
    return None if inherited is None else own | inherited


def _absolute(name: str, module: str, path: Path) -> str:
    """A name as it is written in ``module``, as a dotted name from the top."""
    first, _, rest = name.partition(".")
    for node in parsed(path).body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.split(".")[0]) == first:
                    return ".".join(filter(None, [alias.name if alias.asname else first, rest]))
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    return ".".join(filter(None, [imported_from(node, module, path), alias.name, rest]))
    return f"{module}.{name}"


def _parameters(arguments: ast.arguments, bound: bool = False) -> set[str] | None:
    if arguments.kwarg is not None:
        return None
    positional = [*arguments.posonlyargs, *arguments.args][int(bound) :]
    variable = [arguments.vararg] if arguments.vararg else []
    return {argument.arg for argument in [*positional, *arguments.kwonlyargs, *variable]}


def _is_dataclass(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(called).rpartition(".")[2] in ("dataclass", "final")


def _is_class_variable(field: ast.AnnAssign) -> bool:
    return ast.unparse(field.annotation).rpartition(".")[2].startswith("ClassVar")


def _imported(target: str) -> set[str] | None:
    parameters = inspect.signature(get_object(target)).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}
