"""One process a run or study: found finished, or claimed and made; and what is left where others look."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from sparsebench.distributed.device import Device
from sparsebench.errors import RunError, SettingError
from sparsebench.paths import expanded
from sparsebench.records import states
from sparsebench.records.lease import FOLDER, Holder, Lease
from sparsebench.training.signals import StopSignals

Result = TypeVar("Result")

Make = Callable[[Lease | None, StopSignals], Result]
"""What is done under the lock: with the lease, on the first rank, and the signals to stop."""

POLL = 2.0
"""Seconds between two looks at a run that another process holds."""


class RunLockedError(RunError):
    """Another process works on the run."""


def find_or_make(
    run_id: str,
    cfg: DictConfig,
    device: Device,
    find: Callable[[], Result | None],
    prepare: Callable[[], Make[Result]],
) -> Result:
    """What ``cfg`` describes, found finished or made, by one process at a time.

    Args:
        run_id: Of the run or study; its folder lies in ``cfg.results_dir``.
        cfg: ``overwrite`` says to make it in any case, ``wait`` to wait for another process that makes it.
        device: Of the run.
        find: On the first rank, the result if it is finished; asked before anything is built, and again under the lock
            if another process may have been faster.
        prepare: Builds all that is needed, before anything is written: a wrong setting or missing data ends it here.
            Returns what makes the result.

    Raises:
        RunLockedError: Another process holds it, and is not waited for.
        SettingError: The results folder cannot be written to.
    """
    if not cfg.overwrite and (found := device.broadcast_from_main(find)) is not None:
        return found
    make = prepare()
    with (
        run_lock(expanded(cfg.results_dir), run_id, cfg, device) as (lease, waited),
        StopSignals() as signals,
    ):
        if (waited or not cfg.overwrite) and (found := device.broadcast_from_main(find)) is not None:
            return found
        return make(lease, signals)


def say_finished(folder: Path) -> None:
    """Tell that a run or study was found."""
    print(f"{folder}: already finished; nothing done (overwrite=true to do it again)")


def note_failure(cfg: DictConfig, run_id: str, error: Exception) -> None:
    """Leave an error of a launcher's job where the launcher looks: one before the lock was claimed has not done so."""
    if not cfg.wait and not isinstance(error, RunLockedError):
        states.fail(expanded(cfg.results_dir), run_id, error)


@contextmanager
def run_lock(
    results: Path, run_id: str, cfg: DictConfig, device: Device
) -> Iterator[tuple[Lease | None, bool]]:
    """The run, for this process alone, or its ranks; an error inside is noted for ``sparsebench status``.

    Args:
        results: The results folder; made if missing.
        run_id: Of the run.
        cfg: Its ``wait`` says whether to wait for another process.
        device: Of the run.

    Yields:
        The lease, on the first rank, and whether it was waited for.

    Raises:
        RunLockedError: Another process holds it, and is not waited for.
        SettingError: ``results`` cannot be written to.
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
    """Inside, a failed write below ``results`` is a :class:`SettingError`."""
    try:
        yield
    except OSError as error:
        if str(error.filename or "").startswith(str(results)):
            raise SettingError("results_dir", given, f"a folder to write to: {error.strerror}") from error
        raise


def check_still_held(lease: Lease | None) -> None:
    """Refuse to write for a run that another process has taken over.

    Raises:
        RunLockedError: This process was silent for so long that it was taken for dead.
    """
    if lease is not None and lease.lost:
        raise RunLockedError(
            f"{lease.path.name.partition('.')[0]}: taken over by another process; it goes on there"
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
    while holder := device.broadcast_from_main(
        claim
    ):  # asked again and again: other ranks wait for no answer for long
        if not cfg.wait:
            raise RunLockedError(f"run {run_id} is held by {holder}; it goes on there")
        if not waited and device.is_main_process:
            print(f"run {run_id} is held by {holder}: waiting until it ends", file=sys.stderr, flush=True)
        waited = True
        time.sleep(POLL)
    return leases[0] if leases else None, waited
