"""Trackers show what metrics.csv has, and never stop a run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from sparsebench.cli import main
from sparsebench.files import read_csv
from tests.support.processes import PATIENCE, until

TINY = ("model=mlp", "model.hidden=[20]", "device=cpu", "epochs=2", "prune=gmp")
PACKAGES = ("tensorboard", "wandb", "mlflow")


def installed(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def train(results, *argv):
    """In a process of its own: these packages warn, start threads and change global state."""
    command = [sys.executable, "-m", "sparsebench", "train", *TINY, *argv, f"results_dir={results}"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    (folder,) = results.glob("digits-*")
    return folder, done.stderr


def logged(folder):
    """(column, step) -> value of metrics.csv."""
    return {
        (column, int(row["step"])): float(value)
        for row in read_csv(folder / "metrics.csv")
        for column, value in row.items()
        if value and column != "step"
    }


def told(code: str, place: str) -> dict[tuple[str, int], float]:
    """(column, step) -> value, of the lines that ``code`` prints of what a tracker has written at ``place``."""
    done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True)
    return {(name, int(step)): float(value) for name, step, value in map(str.split, done.stdout.splitlines())}


@installed("tensorboard")
def test_tensorboard_has_the_columns_of_metrics_and_the_result(tmp_path):
    folder, errors = train(tmp_path, "tracker=tensorboard")
    assert "failed" not in errors
    code = (
        "import sys; from tensorboard.backend.event_processing.event_accumulator import EventAccumulator as E\n"
        "e = E(sys.argv[1]); e.Reload()\n"
        "for t in e.Tags()['scalars']:\n"
        "    for s in e.Scalars(t): print(t, s.step, s.value)\n"
    )
    found = told(code, str(folder / "tensorboard"))
    points = {key: value for key, value in found.items() if not key[0].startswith("summary/")}
    assert points == pytest.approx(logged(folder), rel=1e-6)
    (row,) = read_csv(folder / "summary.csv")
    assert found["summary/top1", int(row["steps"])] == pytest.approx(float(row["top1"]), rel=1e-6)


@pytest.mark.slow
@installed("wandb")
def test_wandb_writes_an_offline_run_under_the_runs_own_id(tmp_path):
    folder, errors = train(tmp_path, "tracker=wandb")
    assert "failed" not in errors
    (row,) = read_csv(folder / "summary.csv")
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert file.name == f"run-{row['run_id']}.wandb"
    content = file.read_bytes()
    assert all(word in content for word in (b"val_top1", b"mask_flips", row["command"].split()[1].encode()))


@pytest.mark.slow
@installed("mlflow")
def test_mlflow_has_the_columns_of_metrics_and_the_result(tmp_path):
    folder, errors = train(tmp_path, "tracker=mlflow")
    assert "failed" not in errors
    code = (
        "import sys; from mlflow import MlflowClient\n"
        "c = MlflowClient(sys.argv[1]); e = c.get_experiment_by_name('sparsebench')\n"
        "(r,) = c.search_runs([e.experiment_id])\n"
        "for m in r.data.metrics:\n"
        "    for p in c.get_metric_history(r.info.run_id, m): print(m, p.step, p.value)\n"
    )
    found = told(code, f"sqlite:///{tmp_path}/mlflow.db")
    assert {k: v for k, v in found.items() if not k[0].startswith("summary.")} == pytest.approx(
        logged(folder)
    )
    (row,) = read_csv(folder / "summary.csv")
    assert found["summary.top1", int(row["steps"])] == pytest.approx(float(row["top1"]))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_tracker_that_is_not_installed_is_one_line_before_anything_is_written(package, tmp_path, capsys):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    assert main(["train", *TINY, f"tracker={package}", f"results_dir={tmp_path}/runs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sparsebench: error: tracker={package}: ") and f"sparsebench[{package}]" in line
    assert not (tmp_path / "runs").exists()


FLAKY = '''
from sparsebench.trackers.tracker import Tracker


class Flaky(Tracker):
    """Writes what it is told to a file, and fails when asked."""

    def __init__(self, file, fails=""):
        self.file, self.fails = file, fails

    def _say(self, what, text):
        with open(self.file, "a") as file:
            print(what, text, file=file)
        if what == self.fails:
            raise ConnectionError("no route to host")

    def start(self, run):
        self._say("start", f"{run.run_id} {run.resumed}")

    def log(self, step, values):
        self._say("log", f"{step} {' '.join(values)}")

    def finish(self, row):
        self._say("finish", row["top1"])
'''


@pytest.fixture
def flaky(tmp_path, monkeypatch):
    """Words that choose a tracker of another package."""
    (tmp_path / "conf" / "tracker").mkdir(parents=True)
    (tmp_path / "conf" / "tracker" / "flaky.yaml").write_text(
        f"_target_: flaky.Flaky\nfile: {tmp_path}/told\nfails: ''\n"
    )
    (tmp_path / "flaky.py").write_text(FLAKY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    return [f"--config-dir={tmp_path}/conf", *TINY, "tracker=flaky", f"results_dir={tmp_path}/runs"]


def test_a_tracker_is_told_every_evaluation_and_the_result_and_is_no_part_of_the_name(flaky, tmp_path):
    assert main(["train", *flaky]) == 0
    (folder,) = (tmp_path / "runs").glob("digits-*")
    told = (tmp_path / "told").read_text().splitlines()
    (row,), metrics = read_csv(folder / "summary.csv"), read_csv(folder / "metrics.csv")
    assert told[0] == f"start {row['run_id']} False" and told[-1] == f"finish {row['top1']}"
    assert [line.split()[1] for line in told[1:-1]] == [r["step"] for r in metrics]
    assert told[1].split()[2:] == [
        column for column, value in metrics[0].items() if value and column != "step"
    ]
    assert main(["train", *TINY, f"results_dir={tmp_path}/plain"]) == 0
    (plain,) = (tmp_path / "plain").glob("digits-*")
    assert plain.name == folder.name
    assert (plain / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("moment", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_one_warning_and_the_run_continues(moment, flaky, tmp_path, capsys):
    assert main(["train", *flaky, f"tracker.fails={moment}"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "Flaky" in line]
    assert warnings == ["sparsebench: Flaky failed, the run continues without it: no route to host"]
    told = [line.split()[0] for line in (tmp_path / "told").read_text().splitlines()]
    assert (
        told
        == {"start": ["start"], "log": ["start", "log"], "finish": ["start", "log", "log", "finish"]}[moment]
    )
    (folder,) = (tmp_path / "runs").glob("digits-*")
    assert (folder / "summary.csv").exists()


@pytest.mark.slow
@pytest.mark.nightly
def test_a_run_that_resumes_says_so_to_its_tracker(flaky, tmp_path):
    import signal

    argv = ["epochs=400", "save_every=1it", "eval_every=5it", "schedule.interval=4it"]
    command = [sys.executable, "-m", "sparsebench", "train", *flaky, *argv]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    told = tmp_path / "told"
    until(lambda: told.exists() and told.read_text().count("log") > 2, "three evaluations")
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = told.read_text().splitlines()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: told.read_text().count("\nlog") >= len(before) + 1, "more evaluations")
    process.send_signal(signal.SIGKILL)
    process.wait()
    after = told.read_text().splitlines()[len(before) :]
    name = before[0].split()[1]
    assert before[0] == f"start {name} False" and after[0] == f"start {name} True"
    first, last = int(after[1].split()[1]), int(before[-1].split()[1])
    assert first <= last + 5  # it goes on, it does not skip
    assert first > 5  # nor start again
