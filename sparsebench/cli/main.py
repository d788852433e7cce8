"""The command line: subcommands in front of Hydra. Imports nothing heavy, so that help is fast."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Sequence

import sparsebench
from sparsebench.cli.subcommand import Section, subcommands
from sparsebench.errors import DISK_FULL, RunError, SettingError, one_of, printable, reason

HELP = """\
usage: sparsebench COMMAND [ARGUMENT ...]

Sparse-training benchmarks: exact sparsity, honest accuracy, equal budgets.

{commands}

examples:
{examples}

The default data set is digits, 1,797 small bundled images: results on it show that a method works, and are
not comparable with published ones. The benchmark is dataset=cifar10. Settings are group=option or key=value;
the configs are in {configs}.
"""

_EVERYWHERE = frozenset({"-h", "--help", "help", "-V", "--version", "version"})
"""What answers on every system."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Arguments after the program's name; those of the process by default.

    Returns:
        The exit status: 0 on success, 1 if a run failed, 2 for invalid input, 75 if stopped by SIGUSR1 or SIGUSR2 (run
        the command again), 130 by Ctrl-C, 143 by SIGTERM.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    _print_anything()
    if sys.platform == "win32" and argv and argv[0] not in _EVERYWHERE:
        print("sparsebench: error: sparsebench runs on Linux and macOS; on Windows, in WSL", file=sys.stderr)
        return 2
    try:
        status = _dispatch(argv)
        sys.stdout.flush()  # a closed pipe raises here, not at the interpreter's exit
        return status
    except (SettingError, RunError) as error:
        if os.environ.get("SPARSEBENCH_DEBUG") == "1":
            raise
        return _fail(str(error), 2 if isinstance(error, SettingError) else 1, argv, error)
    except SystemExit as stop:
        from sparsebench.training.signals import Interrupted

        if not isinstance(stop, Interrupted):
            raise
        message = f"stopped by {stop}; the same command resumes from there"
        return _fail(message, int(stop.code or 1), argv, stop)
    except BrokenPipeError:
        _discard_output()
        return 1
    except OSError as error:
        if os.environ.get("SPARSEBENCH_DEBUG") == "1":
            raise
        place = error.filename or _standard_output(error)
        return _fail(": ".join(str(part) for part in (place, reason(error)) if part), 2, argv, error)
    except KeyboardInterrupt as error:
        command = subcommands().get(argv[0]) if argv else None
        resumable = command is not None and command.config  # commands that run something
        more = "; the same command resumes from the last checkpoint" if resumable else ""
        return _fail(f"interrupted{more}", 130, argv, error)


def _print_anything() -> None:
    """Replace what the encoding of the terminal or the pipe does not have, such as ± in ASCII, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def _standard_output(error: OSError) -> str:
    """How to name the standard output if it is what could not be written; nothing is left in it then."""
    if error.errno not in DISK_FULL or sys.stdout.isatty():
        return ""
    try:
        sys.stdout.flush()
        descriptor = sys.stdout.fileno()
        full = stat.S_ISCHR(os.fstat(descriptor).st_mode) or not os.fstatvfs(descriptor).f_bavail
    except OSError:
        full = True
    if full:
        _discard_output()
    return "standard output" if full else ""


def _discard_output() -> None:
    """Write what is left for the standard output to nowhere; otherwise the interpreter prints an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version", "version"):
        print(f"sparsebench {sparsebench.__version__}")
        return 0
    if argv[0] == "_complete":  # called by the completion scripts
        from sparsebench.cli import completion

        return completion.answer(argv[1:])
    commands = subcommands()
    if argv[0] not in commands:
        raise SettingError("command", argv[0], one_of(commands, argv[0]))
    return commands[argv[0]].main(argv[1:])


def _help() -> str:
    from sparsebench.paths import config_dirs

    commands = subcommands().values()
    width = max(len(command.name) for command in commands)
    sections = {
        section: [
            f"  {command.name:<{width}}  {command.help}" for command in commands if command.section is section
        ]
        for section in Section
    }
    return HELP.format(
        commands="\n\n".join("\n".join([f"{s.value}:", *lines]) for s, lines in sections.items() if lines),
        examples="\n".join(f"  {example}" for command in commands for example in command.examples),
        configs=" and ".join(map(str, config_dirs())),
    ).rstrip()


def _fail(text: str, status: int, argv: Sequence[str], error: BaseException) -> int:
    from sparsebench.distributed.rank_env import should_report_error

    if should_report_error(argv, error):
        print(f"sparsebench: error: {printable(text)}", file=sys.stderr)
    return status
