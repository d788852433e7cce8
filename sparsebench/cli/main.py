"""The command line: subcommands in front of Hydra. Imports nothing heavy, so that help is fast."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import sparsebench
from sparsebench.cli.subcommands import COMMANDS
from sparsebench.distributed.rank_env import should_report_error
from sparsebench.errors import RunError, SettingError, one_of
from sparsebench.training.signals import Interrupted

HELP = """\
usage: sparsebench COMMAND [ARGUMENT ...]

Sparse-training benchmarks: exact sparsity, honest accuracy, equal budgets.

{commands}

examples:
  sparsebench train model=resnet prune=dpf sparsity=0.9
  sparsebench sweep prune=dense,gmp,dpf sparsity=0.9,0.95 seed=0,1,2
  sparsebench compare results/runs
  sparsebench compare reference:dpf results/runs
  sparsebench collect results/runs -o table.csv
  sparsebench report results/runs
  sparsebench theory study=overparam_prune
  sparsebench list methods
  sparsebench train --cfg job          print every setting
  eval "$(sparsebench completion bash)"

The default data set is digits, 1,797 small bundled images: results on it show that a method works, and are
not comparable with published ones. The benchmark is dataset=cifar10. Settings are group=option or key=value;
the configs are in {configs}.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Arguments after the program's name; those of the process by default.

    Returns:
        The exit status: 0 on success, 1 if a run failed, 2 for invalid input, 75 if stopped by SIGUSR1 or SIGUSR2 (run
        the command again), 130 by Ctrl-C, 143 by SIGTERM.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _dispatch(argv)
        sys.stdout.flush()  # a closed pipe raises here, not at the interpreter's exit
        return status
    except (SettingError, RunError) as error:
        if os.environ.get("SPARSEBENCH_DEBUG") == "1":
            raise
        return _fail(
            str(error), 2 if isinstance(error, SettingError) else 1, should_report_error(argv, error)
        )
    except Interrupted as stop:
        message = f"stopped by {stop}; the same command resumes from there"
        return _fail(message, int(stop.code or 1), should_report_error(argv, stop))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 1
    except OSError as error:
        if os.environ.get("SPARSEBENCH_DEBUG") == "1":
            raise
        what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        return _fail(what, 2, should_report_error(argv, error))
    except KeyboardInterrupt as error:
        resumable = argv[:1] in (["train"], ["sweep"], ["theory"])
        more = "; the same command resumes from the last checkpoint" if resumable else ""
        return _fail(f"interrupted{more}", 130, should_report_error(argv, error))


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version", "version"):
        print(f"sparsebench {sparsebench.__version__}")
        return 0
    command, rest = argv[0], argv[1:]
    if command == "sweep" and any(word.startswith("study=") for word in rest):
        command = "theory"
    if command == "train":
        from sparsebench.cli import train

        return train.main(rest)
    if command == "sweep":
        from sparsebench.cli import sweep

        return sweep.main(rest)
    if command == "theory":
        from sparsebench.cli import theory

        return theory.main(rest, sweep=argv[0] == "sweep")
    if command == "collect":
        from sparsebench.cli import collect

        return _parsed(collect.main, rest)
    if command == "status":
        from sparsebench.cli import status

        return _parsed(status.main, rest)
    if command == "logs":
        from sparsebench.cli import logs

        return _parsed(logs.main, rest)
    if command == "merge":
        from sparsebench.cli import merge

        return _parsed(merge.main, rest)
    if command == "compare":
        from sparsebench.cli import compare

        return _parsed(compare.main, rest)
    if command == "audit":
        from sparsebench.cli import audit

        return _parsed(audit.main, rest)
    if command == "report":
        from sparsebench.cli import report

        return _parsed(report.main, rest)
    if command == "evaluate":
        from sparsebench.cli import evaluate

        return _parsed(evaluate.main, rest)
    if command == "data":
        from sparsebench.cli import data

        return _parsed(data.main, rest)
    if command == "list":
        from sparsebench.cli import list as listing

        return _parsed(listing.main, rest)
    if command in ("completion", "_complete"):
        from sparsebench.cli import completion

        return completion.main(rest) if command == "completion" else completion.answer(rest)
    raise SettingError("command", command, one_of(COMMANDS, command))


def _parsed(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """The exit status of a command whose parser raises SystemExit after its help and for invalid arguments."""
    try:
        return command(arguments)
    except SystemExit as done:
        return int(done.code or 0)


def _help() -> str:
    from sparsebench.paths import config_dirs

    commands = "\n".join(f"  {name:<12} {what}" for name, what in COMMANDS.items())
    return HELP.format(commands=commands, configs=" and ".join(map(str, config_dirs()))).rstrip()


def _fail(text: str, status: int, report: bool) -> int:
    if report:
        print(f"sparsebench: error: {text}", file=sys.stderr)
    return status
