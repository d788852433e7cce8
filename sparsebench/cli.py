"""The command line: subcommands in front of Hydra. Imports nothing heavy, so that help answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import sparsebench
from sparsebench.errors import RunError, SettingError, one_of
from sparsebench.launch import speaks
from sparsebench.signals import Interrupted

COMMANDS = {
    "train": "train and prune one model, or go on with an interrupted run",
    "sweep": "one run for every combination of comma-separated values",
    "theory": "a paper's prediction beside a simulation",
    "status": "what has become of the runs of a folder",
    "logs": "the log of a run",
    "collect": "the rows of many runs as one CSV",
    "merge": "the runs of several folders in one",
    "compare": "tables over runs, and beside papers' numbers: means, intervals, differences",
    "report": "a page and figures on results",
    "audit": "check what finished runs say of themselves against their weights, config and data",
    "evaluate": "calibration, classes, corruptions, ... of finished runs",
    "data": "check a data set on disk, or pack its images to be read faster",
    "list": "models, data sets, methods, schedules, ... with their papers",
    "completion": "print the completion script for bash, zsh or fish",
}
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
  sparsebench train --cfg job          every setting with its value
  eval "$(sparsebench completion bash)"

The default data set is digits, 1,797 small images that come along: results on it show that a method
works, and compare with nothing published. dataset=cifar10 is the benchmark. Settings are group=option or
key=value; the configs lie in {configs}.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words after the program's name; those of the process by default.

    Returns:
        The exit status: 0 well, 1 a run that ended badly, 2 bad input, 75 stopped by SIGUSR1 or SIGUSR2 and to be
        run again, 130 by Ctrl-C, 143 by SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _dispatch(words)
        sys.stdout.flush()  # a closed pipe shows here, not at the interpreter's exit
        return status
    except (SettingError, RunError) as error:
        if os.environ.get("SPARSEBENCH_DEBUG") == "1":
            raise
        return _fail(str(error), 2 if isinstance(error, SettingError) else 1, speaks(words, error))
    except Interrupted as stop:
        said = f"stopped by {stop}; the same command goes on from there"
        return _fail(said, int(stop.code or 1), speaks(words, stop))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 1
    except OSError as error:
        if os.environ.get("SPARSEBENCH_DEBUG") == "1":
            raise
        what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        return _fail(what, 2, speaks(words, error))
    except KeyboardInterrupt as error:
        goes_on = words[:1] in (["train"], ["sweep"], ["theory"])
        more = "; the same command goes on from the last checkpoint" if goes_on else ""
        return _fail(f"interrupted{more}", 130, speaks(words, error))


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version", "version"):
        print(f"sparsebench {sparsebench.__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command == "sweep" and any(word.startswith("study=") for word in rest):
        command = "theory"
    if command in ("train", "sweep"):
        from sparsebench.commands import train

        return train.main(rest, sweep=command == "sweep")
    if command == "theory":
        from sparsebench.commands import theory

        return theory.main(rest, sweep=words[0] == "sweep")
    if command == "collect":
        from sparsebench.commands import collect

        return _parsed(collect.main, rest)
    if command in ("status", "logs"):
        from sparsebench.commands import status

        return _parsed(status.main if command == "status" else status.logs, rest)
    if command == "merge":
        from sparsebench.commands import merge

        return _parsed(merge.main, rest)
    if command == "compare":
        from sparsebench.commands import compare

        return _parsed(compare.main, rest)
    if command == "audit":
        from sparsebench.commands import audit

        return _parsed(audit.main, rest)
    if command == "report":
        from sparsebench.commands import report

        return _parsed(report.main, rest)
    if command == "evaluate":
        from sparsebench.commands import evaluate

        return _parsed(evaluate.main, rest)
    if command == "data":
        from sparsebench.commands import data

        return _parsed(data.main, rest)
    if command == "list":
        from sparsebench.commands import list as listing

        return _parsed(listing.main, rest)
    if command in ("completion", "_complete"):
        from sparsebench import completion

        return completion.main(rest) if command == "completion" else completion.answer(rest)
    raise SettingError("command", command, one_of(COMMANDS, command))


def _parsed(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """The status of a command whose parser ends the process after its help, and at bad words."""
    try:
        return command(arguments)
    except SystemExit as done:
        return int(done.code or 0)


def _help() -> str:
    from sparsebench.location import config_dirs

    commands = "\n".join(f"  {name:<12} {what}" for name, what in COMMANDS.items())
    return HELP.format(commands=commands, configs=" and ".join(map(str, config_dirs()))).rstrip()


def _fail(text: str, status: int, spoken: bool) -> int:
    if spoken:
        print(f"sparsebench: error: {text}", file=sys.stderr)
    return status
