"""The command line as a person meets it: real processes, or main() where only words matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout, suppress

import pytest

from sparsebench.cli import main
from sparsebench.cli.list import labels
from sparsebench.cli.subcommand import Section, subcommands
from tests.support import ROOT
from tests.support.configs import options


def run(*argv, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "sparsebench", *argv],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        **kwargs,
    )


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["_complete", "sparsebench train mod"], ["list"]]
)
def test_what_must_answer_at_once_imports_nothing_heavy(argv):
    code = (
        "import sys; from sparsebench.cli import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'pandas', 'hydra', 'omegaconf', 'numpy', 'matplotlib', 'tqdm'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_help_names_every_command_and_says_what_digits_are(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.split("examples:")[0].splitlines() if line.startswith("  ")] == [
        *subcommands()
    ]
    assert all(f"\n{section.value}:\n" in text for section in Section)
    assert all(f"  {example}\n" in text for command in subcommands().values() for example in command.examples)
    assert "default data set is digits" in text


def test_subcommands_are_in_the_order_in_which_they_are_used():
    assert [*subcommands()][:4] == ["train", "sweep", "theory", "status"]


@pytest.mark.parametrize("name", subcommands())
def test_every_subcommand_has_a_help_of_its_own(name, capsys):
    command = subcommands()[name]
    assert command.help and (command.arguments is None) == bool(command.config)
    if command.arguments:
        assert main([name, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert text.startswith(f"usage: sparsebench {name} ")
        assert " ".join((command.description or command.help).split()) in text


def test_a_mistyped_command_gets_a_suggestion(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_list_prints_every_option_with_a_description_and_methods_with_their_paper(capsys):
    assert main(["list", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    found = {label: options(group) for label, group in labels().items()}
    found |= {"commands": [*subcommands()]}
    found["figures"] = sorted(path.stem for path in (ROOT / "sparsebench/report/figures").glob("[!_]*.py"))
    assert {label: [entry["name"] for entry in listed[label]] for label in listed} == found
    assert {"methods", "models", "datasets", "evaluations", "scales", "theory"} <= found.keys()
    assert all(entry["description"] for found in listed.values() for entry in found)
    for label in ("models", "datasets", "methods", "schedules", "allocations"):
        assert all(entry["reference"] for entry in listed[label])
    dpf = next(entry for entry in listed["methods"] if entry["name"] == "dpf")
    assert dpf["reference"].endswith('"Dynamic Model Pruning with Feedback", ICLR 2020')


def test_list_describes_what_a_package_passes_on_and_survives_an_empty_group(tmp_path, capsys, monkeypatch):
    from sparsebench import paths as location

    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "sgd.yaml").write_text("_target_: torch.optim.SGD\n")
    (tmp_path / "optimizer" / "gone.yaml").write_text("_target_: torch.optim.NoSuch\n")
    (tmp_path / "recipe").mkdir()
    monkeypatch.setattr(location, "config_dir", lambda: tmp_path)
    assert main(["list"]) == 0
    assert "  sgd   Implements stochastic gradient descent" in capsys.readouterr().out


def test_list_of_nothing_known_is_refused(capsys):
    assert main(["list", "method"]) == 2
    assert "did you mean 'methods'?" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["list"], ["list", "--help"]])
def test_a_reader_that_goes_away_is_no_error_message(argv):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "sparsebench", *argv], stdout=writer, stderr=subprocess.PIPE, env=environment
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_words_that_a_parser_refuses_are_status_2(capsys):
    assert main(["compare"]) == 2
    assert "PATH" in capsys.readouterr().err
    assert main(["completion", "tcsh"]) == 2
    assert "completion=tcsh: expected one of bash, zsh, fish" in capsys.readouterr().err


BAD = [
    ("sparsity=1.2", "sparsity=1.2", "[0, 1)"),
    ("sparsity=-0.1", "sparsity=-0.1", "[0, 1)"),
    ("sparsity=high", "sparsity=high", "a number"),
    ("prune=dpff", "prune=dpff", "did you mean 'dpf'?"),
    ("model.depth=21", "model.depth=21", "20, 32, 44, 56 or 110"),
    ("dataset=nosuch", "dataset=nosuch", "cifar10"),
    ("epochs=0", "epochs=0", "an integer in [1, 1000000]"),
    ("epochs=1.5", "epochs=1.5", "an integer"),
    ("batch_size=0", "batch_size=0", "an integer in [1, 1000000]"),
    ("seed=-1", "seed=-1", "an integer in [0, 2**63)"),
    ("device=cuda", "device=cuda", "cpu"),
    ("precision=fp8", "precision=fp8", "bf16"),
    ("compile=maybe", "compile=maybe", "true or false"),
    ("sparsityy=0.5", "sparsityy=0.5", "did you mean 'sparsity'?"),
    ("ramp_end=soon", "ramp_end=soon", "a time"),
    ("schedule.interval=0", "schedule.interval=0", "a time, above 0"),
    ("optimizer.lr=-1", "optimizer.lr=-1", "a number, at least 0"),
    ("model=lenet", "model=lenet", "12 pixels"),
    ("model=torchvision", "model=torchvision", "3 channels"),
    ("dataset.channels=0", "dataset.channels=0", "an integer in [1, 64]"),
    ("sparsity", "sparsity", "key=value"),
    ("accumulate=0", "accumulate=0", "an integer in [1, 1000000]"),
    ("eval_every=never", "eval_every=never", "a time"),
    ("allocation=from_file", "allocation.path", "a value"),
    ("+allocation.path=/nowhere", "allocation.path=/nowhere", "an existing setting"),
    ("+foo=1", "foo=1", "an existing setting"),
    ("dataset.val_fraction=1.5", "dataset.val_fraction=1.5", "in (0, 1)"),
    ("lr_schedule.milestones=[150,225]", "lr_schedule.milestones=150", "150ep for epochs or 150it for steps"),
    ("lr_schedule.warmup=5", "lr_schedule.warmup=5", "5ep for epochs or 5it for steps"),
    ("ramp_end=30", "ramp_end=30", "30ep for epochs or 30it for steps"),
    ("schedule.interval=16", "schedule.interval=16", "16ep for epochs or 16it for steps"),
    ("eval_every=2", "eval_every=2", "2ep for epochs or 2it for steps"),
    ("save_every=2", "save_every=2", "2ep for epochs or 2it for steps"),
    ("lr_schedule.milestones=half", "lr_schedule.milestones=half", "a list"),
    ("seed=1208925819614629174706176", "seed=1208925819614629174706176", "an integer in [0, 2**63)"),
    ("extend=nan", "extend=nan", "a number in (0, 1000]"),
    ("clip_norm=-1", "clip_norm=-1", "a number, above 0, or null"),
    ("prune=null", "prune=null", "one of acdc"),
    ("evaluate=null", "evaluate=null", "one of bn_recalibration"),
    ("~model", "model=null", "one of lenet"),
    ("~seed", "seed", "it cannot be removed"),
    ("=3", "=3", "key=value"),
    ("data_root=''", "data_root=''", "a path"),
    ("prune._target_=nowhere.Method", "prune._target_=nowhere.Method", "class or function"),
    ("model._target_=builtins.int", "model._target_=builtins.int", "class or function"),
    ("dataset.mean=[125.3]", "dataset.mean=[125.3]", "in [0, 1]"),
    ("dataset.pad=1000", "dataset.pad=1000", "an integer in [0, 8]"),
    ("epochs=1000000000000", "epochs=1000000000000", "an integer in [1, 1000000]"),
    ("accumulate=65", "accumulate=65", "at most batch_size, 64"),
    ("prune=dpf.yaml", "prune=dpf.yaml", "not that of a file"),
    ("prunable=null", "prunable.", "true or false"),
    ("+prunable.foo=1", "prunable.foo=1", "an existing setting"),
    ("sparsity=${nowhere}", "config", "'nowhere' not found"),
    ("seed=0,1", "seed=0,1", "sparsebench sweep takes several"),
    ("precision=bf8", "precision=bf8", "one of fp32"),
    ("--nowhere", "--nowhere", "an existing option"),
    ("--config-dir=/nowhere", "--config-dir=/nowhere", "an existing folder"),
    ("--resolve", "--resolve", "--cfg job"),
]


@pytest.mark.parametrize(("word", "named", "allowed"), BAD)
def test_bad_input_gets_one_line_and_status_2_and_writes_nothing(
    word, named, allowed, tmp_path, capsys, monkeypatch
):
    import torch

    if word == "device=cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    assert main(["train", word, f"results_dir={results}"]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith(f"sparsebench: error: {named}")
    assert allowed in lines[0]
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


BROKEN = {
    "a: [1\n": ("line 2", "YAML"),
    "a:\n\tb: 1\n": ("line 2", "YAML"),
    b"a: \xff\xfe\n": ("broken.yaml", "UTF-8"),
    "- 1\n": ("prune._target_", "class or function"),
    "defaults: 3\n": ("config", "composes"),
    "a: &a [*a]\n": ("config", "composes"),
    "_target_: nowhere.Method\n": ("prune._target_=nowhere.Method", "class or function"),
    "_target_: sparsebench.pruning.methods.dpf.DPF\ngradient: x  # one of feedback, masked\n": (
        "prune.gradient=x",
        "one of feedback, masked",
    ),
}


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("separate", [False, True])
def test_a_broken_file_of_a_config_dir_is_named_wherever_the_flag_is(
    content, separate, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "prune").mkdir(parents=True)
    text = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "conf" / "prune" / "broken.yaml").write_bytes(text)
    flag = ["--config-dir", "conf"] if separate else ["--config-dir=conf"]
    assert main(["train", *flag, "prune=broken", "results_dir=runs"]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    named, allowed = BROKEN[content]
    assert named in line.partition(": expected ")[0] and allowed in line and captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]


def test_dsr_without_a_kept_weight_is_refused(tmp_path, capsys):
    argv = ["model=mlp", "model.hidden=[8]", "device=cpu", "prune=dsr", "sparsity=0.99999"]
    assert main(["train", *argv, f"results_dir={tmp_path}/runs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "sparsebench: error: sparsity=0.99999: expected at least one of the 512 prunable weights"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_never_waited_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "prune").mkdir(parents=True)
    os.mkfifo(tmp_path / "conf" / "prune" / "pipe.yaml")
    os.mkfifo(tmp_path / "pipe")
    for argv in (
        ["train", "--config-dir=conf", "prune=pipe"],
        ["train", "model=mlp", "allocation=from_file", "allocation.path=pipe"],
        ["train", "model=mlp", "allocation=from_file", "allocation.path=/dev/zero"],
        ["train", "model=mlp", "prune=magnitude_init", "score=trained", "score.path=pipe"],
        ["compare", "pipe"],
    ):
        assert main(argv) == 2, argv
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("sparsebench: error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf", "pipe"]


@pytest.mark.parametrize("name", [name for name, command in subcommands().items() if command.arguments])
def test_an_empty_argument_and_an_unknown_option_are_one_line(name, capsys):
    for argv in ([name, ""], [name, "--no-such-option"]):
        assert main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("sparsebench: error: ")


def test_multirun_of_train_is_a_sweep(tmp_path, capsys):
    for flag in ("-m", "--multirun", "hydra.mode=MULTIRUN"):
        assert main(["train", flag, "model=mlp", "seed=0,1", "--dry-run", f"results_dir={tmp_path}"]) == 0
        assert "2 runs" in capsys.readouterr().out


def test_the_help_shows_what_settings_allow(capsys):
    assert main(["train", "--help", "prune=dpf"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("clip_norm: null ") and "# number > 0 or null; " in line for line in lines)
    assert any(
        line.startswith("  gradient: feedback ") and "# one of feedback, masked" in line for line in lines
    )
    assert main(["theory", "--help", "study=shallow_relu"]) == 0
    assert "# list of int in [4, 10000] or []" in capsys.readouterr().out


def test_missing_images_are_named_with_the_place_looked_at(tmp_path, capsys, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there: no network
    assert (
        main(["train", "dataset=cifar10", f"data_root={tmp_path}/none", f"results_dir={tmp_path}/runs"]) == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"sparsebench: error: data_root={tmp_path}/none: expected a folder that holds cifar-10-batches"
    )
    assert not (tmp_path / "runs").exists()


TINY = ("model=mlp", "model.hidden=[20]", "device=cpu", "schedule.interval=4it", "epochs=2")


def test_results_of_another_schema_are_left_alone(tmp_path, capsys):
    (tmp_path / ".sparsebench").write_text("0\n")
    assert main(["train", *TINY, f"results_dir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"sparsebench: error: results_dir={tmp_path}: expected results of schema 1, but it contains schema 0"
    )
    assert [p.name for p in tmp_path.iterdir()] == [".sparsebench"]


@pytest.mark.parametrize("place", ["/proc/sparsebench", "/dev/null", "/dev/null/runs"])
def test_a_results_dir_that_cannot_be_made_is_named(place, capsys):
    assert main(["train", *TINY, f"results_dir={place}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sparsebench: error: results_dir={place}: expected a writable folder: ")


def test_a_run_is_found_finished_and_redone_only_on_request(tmp_path, capsys):
    arguments = ["train", *TINY, f"results_dir={tmp_path}"]
    assert main(arguments) == 0
    capsys.readouterr()
    (folder,) = tmp_path.glob("*-*")
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
    assert main(arguments) == 0
    assert "already finished; nothing done" in capsys.readouterr().out
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()} == before
    assert main([*arguments, "overwrite=true"]) == 0
    assert (folder / "summary.csv").stat().st_mtime_ns > before["summary.csv"][1]
    assert (folder / "model.safetensors").read_bytes() == before["model.safetensors"][0]


def test_a_diverged_run_says_so_in_its_row_and_status(tmp_path, capsys):
    from sparsebench.files import read_csv

    assert main(["train", *TINY, "optimizer.lr=1e30", f"results_dir={tmp_path}"]) == 1
    assert "diverged: its loss is not a finite number" in capsys.readouterr().err
    (row,) = read_csv(next(tmp_path.glob("*/summary.csv")))
    assert (row["status"], row["top1"], row["best_val_top1"]) == ("diverged", "", "")
    assert (
        main(["train", *TINY, "optimizer.lr=1e30", f"results_dir={tmp_path}"]) == 1
    )  # found again, still bad


def test_a_collapsed_layer_is_reported_by_name(tmp_path, capsys):
    from sparsebench.files import read_csv

    assert main(["train", *TINY, "model.hidden=[40,3]", "sparsity=0.999", f"results_dir={tmp_path}"]) == 0
    (row,) = read_csv(next(tmp_path.glob("*/summary.csv")))
    layers = read_csv(next(tmp_path.glob("*/layers.csv")))
    down_to_one = [x["layer"] for x in layers if x["prunable"] == "True" and int(x["nonzero"]) <= 1]
    assert down_to_one and row["collapsed_layers"].split() == down_to_one
    assert f"collapsed  {down_to_one[0]}" in capsys.readouterr().out


def test_dense_is_one_run_whatever_the_sparsity(tmp_path, capsys):
    tiny = [word for word in TINY if not word.startswith("schedule.")]
    for sparsity in (0.5, 0.9):
        assert main(["train", *tiny, "prune=dense", f"sparsity={sparsity}", f"results_dir={tmp_path}"]) == 0
    assert "already finished" in capsys.readouterr().out
    (folder,) = tmp_path.glob("*-*")
    assert folder.name.startswith("digits-mlp20-dense-s0-seed0-")


def test_a_sweep_runs_every_combination(tmp_path, capsys):
    argv = [w for w in TINY if w != "epochs=2"]
    assert main(["sweep", *argv, "epochs=1", "prune=dense,dpf", "seed=0,1", f"results_dir={tmp_path}"]) == 0
    assert len(list(tmp_path.glob("*/summary.csv"))) == 4
    assert main(["compare", str(tmp_path), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out.split("\n[", 1)[1].join(["[", ""]))
    assert [(r["method"], r["n"]) for r in rows] == [("dense", 2), ("dpf", 2)]


def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path, capsys):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        assert main(["train", "model=mlp", "epochs=2", "device=cpu", f"results_dir={small}/runs"]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "epoch" not in line]
        assert (
            line
            == f"sparsebench: error: results_dir={small}/runs: expected a writable folder: the disk is full"
        )
        assert not list(small.glob("**/*.tmp")) and not list(small.glob("**/summary.csv"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_output_is_plain_lines_where_there_is_no_terminal(tmp_path, capfd):
    assert main(["train", *TINY, f"results_dir={tmp_path}"]) == 0
    said = capfd.readouterr()
    assert [line.split("  ")[1] for line in said.err.splitlines()] == ["epoch 1/2", "epoch 2/2"]
    assert "\r" not in said.out + said.err and "\x1b" not in said.out + said.err


def test_a_method_of_somebody_elses_that_misses_its_target_fails_the_run(tmp_path, capsys, monkeypatch):
    from sparsebench.files import read_csv

    (tmp_path / "conf" / "prune").mkdir(parents=True)
    (tmp_path / "conf" / "prune" / "sloppy.yaml").write_text("_target_: sloppy.Sloppy\n")
    (tmp_path / "sloppy.py").write_text(
        "from sparsebench.pruning.methods.dpf import DPF\n\n\n"
        "class Sloppy(DPF):\n"
        '    """Forgets one mask bit at the end."""\n\n'
        "    def on_end(self):\n"
        "        next(iter(self.weights.masks.values())).view(-1)[:] = True\n"
        "        super().on_end()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [
        "train",
        f"--config-dir={tmp_path}/conf",
        *TINY,
        "prune=sloppy",
        f"results_dir={tmp_path}/runs",
    ]
    assert main(arguments) == 1
    assert "missed its sparsity" in capsys.readouterr().err
    (row,) = read_csv(next(tmp_path.glob("runs/*/summary.csv")))
    assert row["sparsity_ok"] == "False" and float(row["sparsity"]) < 0.9
    assert f"--config-dir={tmp_path}/conf" in row["command"]  # the command makes the run again
    assert main(arguments) == 1  # found finished, and still bad


def test_progress_on_a_terminal_shows_loss_accuracy_sparsity_and_speed(tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))  # rows, columns
    seen = []

    def look():
        with suppress(OSError):  # how Linux says that the other end is closed
            while chunk := os.read(leader, 65536):
                seen.append(chunk)

    onlooker = threading.Thread(target=look)
    onlooker.start()
    with open(follower, "w") as terminal, redirect_stdout(terminal), redirect_stderr(terminal):
        status = main(["train", *TINY, "epochs=6", f"results_dir={tmp_path}"])
    onlooker.join()
    os.close(leader)
    assert status == 0
    text = b"".join(seen).decode()
    assert all(
        word in text for word in ("loss=", "val=", "sparsity=", "img/s=", "step/s", "digits-mlp20-dpf")
    ), text
    assert "digits is a small data set" in text
