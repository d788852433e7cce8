"""Sweeps on a real Slurm, disturbed in every way: the table is complete, and equals an undisturbed one."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsebench.records.states import states
from tests.support import ROOT
from tests.support.processes import PATIENCE, result, until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("sinfo") or subprocess.run(["sinfo", "-h"], capture_output=True).returncode != 0,
        reason="no Slurm answers here",
    ),
]
RUNS = ("epochs=10", "dataset=digits", "model=resnet", "model.depth=8", "prune=dpf,gmp", "seed=0,1", "device=cpu",
        "save_every=7it")  # fmt: skip
SLURM = (
    "launcher=slurm",
    "launcher.cpus_per_task=1",
    "launcher.mem_gb=1",
    "launcher.timeout_min=5",
    "launcher.poll_s=0.5",
)


def sweep(results: Path, *argv: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "sparsebench", "sweep", *RUNS, *argv, f"results_dir={results}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen, status: int = 0) -> str:
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, output
    return output


def begun(results: Path, epoch: int = 2) -> dict[str, dict]:
    """Name of the folder -> what its lease says, of the runs that are past ``epoch``."""
    found = {}
    for run in states(results) if results.is_dir() else ():
        log = run.folder / "log.txt" if run.state == "running" and run.folder else None
        if log and log.exists() and f"  epoch {epoch}/" in log.read_text():
            (lease,) = sorted((results / ".state").glob(f"{run.run_id}.lease.*"))[-1:]
            found[run.folder.name] = json.loads(lease.read_text())
    return found


def job_of(lease: dict) -> str:
    return lease["slurm_job"].rpartition("@")[2]


def scontrol(*argv: str) -> None:
    subprocess.run(["scontrol", *argv], check=True, capture_output=True, timeout=30)


def kill_two(results: Path) -> None:
    until(lambda: len(begun(results)) >= 2, "two runs")
    for lease in list(begun(results).values())[:2]:
        os.kill(lease["pid"], signal.SIGKILL)


def requeue_two(results: Path) -> None:
    until(lambda: len(begun(results)) >= 2, "two runs")
    jobs = [job_of(lease) for lease in list(begun(results).values())[:2]]
    told = [subprocess.run(["scontrol", "requeue", job], capture_output=True, timeout=30) for job in jobs]
    assert 0 in [done.returncode for done in told]  # one may have ended meanwhile


def time_limit_for_two(results: Path) -> None:
    """The signal that comes before the time limit, sent at once."""
    until(lambda: len(begun(results)) >= 2, "two runs")
    for lease in list(begun(results).values())[:2]:
        subprocess.run(["scancel", "--signal=USR2", job_of(lease)], check=True, capture_output=True)


def fail_a_node(results: Path) -> None:
    """Slurm ends the jobs of a node that is down, and puts them back into the queue."""
    until(lambda: len(begun(results)) >= 2, "two runs")
    job = job_of(next(iter(begun(results).values())))
    told = subprocess.run(["squeue", "-h", "-j", job, "-o", "%N"], capture_output=True, text=True, check=True)
    node = f"NodeName={told.stdout.strip()}"
    scontrol("update", node, "State=DOWN", "Reason=test")
    time.sleep(5)
    subprocess.run(
        ["scontrol", "update", node, "State=RESUME"], capture_output=True
    )  # it may be back by itself


def restart_the_controller(results: Path) -> None:
    until(lambda: begun(results), "a run")
    told = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True).stdout
    (file,) = [
        line.split("=", 1)[1].strip() for line in told.splitlines() if line.startswith("SlurmctldPidFile")
    ]
    controller = int(Path(file).read_text())
    os.kill(controller, signal.SIGKILL)
    time.sleep(3)
    subprocess.run(
        ["slurmctld", "-f", os.environ["SLURM_CONF"]],
        check=True,
        env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"},
    )


def everything(results: Path) -> None:
    """Of the first two runs one is killed and one put back, of the next two one gets the signal; and the controller."""
    until(lambda: len(begun(results)) >= 2, "two runs")
    (first, one), (second, other) = list(begun(results).items())[:2]
    os.kill(one["pid"], signal.SIGKILL)
    scontrol("requeue", job_of(other))
    until(lambda: set(begun(results)) - {first, second}, "a third run")
    (third,) = [lease for name, lease in begun(results).items() if name not in (first, second)][:1]
    subprocess.run(["scancel", "--signal=USR2", job_of(third)], check=True, capture_output=True)
    restart_the_controller(results)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finished(sweep(folder))
    return folder


def assert_equal_tables(results: Path, undisturbed: Path) -> None:
    names = sorted(path.name for path in undisturbed.glob("*-*"))
    assert len(names) == 4 and sorted(path.name for path in results.glob("*-*")) == names
    for name in names:
        assert result(results, name) == result(undisturbed, name)


@pytest.mark.parametrize(
    "disturb",
    [
        requeue_two,  # a SIGKILL by Slurm too, and the queue
        *(
            pytest.param(how, marks=pytest.mark.nightly)
            for how in (everything, kill_two, time_limit_for_two, restart_the_controller, fail_a_node)
        ),
    ],
)
def test_a_disturbed_sweep_is_complete_and_equals_an_undisturbed_one(tmp_path, undisturbed, disturb):
    results = tmp_path / "results"
    process = sweep(results, *SLURM)
    try:
        disturb(results)
    finally:
        output = finished(process)
    assert_equal_tables(results, undisturbed)
    assert "Slurm job" in output
    assert {run.state for run in states(results)} == {"finished"}


@pytest.mark.nightly
def test_cancelled_and_swept_again(tmp_path, undisturbed):
    results = tmp_path / "results"
    process = sweep(results, *SLURM)
    until(lambda: begun(results), "a run")
    process.send_signal(signal.SIGINT)
    assert "scancel" in finished(process, status=130)
    assert begun(results)  # the jobs go on
    subprocess.run(["scancel", "--user", getpass.getuser()], check=True)
    until(lambda: not [run for run in states(results) if run.state == "running"], "the jobs' end")
    assert not (results / "summary.csv").exists()
    left = [run.state for run in states(results)]
    assert len(left) == 4 and set(left) <= {"interrupted", "planned", "finished"} and "interrupted" in left
    finished(sweep(results, *SLURM))
    assert_equal_tables(results, undisturbed)


@pytest.mark.nightly
def test_a_job_that_reaches_its_time_limit_again_and_again_resumes_until_it_is_done(tmp_path):
    argv = ("epochs=60", "prune=dpf", "seed=0", "launcher.timeout_min=1", "launcher.signal_delay_s=30")
    results = tmp_path / "limited"
    finished(sweep(results, *SLURM, *argv))
    (folder,) = results.glob("*-*")
    assert (folder / "log.txt").read_text().count(": from step ") >= 2
    finished(sweep(tmp_path / "undisturbed", *argv[:3]))
    assert result(results, folder.name) == result(tmp_path / "undisturbed", folder.name)


@pytest.mark.nightly
@pytest.mark.parametrize("number", ["USR1", "TERM"])
def test_the_batch_script_puts_its_job_back_into_the_queue_but_not_when_it_is_cancelled(
    tmp_path, undisturbed, number
):
    script = ROOT / "scripts" / "train.sbatch"
    command = tmp_path / "sparsebench"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sparsebench "$@"\n')
    command.chmod(0o755)
    argv = [word.replace("dpf,gmp", "dpf").replace("0,1", "0") for word in RUNS]
    batch = ["sbatch", "--parsable", "--time=5", "--mem=1000", f"--output={tmp_path}/out", str(script)]
    environment = {**os.environ, "SPARSEBENCH": str(command)}
    results = tmp_path / "results"
    done = subprocess.run(
        [*batch, *argv, f"results_dir={results}"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    until(lambda: begun(results), "the run")
    subprocess.run(
        ["scancel", *(["--signal=USR1"] if number == "USR1" else []), done.stdout.strip()], check=True
    )
    if number == "USR1":
        until(lambda: results.is_dir() and {run.state for run in states(results)} == {"finished"}, "the end")
        (folder,) = results.glob("*-*")
        assert (folder / "log.txt").read_text().count(": from step ") == 2
        assert result(results) == result(undisturbed, folder.name)
    else:
        left = [
            "squeue",
            "--noheader",
            "--states=PENDING,RUNNING,COMPLETING,SUSPENDED",
            f"--jobs={done.stdout.strip()}",
        ]
        until(lambda: not subprocess.run(left, capture_output=True, text=True).stdout, "the end of the job")
        assert {run.state for run in states(results)} == {"interrupted"}


@pytest.mark.nightly
def test_a_sweep_of_a_theory_study_ends_on_slurm_as_it_does_here(tmp_path):
    study = (
        "study=overparam_prune_network",
        "study.images=400",
        "study.n=30",
        "study.keep=8",
        "study.features=[8,60]",
    )
    command = [sys.executable, "-m", "sparsebench", "sweep", *study, "study.seeds=3", "study.seed=0,1"]
    for name, argv in (("here", ()), ("slurm", SLURM)):
        done = subprocess.run(
            [*command, f"results_dir={tmp_path / name}", *argv],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    for table in ("overparam_prune_network.csv", "summary.csv"):
        here, there = (sorted((tmp_path / name).glob(f"*/{table}")) for name in ("here", "slurm"))
        assert len(here) == 2
        assert [path.read_bytes() for path in here] == [path.read_bytes() for path in there]
