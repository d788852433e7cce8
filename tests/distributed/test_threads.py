"""The default number of threads: of the free cores, and of what the user has said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from sparsebench.distributed.device import Device
from sparsebench.distributed.threads import (
    MOST,
    available_cores,
    busy_cores,
    choose_threads,
    default_threads,
    threads_of_jobs,
)
from sparsebench.errors import SettingError


@pytest.mark.parametrize(
    ("environ", "cores", "busy", "jobs", "threads"),
    [
        ({}, 16, 0, 1, MOST), ({}, 4, 0, 1, 4), ({}, 4, 1, 1, 3), ({}, 2, 1, 1, 1), ({}, 2, 9, 1, 1),
        ({}, 16, 12, 1, 4), ({}, 16, 0, 4, 4), ({}, 16, 8, 4, 2), ({}, 2, 0, 4, 1), ({}, 64, 0, 2, MOST),
        ({"OMP_NUM_THREADS": "3"}, 16, 0, 1, 3), ({"OMP_NUM_THREADS": "12,2"}, 4, 4, 2, 12),
        ({"OMP_NUM_THREADS": ""}, 4, 0, 1, 4), ({"OMP_NUM_THREADS": "many"}, 4, 0, 1, 4),
        ({"OMP_NUM_THREADS": "0"}, 4, 0, 1, 4),
    ],
)  # fmt: skip
def test_threads_are_the_free_cores_or_what_the_environment_says(environ, cores, busy, jobs, threads):
    assert choose_threads(environ, cores, busy, jobs) == threads


def test_a_busy_process_is_counted():
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as busy:
        try:
            assert busy.stdout is not None and busy.stdout.readline()
            assert busy_cores() >= available_cores() / (os.cpu_count() or 1)
        finally:
            busy.kill()


def test_the_choice_of_a_process_holds(monkeypatch):
    default_threads.cache_clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert default_threads() == threads_of_jobs(1) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert threads_of_jobs(1) == 6 and default_threads() == 5
    default_threads.cache_clear()


def test_a_device_sets_the_threads_it_is_given():
    try:
        Device("cpu", threads=3)
        assert torch.get_num_threads() == 3
        Device("cpu")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    with pytest.raises(SettingError, match=r"^device.threads=0: expected an integer, at least 1, or null"):
        Device("cpu", threads=0)


def test_choosing_imports_nothing_heavy():
    program = (
        "import sys, sparsebench.distributed.threads as t; t.default_threads(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
