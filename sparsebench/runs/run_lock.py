"""Run or find a run or study in one process at a time, and record its failures for sweeps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from sparsebench.distributed.device import Device
from sparsebench.errors import DISK_FULL, RunError, SettingError, printable, reason
from sparsebench.paths import expanded
from sparsebench.records import states
from sparsebench.records.lease import FOLDER, Holder, Lease
from sparsebench.training.signals import StopSignals
from sparsebench.training.steps import Steps

Result = TypeVar("Result")

Make = Callable[[Lease | None, StopSignals], Steps[Result]]
"""The work under the lock; gets the lease (on the main rank) and the stop signals."""

POLL = 2.0
"""Seconds between checks of a run that another process holds."""


class RunLockedError(RunError):
    """Another process holds the run."""


def find_or_make(
    run_id: str,
    cfg: DictConfig,
    device: Device,
    find: Callable[[], Result | None],
    prepare: Callable[[], Make[Result]],
    signals: StopSignals | None = None,
) -> Steps[Result]:
    """Find what ``cfg`` describes finished, or run it, in one process at a time.

    Args:
        run_id: Identifier of the run or study; its folder is in ``cfg.results_dir``.
        cfg: ``overwrite`` runs it even if it is finished; ``wait`` waits for another process that holds it.
        device: Device of the run.
        find: On the main rank, returns the result if it is finished; called before anything is built, and again
            under the lock, because another process may have been faster.
        prepare: Builds everything before anything is written, so that wrong settings or missing data fail early.
            Returns what makes the result.
        signals: Stop signals that the process already listens to; by default they are listened to here.

    Raises:
        RunLockedError: Another process holds it, and is not waited for.
        SettingError: The results folder cannot be written to.
    """
    if not cfg.overwrite and (found := device.broadcast_from_main(find)) is not None:
        return found
    make = prepare()
    with (
        run_lock(expanded(cfg.results_dir, "results_dir"), run_id, cfg, device) as (lease, waited),
        StopSignals() if signals is None else nullcontext(signals) as heard,
    ):
        if (waited or not cfg.overwrite) and (found := device.broadcast_from_main(find)) is not None:
            return found
        return (yield from make(lease, heard))


def say_finished(folder: Path) -> None:
    """Tell that a run or study was found."""
    print(printable(f"{folder}: already finished; nothing done (overwrite=true to run it again)"))


def note_failure(cfg: DictConfig, run_id: Callable[[], str], error: Exception) -> None:
    """Leave an error of a launcher's job where the launcher looks: one before the lock was claimed has not done so.

    ``run_id`` is asked only then: a config that is wrong may have none.
    """
    if not cfg.get("wait", True) and not isinstance(error, RunLockedError):
        states.fail(expanded(cfg.results_dir, "results_dir"), run_id(), error)


@contextmanager
def run_lock(
    results: Path, run_id: str, cfg: DictConfig, device: Device
) -> Iterator[tuple[Lease | None, bool]]:
    """Lock a run for this process (and its ranks); an error inside the block is recorded for ``sparsebench status``.

    Args:
        results: The results folder; created if missing.
        run_id: Id of the run.
        cfg: Its ``wait`` decides whether to wait for another process.
        device: Device of the run.

    Yields:
        The lease (on the main rank), and whether this process had to wait for it.

    Raises:
        RunLockedError: Another process holds the run, and ``wait`` is false.
        SettingError: ``results`` is not writable.
    """
    with writable(results, cfg.results_dir):
        lease, waited = _claimed(results, run_id, cfg, device)
        if lease is None:
            yield lease, waited
            return
        with lease:
            states.clear_failure(results, run_id)
            try:
                yield lease, waited
            except Exception as error:
                if not lease.lost:
                    states.fail(results, run_id, error)
                raise


@contextmanager
def writable(results: Path, given: object) -> Iterator[None]:
    """Turn a failed write below ``results`` into a :class:`SettingError`."""
    try:
        yield
    except OSError as error:
        place = Path(str(error.filename or ""))
        if place != results and results not in place.parents:
            raise
        inside = "" if place == results or error.errno in DISK_FULL else f"{place}: "
        raise SettingError("results_dir", given, f"a writable folder: {inside}{reason(error)}") from error


def check_still_held(lease: Lease | None) -> None:
    """Raise if another process has taken over the run.

    Raises:
        RunLockedError: This process sent no heartbeat for so long that it was considered dead.
    """
    if lease is not None and lease.lost:
        raise RunLockedError(
            f"{lease.path.name.partition('.')[0]}: taken over by another process; it continues there"
        )


def _claimed(results: Path, run_id: str, cfg: DictConfig, device: Device) -> tuple[Lease | None, bool]:
    leases: list[Lease] = []

    def claim() -> str:
        found = Lease.claim(results / FOLDER, run_id, float(cfg.heartbeat_timeout))
        if isinstance(found, Holder):
            return str(found)
        leases.append(found)
        return ""

    waited = False
    while holder := device.broadcast_from_main(claim):  # polled, because other ranks do not wait for long
        if not cfg.wait:
            raise RunLockedError(f"run {run_id} is held by {holder}; it continues there")
        if not waited and device.is_main_process:
            print(f"run {run_id} is held by {holder}: waiting for it to end", file=sys.stderr, flush=True)
        waited = True
        time.sleep(POLL)
    return leases[0] if leases else None, waited
