"""Signals that ask to stop: the run is saved, the command says so, and the same command resumes."""

from __future__ import annotations

import os
import signal

import pytest

from sparsebench.training.signals import Interrupted, StopSignals
from tests.support.processes import DIGITS, PATIENCE, finish, result, running, start, until


def test_signals_are_noted_and_handled_on_request():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.pending == signal.SIGTERM
        with pytest.raises(Interrupted) as stopped:
            signals.act()
        assert stopped.value.code == 143 and str(stopped.value) == "SIGTERM" and signals.pending == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_launchers_own_handler_is_called_afterwards_and_may_continue(monkeypatch):
    called = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert not called
            signals.act()
            assert called == [signal.SIGUSR2] and not signals.pending
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_second_ctrl_c_does_not_wait():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.pending == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for its background jobs
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert not signals.pending
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_run_that_gets_a_stop_signal_is_saved_at_that_step_and_resumes_bitwise(tmp_path):
    argv = (
        *DIGITS[:-1],
        "prune=dpf",
        "epochs=12",
        "save_every=12ep",
    )  # no checkpoint before the end but by signals
    broken = tmp_path / "broken"
    for number, status, said in (
        (signal.SIGUSR1, 75, "stopped by SIGUSR1; the same command resumes from there"),
        (signal.SIGINT, 130, "stopped by SIGINT"),
    ):
        with running("train", "device=cpu", *argv, f"results_dir={broken}") as process:
            epochs = 0
            for line in process.stdout:
                epochs += "  epoch " in line
                if epochs == 2:
                    break
            process.send_signal(number)
            output = process.stdout.read()
            assert process.wait(timeout=PATIENCE) == status
        assert said in output and "Traceback" not in output
        (folder,) = broken.glob("*-*")
        assert (folder / "checkpoint.pt").exists()
        assert not list((broken / ".state").glob("*.lease.*")) and not list(
            (broken / ".state").glob("*.failed")
        )
    finish(broken, *argv)
    log = (folder / "log.txt").read_text()
    steps = [int(line.split("from step ")[1].split()[0]) for line in log.splitlines() if "from step " in line]
    assert len(steps) == 3 and steps[0] == 0 and steps == sorted(set(steps))
    assert log.count("stopped by Interrupted: SIG") == 2
    finish(tmp_path / "uninterrupted", *argv)
    assert result(broken) == result(tmp_path / "uninterrupted")


@pytest.mark.slow
@pytest.mark.nightly
def test_a_second_process_waits_for_the_first_or_leaves_the_run_to_it(tmp_path):
    argv = (*DIGITS, "prune=dpf", "epochs=10")
    first = start(tmp_path, *argv)
    until(lambda: list(tmp_path.glob(".state/*.lease.1")) or first.poll() is not None, "a claim")
    first.send_signal(signal.SIGSTOP)  # so that it is still there when the others come
    try:
        third, said = start(tmp_path, *argv, "wait=false"), f"is held by process {first.pid} on "
        output, _ = third.communicate(timeout=PATIENCE)
        assert third.returncode == 1 and said in output and len(output.splitlines()) == 1
        second = start(tmp_path, *argv)
        assert said in (line := second.stdout.readline()) and "waiting for it to end" in line
    finally:
        first.send_signal(signal.SIGCONT)
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert "already finished; nothing done" in outputs[1]
    (folder,) = tmp_path.glob("*-*")
    assert (folder / "log.txt").read_text().count("from step ") == 1
