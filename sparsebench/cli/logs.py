"""``sparsebench logs``: print the log of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sparsebench.cli.subcommand import Section, Subcommand
from sparsebench.errors import SettingError, printable, require_int
from sparsebench.files import open_plain

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def run(args: Namespace) -> int:
    """Print a run's log, and with ``--follow`` new lines as they are written.

    Returns:
        The exit status, 0.

    Raises:
        SettingError: There is no such run, or several.
    """
    require_int("--lines", args.lines, least=0, optional=True)
    path = _run(args.run, args.results)
    escaped = sys.stdout.isatty()  # elsewhere, the bytes of the log
    try:
        for text in _follow(path, args.lines, args.follow):
            print(printable(text, keep="\n\t") if escaped else text, end="", flush=True)
    except KeyboardInterrupt:
        pass
    return 0


def _run(name: str, results: Path) -> Path:
    """The log of the one run that ``name`` refers to."""
    from sparsebench.records import schema
    from sparsebench.records.run_folder import run_id_of

    if (Path(name) / schema.LOG).is_file():
        return Path(name) / schema.LOG
    if Path(name).is_dir():
        raise SettingError("run", name, f"a run folder with {schema.LOG}")
    if not results.is_dir():
        raise SettingError("results", results, "a folder of results")
    found = [path.parent for path in sorted(results.glob(f"**/{schema.LOG}")) if path.is_file()]
    found = [p for p in found if p.name.startswith(name) or run_id_of(p).startswith(name)]
    if len(found) == 1:
        return found[0] / schema.LOG
    several = ", ".join(path.name for path in found[:5])
    raise SettingError(
        "run", name, f"one run in {results}; several match: {several}" if found else f"a run in {results}"
    )


def _follow(path: Path, lines: int | None, follow: bool) -> Iterator[str]:
    """The text of a file, or its last ``lines``, then with ``follow`` everything appended to it."""
    with open_plain(path) as file:
        content = file.read()
    position, text = len(content), content.decode("utf-8", errors="replace")
    yield text if lines is None else "".join(text.splitlines(keepends=True)[-lines or len(text) :])
    while follow:
        time.sleep(0.5)
        if (size := path.stat().st_size) != position:
            with open_plain(path) as file:
                file.seek(position if size > position else 0)
                added = file.read()
            position = size
            yield added.decode("utf-8", errors="replace")


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("run", metavar="RUN", help="run folder, or a prefix of its name or run_id")
    parser.add_argument(
        "results",
        nargs="?",
        type=Path,
        default=Path("results/runs"),
        metavar="RESULTS",
        help="folder of results to search for RUN (default: results/runs)",
    )
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="print only the last N lines")
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing new lines until Ctrl-C")


COMMAND = Subcommand(
    name="logs",
    help="print the log of a run",
    section=Section.FOLLOW,
    order=1,
    files=True,
    arguments=arguments,
    run=run,
)
