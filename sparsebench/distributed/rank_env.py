"""Which of how many processes this one is, as torchrun or Slurm says it. Imports nothing heavy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

from sparsebench.errors import SettingError, origin


@dataclass(frozen=True)
class Launch:
    """One process of a job.

    Args:
        rank: Its number, from 0.
        ranks: How many there are.
        local_rank: Its number on its machine.
        by: ``torchrun``, ``slurm``, or nothing for a process by itself.
        address: Of the machine where rank 0 runs.
        port: Where the ranks meet.
    """

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    by: str = ""
    address: str = "127.0.0.1"
    port: int = 0


def launched(environ: Mapping[str, str]) -> Launch:
    """What ``environ`` says: torchrun's RANK and WORLD_SIZE, else those of a Slurm step, else one process by itself.

    Under Slurm the ranks meet on the first machine of the step, at a port that follows from the job and the step;
    MASTER_ADDR and MASTER_PORT take their place where they are set.

    Raises:
        SettingError: The variables contradict each other, or a Slurm job has several tasks and is not started by srun.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank, ranks = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
        if ranks > 1 and not ("MASTER_ADDR" in environ and "MASTER_PORT" in environ):
            allowed = "MASTER_ADDR and MASTER_PORT beside RANK and WORLD_SIZE, as torchrun sets them"
            raise SettingError("device", "ddp", allowed)
        port = _number(environ, "MASTER_PORT") if ranks > 1 else 0
        local = _number(environ, "LOCAL_RANK") if "LOCAL_RANK" in environ else 0
        return _checked(Launch(rank, ranks, local, "torchrun", environ.get("MASTER_ADDR", ""), port))
    if "SLURM_STEP_NUM_TASKS" in environ and "SLURM_PROCID" in environ:
        rank, ranks = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_STEP_NUM_TASKS")
        alone = environ.get("SLURM_STEP_NUM_NODES", "1") == "1"
        address = "127.0.0.1" if alone else first_host(environ.get("SLURM_STEP_NODELIST", ""))
        job, step = _number(environ, "SLURM_JOB_ID"), _number(environ, "SLURM_STEP_ID")
        port = 12000 + (64 * job + step) % 18000  # below the ports that systems give out by themselves
        if "MASTER_PORT" in environ:
            port = _number(environ, "MASTER_PORT")
        address = environ.get("MASTER_ADDR", address)
        return _checked(Launch(rank, ranks, _number(environ, "SLURM_LOCALID"), "slurm", address, port))
    if (tasks := environ.get("SLURM_NTASKS", "1")) != "1":
        allowed = f"srun in front of the command: this Slurm job has {tasks} tasks, and this is none of them"
        raise SettingError("device", "ddp", allowed)
    return Launch()


def first_host(nodes: str) -> str:
    """The first machine of a Slurm list of them.

    Example:
        >>> first_host("gpu[003-004,007],login1"), first_host("r[1-2]n[5,7]"), first_host("node9")
        ('gpu003', 'r1n5', 'node9')
    """
    whole = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", whole[0] if whole else nodes)


def speaks(words: Sequence[str], error: BaseException) -> bool:
    """Whether this process prints ``error``: where it arose, and on the first rank if it arises on all of them.

    Args:
        words: Of the command line.
        error: What the command ended in.
    """
    return _rank(words) in (None, origin(error))


@contextmanager
def only_first_prints(words: Sequence[str]) -> Iterator[None]:
    """Inside, what ranks other than the first write to standard output is lost: it would be said several times."""
    if not _rank(words):
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _rank(words: Sequence[str]) -> int | None:
    """The rank among processes that do the same run; ``None`` where there are no others."""
    try:
        here = launched(os.environ)
    except SettingError:
        return None
    # Slurm's tasks may as well be runs of their own.
    alone = here.ranks == 1 or (here.by == "slurm" and "device=ddp" not in words)
    return None if alone else here.rank


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except (KeyError, ValueError) as error:
        raise SettingError(name, environ.get(name), "an integer, as torchrun or srun sets it") from error


def _checked(here: Launch) -> Launch:
    if not 0 <= here.rank < here.ranks:
        raise SettingError(
            "RANK", here.rank, f"a number from 0 to {here.ranks - 1}, for there are {here.ranks} ranks"
        )
    return here
