"""One holder at a time: also when holders are killed, fall asleep, or sit on other machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sparsebench.records import lease as module
from sparsebench.records.lease import Holder, Lease, holders
from tests.support.processes import until

CLAIM = """
import sys, time
from pathlib import Path
from sparsebench.records.lease import Lease
lease = Lease.claim(Path(sys.argv[1]), "run")
print(type(lease).__name__, flush=True)
time.sleep(600)
"""


def elsewhere(path, **changes):
    """As if the holder were on another machine."""
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "place": "another", "host": "another", **changes})
    )


def claimed_at_once(folder, name):
    """What eight claims at the same moment get."""
    found, barrier = [], threading.Barrier(8)

    def claim():
        barrier.wait()
        found.append(Lease.claim(folder, name))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [type(each).__name__ for each in found]


def test_the_second_claim_gets_the_holder_and_the_third_the_lease(tmp_path):
    first = Lease.claim(tmp_path, "run")
    second = Lease.claim(tmp_path, "run")
    assert isinstance(first, Lease) and isinstance(second, Holder)
    assert second.content["pid"] == os.getpid() and f"process {os.getpid()} on " in str(second)
    assert isinstance(Lease.claim(tmp_path, "other"), Lease)
    first.release()
    with Lease.claim(tmp_path, "run") as third:
        assert set(holders(tmp_path)) == {"run", "other"} and not third.lost
    assert set(holders(tmp_path)) == {"other"}


def test_of_many_that_claim_at_once_one_gets_it(tmp_path):
    for trial in range(20):
        assert sorted(claimed_at_once(tmp_path, f"run{trial}")) == ["Holder"] * 7 + ["Lease"]


def test_of_many_that_take_over_from_a_dead_one_one_gets_it(tmp_path):
    for trial in range(20):
        dead = Lease.claim(tmp_path, f"run{trial}", timeout=0.5)
        dead._ended.set()
        elsewhere(dead.path)
        os.utime(dead.path, (0, 0))
        assert sorted(claimed_at_once(tmp_path, f"run{trial}")) == ["Holder"] * 7 + ["Lease"]
        assert not dead.path.exists()


def test_a_killed_process_of_this_machine_is_known_to_be_dead_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "Lease\n"
    assert isinstance(Lease.claim(tmp_path, "run"), Holder)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert isinstance(Lease.claim(tmp_path, "run"), Lease)


def test_a_process_with_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path):
    lease = Lease.claim(tmp_path, "run")
    lease._ended.set()
    content = json.loads(lease.path.read_text())
    lease.path.write_text(json.dumps({**content, "process_start": "1"}))
    assert isinstance(Lease.claim(tmp_path, "run"), Lease)


def test_a_holder_on_another_machine_is_respected_until_it_is_silent_for_its_time_out(tmp_path):
    lease = Lease.claim(tmp_path, "run", timeout=30)
    lease._ended.set()
    elsewhere(lease.path)
    assert isinstance(Lease.claim(tmp_path, "run", timeout=0.1), Holder)  # the holder's own time-out counts
    old = time.time() - 29
    os.utime(lease.path, (old, old))
    assert isinstance(Lease.claim(tmp_path, "run"), Holder)
    old = time.time() - 31
    os.utime(lease.path, (old, old))
    assert holders(tmp_path) == {}
    assert isinstance(Lease.claim(tmp_path, "run"), Lease)


def test_heartbeats_keep_it_and_show_the_progress(tmp_path):
    with Lease.claim(tmp_path, "run", timeout=6) as lease:  # a heartbeat a second
        elsewhere(lease.path)
        lease._content["place"] = "another"
        lease.progress = lambda: {"step": 7}
        os.utime(lease.path, (0, 0))  # as after a long silence: without a heartbeat it could be taken now
        until(lambda: lease.path.stat().st_mtime > 0, "a heartbeat")
        found = Lease.claim(tmp_path, "run")
        assert isinstance(found, Holder) and found.content["step"] == 7


def test_a_holder_that_slept_too_long_finds_that_it_has_lost(tmp_path):
    asleep = Lease.claim(tmp_path, "run")
    asleep._ended.set()
    elsewhere(asleep.path)
    os.utime(asleep.path, (0, 0))
    with Lease.claim(tmp_path, "run") as taken:
        assert not asleep.renew() and asleep.lost
        assert taken.renew() and not taken.lost
        assert list(tmp_path.glob("run.*")) == [taken.path]


def test_a_slurm_job_that_is_started_again_takes_over_from_its_earlier_start_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "one")
    lease = Lease.claim(tmp_path, "run")
    lease._ended.set()
    elsewhere(lease.path)
    assert isinstance(Lease.claim(tmp_path, "run"), Holder)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "two")  # the job with this number there is another one
    assert isinstance(Lease.claim(tmp_path, "run"), Holder)
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "one")
    assert isinstance(Lease.claim(tmp_path, "run"), Lease)


def test_a_claim_that_looked_long_ago_takes_nothing(tmp_path, monkeypatch):
    """Between its look at a dead holder and its own file, others took over, ended, and a new one began."""
    dead = Lease.claim(tmp_path, "run")
    dead._ended.set()
    elsewhere(dead.path)
    os.utime(dead.path, (0, 0))
    clock, held = module._clock, []

    def meanwhile(folder):
        monkeypatch.setattr(module, "_clock", clock)
        now = clock(folder)
        Lease.claim(tmp_path, "run").release()
        held.append(Lease.claim(tmp_path, "run"))
        return now

    monkeypatch.setattr(module, "_clock", meanwhile)
    assert isinstance(Lease.claim(tmp_path, "run"), Holder)
    (holder,) = held
    assert isinstance(holder, Lease) and holder.renew()


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_file_that_says_nothing_yet_holds_until_its_time_is_over(tmp_path, text):
    path = tmp_path / "run.lease.1"
    path.write_text(text)
    assert isinstance(Lease.claim(tmp_path, "run"), Holder)
    os.utime(path, (0, 0))
    assert isinstance(Lease.claim(tmp_path, "run"), Lease)
