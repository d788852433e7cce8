"""Paths: of the config files, of this package and of others; as users write them; and file names made of any text."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

from sparsebench.errors import SettingError, printable

ENTRY_POINTS = "sparsebench.conf"
"""Entry-point group; each value names a package whose folder holds config groups such as ``prune/``."""


LONGEST = 255
"""Bytes that file systems allow in a file name."""


def expanded(path: object, setting: str = "path") -> Path:
    """``path`` as it was written, with ``~`` as the user's home folder.

    Call it where the path is opened: in a container there may be no home folder, and most runs need none.

    Args:
        path: As written.
        setting: Its name, for the error.

    Raises:
        SettingError: There is no such home folder.
    """
    try:
        return Path(str(path)).expanduser()
    except RuntimeError as error:  # no HOME, and no entry in passwd
        raise SettingError(setting, path, "a path without ~: this user has no home folder") from error


def file_name(text: object) -> str:
    """A file name that says ``text``: ``text`` itself if it is one that can be listed and printed.

    Otherwise the characters that make it a path, a hidden file or more than one line are written as in URLs, and the
    middle of one that is too long is replaced by a hash.

    Example:
        >>> [file_name(text) for text in ("resnet20-s0.9", "org/name", "../../out", ".hidden")]
        ['resnet20-s0.9', 'org%2Fname', '%2E.%2F..%2Fout', '%2Ehidden']
    """
    given = str(text)
    name = "".join(c if c.isprintable() and c != "/" else _in_percent(c) for c in given) or "%"
    if name.startswith("."):
        name = f"{_in_percent('.')}{name[1:]}"
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST:
        return name
    digest = hashlib.sha256(given.encode(errors="surrogatepass")).hexdigest()[:10]
    half = (LONGEST - len(digest) - 2) // 2
    first, last = (part.decode(errors="ignore") for part in (encoded[:half], encoded[-half:]))
    return f"{first}~{digest}~{last}"


def _in_percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))


def config_dir() -> Path:
    """The folder of train.yaml and the config groups: in the package if installed, else in the checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def config_dirs() -> list[Path]:
    """:func:`config_dir` and the folders of other packages; the first option of a name wins."""
    return [config_dir(), *(folder for _, folder in installed_configs())]


def reference_dir() -> Path:
    """The folder of the reference tables: in the package if installed, else in the checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "reference"
    return packaged if packaged.is_dir() else package.parent / "results" / "reference"


def references() -> dict[str, Path]:
    """The tables behind ``reference:NAME``, by name: measurements of this code and numbers from papers."""
    folder = reference_dir()
    found = [path for location in (".", "gpu", "papers") for path in (folder / location).glob("*.csv")]
    return {path.stem: path for path in sorted(found)}


def groups() -> list[str]:
    """The config groups that have options."""
    return sorted({path.parent.name for folder in config_dirs() for path in folder.glob("*/*.yaml")})


def options(group: str) -> dict[str, Path]:
    """The options of ``group`` and their files, by name."""
    found = {
        path.stem: path for folder in reversed(config_dirs()) for path in (folder / group).glob("*.yaml")
    }
    return dict(sorted(found.items()))


@cache
def installed_configs() -> tuple[tuple[str, Path], ...]:
    """(distribution, folder) of every package that provides configs; no package is imported.

    A broken one is skipped with a one-line warning.
    """
    from importlib.metadata import entry_points  # importing it takes as long as the rest of a completion

    try:
        offered = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value))
    except Exception as error:  # another package's metadata can raise anything
        _warn(f"entry points cannot be read, packages with configs are skipped: {error}")
        return ()
    found: dict[Path, str] = {}
    for point in offered:
        package = point.dist.name if point.dist else point.name
        named = f"{package}: entry point {point.name} = {point.value} of {ENTRY_POINTS}"
        folder = find_source(point.value.strip())
        if folder is None or not folder.is_dir():
            _warn(f"{named} names no folder; skipped")
        elif not any(folder.glob("*/*.yaml")):
            _warn(f"{named} has no options: there is no prune/NAME.yaml or the like in {folder}; skipped")
        elif folder not in found:
            for path in sorted(folder.glob("*/*.yaml")):
                option = path.relative_to(folder)
                if any((other / option).exists() for other in (config_dir(), *found)):
                    _warn(f"{named}: another {option.parent}={path.stem} takes precedence")
            found[folder] = package
    return tuple((package, folder) for folder, package in found.items())


def find_source(name: str) -> Path | None:
    """The folder of a package or the file of a module, found without importing it."""
    top, *parts = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    for location in spec.submodule_search_locations or ():
        path = Path(location, *parts)
        if path.is_dir():
            return path
        if parts and path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
    return Path(spec.origin) if spec.origin and not parts and not spec.submodule_search_locations else None


def _warn(text: str) -> None:
    print(f"sparsebench: warning: {printable(text)}", file=sys.stderr)
