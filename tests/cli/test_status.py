"""Status, logs and merge: what they say of runs in every state."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparsebench.cli import main
from sparsebench.files import read_csv, write_csv, write_json
from sparsebench.records.lease import Lease
from sparsebench.records.states import ResultsFolder, states
from tests.support.processes import PATIENCE, running, until

TINY = ("model=mlp", "epochs=2", "device=cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two finished runs of a sweep."""
    folder = tmp_path_factory.mktemp("made")
    assert main(["sweep", *TINY, "prune=dpf", "seed=0,1", f"results_dir={folder}"]) == 0
    return folder


@pytest.fixture
def results(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


def run_ids(results: Path) -> list[str]:
    return [path.name.rpartition("-")[2] for path in sorted(results.glob("*-*"))]


def unfinished(results: Path, number: int = 0) -> str:
    folder = sorted(results.glob("*-*"))[number]
    (folder / "summary.csv").unlink()
    return folder.name.rpartition("-")[2]


def said(capsys, *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def test_finished_runs_are_counted_and_listed_on_request(results, capsys):
    assert said(capsys, "status", str(results)).splitlines()[0] == "2 runs: 2 finished"
    text = said(capsys, "status", str(results), "--all")
    assert all(i in text for i in run_ids(results))
    told = json.loads(said(capsys, "status", str(results), "--format", "json"))
    (row,) = read_csv(sorted(results.glob("*-*"))[0] / "summary.csv")
    assert told[0]["state"] == "finished" and told[0]["top1"] == row["top1"]


def test_a_run_without_a_holder_is_interrupted_and_with_one_it_runs(results, capsys):
    run_id = unfinished(results)
    text = said(capsys, "status", str(results))
    assert "1 interrupted, 1 finished" in text and " 2.0 " in text  # its last evaluation
    with Lease.claim(results / ".state", run_id) as lease:
        lease.progress = lambda: {
            "epoch": 1.5,
            "epochs": 2,
            "val_top1": 12.34,
            "images_per_second": 5.0,
            "eta": 3661,
        }
        lease.renew()
        text = said(capsys, "status", str(results))
        assert "1 running, 1 finished" in text and "0 s ago" in text
        assert all(part in text for part in ("1.5/2", "12.34", "1:01:01", f"process {os.getpid()} on"))
    assert "1 interrupted" in said(capsys, "status", str(results))


def test_a_failed_run_shows_its_error_until_it_is_begun_again(results, capsys):
    run_id = unfinished(results)
    write_json(results / ".state" / f"{run_id}.failed", {"error": "out of\nmemory"})
    found = {run.run_id: run for run in states(results)}[run_id]
    assert (found.state, found.error) == ("failed", "out of\nmemory")
    argv = [*TINY, "prune=dpf", "seed=0", f"results_dir={results}"]
    assert main(["train", *argv]) == 0
    assert {run.state for run in states(results)} == {"finished"}


def test_a_diverged_run_is_said_to_be_so(results, capsys):
    path = sorted(results.glob("*-*"))[0] / "summary.csv"
    (row,) = read_csv(path)
    write_csv(path, list(row), [{**row, "status": "diverged"}])
    assert "1 diverged, 1 finished" in said(capsys, "status", str(results))


def test_what_a_sweep_wants_is_planned_and_queued_while_it_lives(results, capsys):
    shutil.rmtree(sorted(results.glob("*-*"))[0])
    (sweep,) = (results / ".sweeps").iterdir()
    text = said(capsys, "status", str(results))
    assert "1 planned, 1 finished" in text and "prune=dpf seed=0" in text
    with Lease.claim(results / ".state", f"sweep-{sweep.name}"):
        assert "1 queued, 1 finished" in said(capsys, "status", str(results))


def test_a_run_of_several_trainings_is_one(tmp_path, capsys):
    argv = ["prune=lottery", "prune.rounds=2", "sparsity=0.5", *TINY, f"results_dir={tmp_path}"]
    assert main(["train", *argv]) == 0
    capsys.readouterr()
    (run,) = states(tmp_path)
    assert run.state == "finished" and "-training2-" in run.name
    assert main(["train", *argv]) == 0
    assert "training2" in capsys.readouterr().out
    (last,) = tmp_path.glob("*-training2-*")
    (last / "summary.csv").unlink()
    (run,) = states(tmp_path)
    assert run.state == "interrupted"
    assert main(["sweep", *argv, "--dry-run"]) == 0
    assert "1 runs, 0 of them finished" in capsys.readouterr().out


def test_status_of_a_folder_of_results_folders_has_them_all(results, made, tmp_path, capsys):
    shutil.copytree(made, tmp_path / "more")
    assert "4 runs: 4 finished" in said(capsys, "status", str(tmp_path))


def test_watching_continues_until_ctrl_c(results):
    with running("status", str(results), "--watch", "0.2") as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) in (0, 130)
    assert lines[0] == lines[1] == lines[2] == "2 runs: 2 finished\n"


def test_the_log_of_a_run_is_found_by_folder_name_or_run_id(results, capsys):
    folder = sorted(results.glob("*-*"))[0]
    text = said(capsys, "logs", str(folder))
    assert text == (folder / "log.txt").read_text()
    assert "from step 0 of 42" in text and "epoch 2/2" in text and "finished: top1" in text
    run_id = folder.name.rpartition("-")[2]
    assert said(capsys, "logs", run_id, str(results), "-n", "1") == text.splitlines(keepends=True)[-1]
    assert said(capsys, "logs", folder.name, str(results)) == text


def test_a_log_is_followed(results):
    (folder, _) = sorted(results.glob("*-*"))
    with running("logs", str(folder), "-n", "1", "-f") as process:
        assert "finished" in process.stdout.readline()
        with open(folder / "log.txt", "a") as file:
            file.write("one more\n")
        assert process.stdout.readline() == "one more\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) in (0, 130)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["status", "nowhere"], "path=nowhere: expected a folder of results"),
        (["status", ".", "--format", "xml"], "--format=xml: expected one of text, json"),
        (["status", ".", "--watch", "0"], "--watch=0.0: expected a number of seconds above 0"),
        (["logs", "digits", "RESULTS"], "run=digits: expected one run in"),
        (["logs", "nothing", "RESULTS"], "run=nothing: expected a run in"),
        (["logs", "x", "nowhere"], "results=nowhere: expected a folder of results"),
        (["merge", "nowhere", "-o", "x"], "RESULTS=nowhere: expected a folder of results"),
        (["merge", "EMPTY", "-o", "x"], "a folder with finished runs in it"),
    ],
)
def test_bad_input_is_one_line(results, tmp_path, capsys, argv, said):
    (tmp_path / "empty").mkdir()
    argv = [{"RESULTS": str(results), "EMPTY": str(tmp_path / "empty")}.get(word, word) for word in argv]
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_results_of_two_clusters_come_together(results, made, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(made, other)
    shutil.rmtree(sorted(other.glob("*-*"))[0])
    shutil.rmtree(sorted(results.glob("*-*"))[1])
    merged = tmp_path / "merged"
    argv = ["merge", str(results), str(other), "-o", str(merged)]
    assert "2 runs would be copied" in said(capsys, *argv, "--dry-run") and not merged.exists()
    assert "2 runs copied, 0 exist with the same result, 0 differ" in said(capsys, *argv)
    for folder in sorted(made.glob("*-*")):
        names = sorted(path.name for path in folder.iterdir())
        assert [(merged / folder.name / n).read_bytes() for n in names] == [
            (folder / n).read_bytes() for n in names
        ]
    assert "0 runs copied, 2 exist with the same result" in said(capsys, *argv)
    assert not list(merged.glob("**/*.tmp")) and {run.state for run in states(merged)} == {"finished"}


def test_a_run_with_another_result_is_named_and_nothing_is_overwritten(results, made, tmp_path, capsys):
    path = sorted(results.glob("*-*"))[0] / "summary.csv"
    (row,) = read_csv(path)
    write_csv(path, list(row), [{**row, "top1": "12.5", "seconds": "9"}])
    merged = tmp_path / "merged"
    assert main(["merge", str(made), str(results), "-o", str(merged)]) == 1
    error = capsys.readouterr().err
    assert f"top1 {row['top1']} and 12.5" in error.replace(
        "12.5 and " + row["top1"], f"{row['top1']} and 12.5"
    )
    assert "seconds" not in error and len(error.splitlines()) == 1
    assert read_csv(merged / path.parent.name / "summary.csv") == [row]


def test_a_run_that_is_being_made_is_not_merged_over(results, made, capsys):
    run_id = unfinished(results)
    with Lease.claim(results / ".state", run_id):
        assert main(["merge", str(made), "-o", str(results)]) == 1
        assert "is held by process" in capsys.readouterr().err
    assert main(["merge", str(made), "-o", str(results)]) == 0
    assert ResultsFolder(results).state(run_id).state == "finished"


@pytest.mark.slow
@pytest.mark.nightly
def test_two_equal_sweeps_at_once_share_the_work_and_do_no_run_twice(tmp_path):
    argv = ["prune=gmp", "seed=0,1,2", "model=resnet", "model.depth=8", "epochs=2", "device=cpu", "launcher=local",
             "launcher.n_jobs=1", f"results_dir={tmp_path}"]  # fmt: skip
    command = [sys.executable, "-m", "sparsebench", "sweep", *argv]
    sweeps = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [sweep.communicate(timeout=PATIENCE)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], outputs
    folders = sorted(tmp_path.glob("*-*"))
    assert len(folders) == 3
    for folder in folders:
        log = (folder / "log.txt").read_text()
        assert log.count("from step ") == 1 and log.count("finished: top1") == 1
    assert not list((tmp_path / ".state").iterdir())


def test_a_failed_run_stops_no_other_and_is_tried_again(tmp_path, monkeypatch, capsys):
    broken = tmp_path / "methods"
    (broken / "prune").mkdir(parents=True)
    (broken / "prune" / "flaky.yaml").write_text("_target_: flaky_method.Flaky\n")
    (broken / "flaky_method.py").write_text(
        "import os\nfrom pathlib import Path\nfrom sparsebench.pruning.methods.dense import Dense\n"
        "class Flaky(Dense):\n"
        "    def before_forward(self, step):\n"
        f"        tried = Path({str(tmp_path)!r}, 'tried')\n"
        "        if step == 5 and (not tried.exists() or os.environ.get('ALWAYS')):\n"
        "            tried.touch()\n            raise RuntimeError('a bad\\nday')\n"
    )
    monkeypatch.syspath_prepend(str(broken))
    argv = ["sweep", f"--config-dir={broken}", "prune=flaky,gmp", *TINY]

    assert main([*argv, f"results_dir={tmp_path / 'retried'}"]) == 0
    assert {run.state for run in states(tmp_path / "retried")} == {"finished"}
    monkeypatch.setenv("ALWAYS", "1")
    capsys.readouterr()
    failed = tmp_path / "failed"
    assert main([*argv, f"results_dir={failed}", "retries=0"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        "1 of 2 runs are not finished: --config-dir" in last
        or "1 of 2 runs are not finished: prune=flaky" in last
    )
    assert last.endswith("a bad day")
    found = {run.name.split("-")[2]: run for run in states(failed)}
    assert (found["flaky"].state, found["flaky"].error) == ("failed", "a bad day")
    assert found["gmp"].state == "finished"
    assert "RuntimeError: a bad" in (found["flaky"].folder / "log.txt").read_text()
    monkeypatch.delenv("ALWAYS")
    assert main([*argv, f"results_dir={failed}"]) == 0


def test_gpus_are_given_in_turn_and_cores_are_shared(monkeypatch):
    from sparsebench.distributed.threads import available_cores
    from sparsebench.sweeps.launchers import LocalLauncher

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert LocalLauncher().gpus == ["4", "6", "7"] and LocalLauncher().n_jobs == 3
    assert LocalLauncher(n_jobs=5, gpus=[0, 1]).gpus == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("sparsebench.distributed.threads.busy_cores", lambda: 0.0)
    cores = available_cores()
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert LocalLauncher().n_jobs == len(os.sched_getaffinity(0))
    assert LocalLauncher(n_jobs=cores).threads == 1
    assert LocalLauncher(n_jobs=1).threads == min(cores, 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert LocalLauncher(n_jobs=1).threads == 3


@pytest.mark.slow
@pytest.mark.nightly
def test_a_sweep_that_gets_a_stop_signal_stops_its_runs_which_go_on_later(tmp_path):
    argv = ["prune=gmp", "seed=0,1", "model=resnet", "model.depth=8", "epochs=6", "device=cpu", "launcher=local",
             "launcher.n_jobs=2", f"results_dir={tmp_path}"]  # fmt: skip
    with running("sweep", *argv) as sweep:
        metrics = lambda: list(tmp_path.glob("*-*/metrics.csv"))  # noqa: E731
        until(lambda: metrics() or sweep.poll() is not None, "an evaluation")
        sweep.send_signal(signal.SIGTERM)
        output, _ = sweep.communicate(timeout=PATIENCE)
        assert sweep.returncode == 143, output
    assert "running" not in {run.state for run in states(tmp_path)}
    assert list(tmp_path.glob("*-*/checkpoint.pt"))
    assert main(["sweep", *argv]) == 0
    assert {run.state for run in states(tmp_path)} == {"finished"}
