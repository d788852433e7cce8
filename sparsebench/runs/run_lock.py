"""One process a run: the lease around a training, and what is left where others look."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from sparsebench.distributed.device import Device
from sparsebench.errors import RunError, SettingError
from sparsebench.records import states
from sparsebench.records.lease import FOLDER, Holder, Lease

POLL = 2.0
"""Seconds between two looks at a run that another process holds."""


class RunLockedError(RunError):
    """Another process works on the run."""


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
