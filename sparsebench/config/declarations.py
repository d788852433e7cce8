"""What a setting allows, as the comment beside it in its YAML file says: ``int >= 1 or null; number of rounds``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

import yaml

from sparsebench.errors import is_int

Test = Callable[[object], bool]

WORDS: dict[str, object] = {"true": True, "false": False, "null": None, "[]": [], "auto": "auto"}
"""Words that are values wherever they occur in a declaration."""

INT64, FLOAT32 = 2**63, 3.4e38
"""Limits of every ``int`` and ``number``: what PyTorch and NumPy can hold."""

LONGEST, LATEST = 10_000, 10**9
"""Limits of every list's length and of every time's number."""

_NUMBER = r"(-?\d[\d.]*(?:e[+-]?\d+)?(?:\*\*\d+)?)"
_RANGE = re.compile(rf"(>=|<=|>|<) {_NUMBER}|in ([\[(]){_NUMBER}, {_NUMBER}([\])])")
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:ep|it)?")
_LONG = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
_NOUNS = {"int": "an integer", "text": "a text", "path": "a path", "mapping": "a mapping"}


@dataclass(frozen=True)
class Declaration:
    """The values that a setting allows.

    The grammar, with ``or`` between alternatives::

        int | number | time, each optionally followed by >= 1, > 0, <= 1, < 1 or in [0, 1)
        text | path | mapping | true | false | null | auto | []
        one of WORD, WORD, ...
        list of ALTERNATIVE    pair of ALTERNATIVE    list of pairs of ALTERNATIVE

    Every number is finite, every list has elements unless ``[]`` is an alternative, a text or path is not empty.

    Args:
        text: The declaration.
        allows: Whether a value is allowed.
        note: The rest of the comment, after ``;``.

    Example:
        >>> declaration = parse("int >= 1 or null; number of rounds")
        >>> declaration.text, declaration.note, declaration.allows(None), declaration.allows(0)
        ('int >= 1 or null', 'number of rounds', True, False)
        >>> print(declaration.in_words())
        an integer, at least 1, or null
    """

    text: str
    allows: Test
    note: str = ""

    def in_words(self) -> str:
        """The declaration as the end of an error message."""
        parts = [_in_words(part) for part in self.text.split(" or ")]
        return (
            f"{parts[0]}{',' * (len(parts) > 1 and ', ' in parts[0])}{''.join(f' or {p}' for p in parts[1:])}"
        )


@cache
def parse(comment: str) -> Declaration | None:
    """The declaration at the beginning of a comment; ``None`` if the comment is only an explanation."""
    text, _, note = comment.partition(";")
    tests = [_alternative(part.strip()) for part in text.split(" or ")]
    if any(test is None for test in tests):
        return None
    found = [test for test in tests if test is not None]
    return Declaration(text.strip(), lambda value: any(test(value) for test in found), note.strip())


def _alternative(text: str) -> Test | None:
    if text in WORDS:
        return lambda value: type(value) is type(WORDS[text]) and value == WORDS[text]
    kind, _, rest = text.partition(" ")
    if text.startswith("one of "):
        words = text.removeprefix("one of ").split(", ")
        if len(words) < 2 or not all(re.fullmatch(r"[\w.:/-]+", word) for word in words):
            return None
        options = [WORDS.get(word, word) for word in words]
        return lambda value: any((type(value) is type(o) and value == o) or str(value) == o for o in options)
    if text.startswith("list of "):
        return _list(text.removeprefix("list of "))
    if text.startswith("pair of "):
        return _pair(text.removeprefix("pair of "))
    if kind in ("int", "number", "time"):
        inside = _range(rest)
        return inside and _numeric(kind, inside)
    simple: dict[str, Test] = {"text": _is_text, "path": _is_text, "mapping": lambda v: isinstance(v, dict)}
    return simple.get(text)


def _list(element: str) -> Test | None:
    """``list of pairs of int`` and the like; ``element`` is what follows the first ``of``."""
    inner = (
        _pair(element.removeprefix("pairs of ")) if element.startswith("pairs of ") else _alternative(element)
    )
    if inner is None:
        return None
    return lambda value: isinstance(value, list) and 0 < len(value) <= LONGEST and all(map(inner, value))


def _pair(element: str) -> Test | None:
    inner = _alternative(element)
    return inner and (lambda value: isinstance(value, list) and len(value) == 2 and all(map(inner, value)))


def _is_text(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip()) and "\0" not in value and not re.search("[\ud800-\udfff]", value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)  # as its digits


def _numeric(kind: str, inside: Callable[[float], bool]) -> Test:
    def number(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return -FLOAT32 <= value <= FLOAT32 and math.isfinite(value) and inside(value)

    def time(value: object) -> bool:
        match = None if isinstance(value, bool) else _TIME.fullmatch(str(value).strip())
        return match is not None and float(match[1]) <= LATEST and inside(float(match[1]))

    def integer(value: object) -> bool:
        return is_int(value) and -INT64 <= value < INT64 and inside(value)

    return {"int": integer, "number": number, "time": time}[kind]


def _range(text: str) -> Callable[[float], bool] | None:
    """Whether a number is in a range; ``None`` if ``text`` is none."""
    if not text:
        return lambda value: True
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    sign, bound, left, low, high, right = match.groups()
    if sign:
        limit = _value(bound)
        return {
            ">=": lambda value: value >= limit,
            "<=": lambda value: value <= limit,
            ">": lambda value: value > limit,
            "<": lambda value: value < limit,
        }[sign]
    least, most = _value(low), _value(high)
    return lambda value: (
        (least <= value if left == "[" else least < value)
        and (value <= most if right == "]" else value < most)
    )


def _value(text: str) -> float:
    """The value of a number in a declaration; powers are exact integers."""
    base, power, exponent = text.partition("**")
    if power:
        return int(base) ** int(exponent)
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)


def _in_words(text: str) -> str:
    kind, _, rest = text.partition(" ")
    if text.startswith(("one of ", "list of ", "pair of ")):
        return text if text.startswith("one") else f"a {text}"
    noun = _NOUNS.get(kind, f"a {kind}" if kind in ("number", "time") else kind)
    sign, _, bound = rest.partition(" ")
    return f"{noun}, {_LONG[sign]} {bound}" if sign in _LONG else f"{noun} {rest}".strip()


@dataclass(frozen=True)
class Comment:
    """The comment of a setting in a YAML file.

    Args:
        text: All of it.
        declaration: What it declares, if anything.
    """

    text: str
    declaration: Declaration | None


@dataclass(frozen=True)
class SettingsFile:
    """What a YAML file of settings says beside its values.

    Args:
        comments: Dotted setting -> its comment. Mappings have an entry if they have a comment; names that begin with
            an underscore are Hydra's, and left out.
        package: The package of its header; empty if it has none.
        includes: Options of the same group that its Defaults List includes.
    """

    comments: dict[str, Comment]
    package: str
    includes: tuple[str, ...]


def read(path: Path) -> SettingsFile:
    """Read a YAML file without importing what it names; cached until the file changes.

    Raises:
        yaml.YAMLError: It is not YAML.
    """
    info = path.stat()
    return _read(path, info.st_mtime_ns, info.st_size)


@cache
def _read(path: Path, changed: int, size: int) -> SettingsFile:
    text = path.read_text(encoding="utf-8")
    root, lines = yaml.compose(text, Loader=yaml.SafeLoader), text.splitlines()
    found: dict[str, Comment] = {}
    includes: list[str] = []

    def walk(prefix: str, mapping: yaml.MappingNode) -> None:
        for key, value in mapping.value:
            name = f"{prefix}{key.value}"
            if name == "defaults" and isinstance(value, yaml.SequenceNode):
                includes.extend(str(e.value) for e in value.value if isinstance(e, yaml.ScalarNode))
                continue
            if str(key.value).startswith("_"):
                continue
            comment = _comment(lines, key, value)
            declaration = parse(comment) or (parse("int >= 1") if name == "revision" else None)
            leaf = not isinstance(value, yaml.MappingNode) or not value.value or declaration is not None
            if leaf or comment:
                found[name] = Comment(comment, declaration)
            if isinstance(value, yaml.MappingNode) and not leaf:
                walk(f"{name}.", value)

    if isinstance(root, yaml.MappingNode):
        walk("", root)
    header = re.search(r"^# @package (\S+)", text, re.MULTILINE)
    return SettingsFile(
        found, header[1] if header else "", tuple(name for name in includes if name != "_self_")
    )


def _comment(lines: list[str], key: yaml.Node, value: yaml.Node) -> str:
    """The comment at the end of a setting's line, continued on lines of comment that begin to the right of its name."""
    block = isinstance(value, yaml.CollectionNode) and not value.flow_style
    mark = key.end_mark if block else value.end_mark
    if mark.line >= len(lines):
        return ""
    rest = lines[mark.line][mark.column :]
    match = re.fullmatch(r":?\s*#\s*(.*)" if block else r"\s*#\s*(.*)", rest)
    if match is None:
        return ""
    column = key.start_mark.column
    more = takewhile(lambda line: re.match(rf"\s{{{column + 1},}}#", line), lines[mark.line + 1 :])
    return " ".join([match[1].strip(), *(line.strip().lstrip("# ") for line in more)])
