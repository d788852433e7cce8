"""Rank and world size from the environment of torchrun or Slurm. Imports nothing heavy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

from sparsebench.errors import SettingError, origin


@dataclass(frozen=True)
class RankInfo:
    """One process of a job.

    Args:
        rank: Global rank, from 0.
        world_size: Number of ranks.
        local_rank: Rank on its machine.
        launcher: ``torchrun``, ``slurm``, or empty for a single process.
        address: Address of the machine of rank 0.
        port: Port for the rendezvous.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    launcher: str = ""
    address: str = "127.0.0.1"
    port: int = 0


def rank_info_from_env(environ: Mapping[str, str]) -> RankInfo:
    """Read torchrun's RANK and WORLD_SIZE from ``environ``, else those of a Slurm step, else a single process.

    Under Slurm the rendezvous is on the first machine of the step, at a port derived from the job and the step;
    MASTER_ADDR and MASTER_PORT override these.

    Raises:
        SettingError: The variables are inconsistent, or a Slurm job with several tasks was not started by srun.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank, world_size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
        if world_size > 1 and not ("MASTER_ADDR" in environ and "MASTER_PORT" in environ):
            allowed = "MASTER_ADDR and MASTER_PORT in addition to RANK and WORLD_SIZE, as torchrun sets them"
            raise SettingError("device", "ddp", allowed)
        port = _number(environ, "MASTER_PORT") if world_size > 1 else 0
        local = _number(environ, "LOCAL_RANK") if "LOCAL_RANK" in environ else 0
        return _validated(RankInfo(rank, world_size, local, "torchrun", environ.get("MASTER_ADDR", ""), port))
    if "SLURM_STEP_NUM_TASKS" in environ and "SLURM_PROCID" in environ:
        rank, world_size = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_STEP_NUM_TASKS")
        alone = environ.get("SLURM_STEP_NUM_NODES", "1") == "1"
        address = "127.0.0.1" if alone else first_host(environ.get("SLURM_STEP_NODELIST", ""))
        job, step = _number(environ, "SLURM_JOB_ID"), _number(environ, "SLURM_STEP_ID")
        port = 12000 + (64 * job + step) % 18000  # below the range of ephemeral ports
        if "MASTER_PORT" in environ:
            port = _number(environ, "MASTER_PORT")
        address = environ.get("MASTER_ADDR", address)
        return _validated(
            RankInfo(rank, world_size, _number(environ, "SLURM_LOCALID"), "slurm", address, port)
        )
    if (tasks := environ.get("SLURM_NTASKS", "1")) != "1":
        allowed = f"srun in front of the command: this Slurm job has {tasks} tasks, and this process is not one of them"
        raise SettingError("device", "ddp", allowed)
    return RankInfo()


def first_host(nodes: str) -> str:
    """The first machine of a Slurm node list.

    Example:
        >>> first_host("gpu[003-004,007],login1"), first_host("r[1-2]n[5,7]"), first_host("node9")
        ('gpu003', 'r1n5', 'node9')
    """
    first_entry = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first_entry[0] if first_entry else nodes)


def should_report_error(argv: Sequence[str], error: BaseException) -> bool:
    """Whether this process prints ``error``: the rank that raised it, or the main rank if all ranks raise it.

    Args:
        argv: Arguments of the command line.
        error: The exception that ended the command.
    """
    return _rank(argv) in (None, origin(error))


@contextmanager
def main_rank_stdout_only(argv: Sequence[str]) -> Iterator[None]:
    """Suppress the standard output of all ranks but the main one inside the block."""
    if not _rank(argv):
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _rank(argv: Sequence[str]) -> int | None:
    """The rank among processes of the same run; ``None`` if there is a single one."""
    try:
        info = rank_info_from_env(os.environ)
    except SettingError:
        return None
    # Slurm tasks may also be independent runs.
    alone = info.world_size == 1 or (info.launcher == "slurm" and "device=ddp" not in argv)
    return None if alone else info.rank


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except (KeyError, ValueError) as error:
        raise SettingError(name, environ.get(name), "an integer, as torchrun or srun sets it") from error


def _validated(info: RankInfo) -> RankInfo:
    if not 0 <= info.rank < info.world_size:
        raise SettingError(
            "RANK",
            info.rank,
            f"a number from 0 to {info.world_size - 1}, because there are {info.world_size} ranks",
        )
    return info
