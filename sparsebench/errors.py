"""The exceptions that the command line reports as one line."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a write for which there is no room."""


def printable(text: object, keep: str = "") -> str:
    r"""``text`` with everything that a terminal would act on escaped: control characters, line breaks, directions.

    Names, logs and messages of run folders and configs go through here before they are printed.

    Args:
        text: Anything with a string.
        keep: Characters to leave as they are, such as the line breaks of a log.

    Example:
        >>> print(printable("a\x1b[31m\nb"))
        a\x1b[31m\nb
    """
    given = str(text)
    if given.isprintable():
        return given
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in given
    )


def reason(error: BaseException) -> str:
    """What an error says, in one line; of the operating system's, without the number and the file."""
    if isinstance(error, OSError):
        if error.errno in DISK_FULL:
            return "the disk is full" + (" (quota exceeded)" if error.errno == errno.EDQUOT else "")
        if error.strerror:
            return printable(error.strerror)
    return printable(re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__)


class SettingError(ValueError):
    """A setting has a value that cannot be used.

    The message is one line that names the setting, the given value and what is allowed; the command
    line prints it without a traceback and exits with status 2.

    Args:
        setting: Name as the user writes it, for example ``"sparsity"``. A constructor names its own
            argument (``"depth"``); ``config.build`` puts the config group in front (``"model.depth"``).
        given: The given value; ``None`` if the setting as a whole is wrong.
        allowed: A phrase that describes the valid values.

    Example:
        >>> print(SettingError("sparsity", 1.2, "a fraction of zeros in [0, 1)"))
        sparsity=1.2: expected a fraction of zeros in [0, 1)
    """

    def __init__(self, setting: str, given: object, allowed: str) -> None:
        self.setting, self.given, self.allowed = setting, given, allowed
        head = setting if given is None else f"{setting}={given if str(given) else repr(given)}"
        super().__init__(printable(f"{_short(head)}: expected {allowed}"))

    def __reduce__(self) -> tuple[Any, ...]:  # so that the error can be sent to another process
        return type(self), (self.setting, self.given, self.allowed), self.__dict__


def _short(text: str, most: int = 500) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def one_of(options: Iterable[object], given: object) -> str:
    """``"one of a, b, c"``, with a suggestion if ``given`` looks like a mistyped option.

    Example:
        >>> one_of(["cubic", "linear"], "cubik")
        "one of cubic, linear (did you mean 'cubic'?)"
    """
    names = [str(option) for option in options]
    close = difflib.get_close_matches(str(given), names, n=1)
    return f"one of {', '.join(names)}" + (f" (did you mean '{close[0]}'?)" if close else "")


def is_int(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def require_int(
    setting: str, value: object, least: int | None = None, most: int | None = None, *, optional: bool = False
) -> None:
    """Refuse what is not an integer in ``least`` ... ``most``, both included; ``optional`` allows ``None``.

    Raises:
        SettingError: ``value`` is not one.

    Example:
        >>> require_int("rounds", 3, least=1)
        >>> require_int("rounds", True, least=1, optional=True)
        Traceback (most recent call last):
        ...
        sparsebench.errors.SettingError: rounds=True: expected an integer, at least 1, or null
    """
    if optional and value is None:
        return
    if is_int(value) and (least is None or value >= least) and (most is None or value <= most):
        return
    above = "" if least is None else f", at least {least}" if most is None else f" from {least} to {most}"
    below = "" if most is None or least is not None else f", at most {most}"
    raise SettingError(setting, value, f"an integer{above}{below}{', or null' if optional else ''}")


def require_file(setting: str, given: object, path: Path, wanted: str) -> None:
    """Refuse what is no regular file: a pipe or a device has no end, or waits for a writer.

    Args:
        setting: Name of the setting.
        given: Its value.
        path: The file that it names.
        wanted: What the file should be.

    Raises:
        SettingError: ``path`` is not one.
    """
    if path.is_file():
        return
    kind = "it is a folder" if path.is_dir() else "it is a pipe or device"
    raise SettingError(setting, given, f"{wanted}: {kind if path.exists() else 'there is none'}")


class RunError(RuntimeError):
    """A run failed after it had started; one line, exit status 1."""

    def __str__(self) -> str:
        return printable(super().__str__())


def origin(error: BaseException) -> int:
    """The rank that raised ``error`` first; 0 if every rank raises it."""
    return int(getattr(error, "rank", 0))
