"""Where commands run: containers without a user, terminals of other encodings, full disks, Windows, shared folders."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sparsebench.cli import main
from sparsebench.cli.subcommand import subcommands
from tests.support import ROOT
from tests.support.tables import put, row

HOMELESS = 12345
"""A user id without an entry in passwd, as containers have them."""


def homeless(*argv: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without a name and a home folder, who may read everything."""
    privileges = "+dac_override,+dac_read_search"
    user = [f"--reuid={HOMELESS}", f"--regid={HOMELESS}", "--clear-groups"]
    user += [f"--inh-caps={privileges}", f"--ambient-caps={privileges}"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["setpriv", *user, sys.executable, "-m", "sparsebench", *argv],
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
    )


needs_other_users = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    argv = ["prune=dense", "model=mlp", "model.hidden=[8]", "epochs=1", "device=cpu"]
    assert main(["train", *argv, f"results_dir={folder}"]) == 0
    return folder


@needs_other_users
@pytest.mark.parametrize(
    "argv",
    [
        ["train", "prune=dense", "model=mlp", "epochs=1", "device=cpu", "results_dir=runs"],
        ["audit", "MADE"],
        ["evaluate", "MADE", "evaluate=calibration"],
        ["data", "check", "digits"],
        ["list", "models"],
        ["status", "MADE"],
        ["compare", "MADE"],
        ["report", "MADE", "-o", "page"],
    ],
)
def test_a_user_without_a_name_and_a_home_folder_can_do_everything(argv, made, tmp_path):
    tmp_path.chmod(0o777)
    done = homeless(*(str(made) if word == "MADE" else word for word in argv), folder=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


@needs_other_users
@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["train", "dataset=cifar10", "results_dir=runs"], "data_root=~/.cache/sparsebench"),
        (["data", "check", "cifar10"], "data_root=~/.cache/sparsebench"),
        (["train", "model=mlp", "results_dir='~/runs'"], "results_dir=~/runs"),
        (["sweep", "model=mlp", "seed=0,1", "results_dir='~/runs'"], "results_dir=~/runs"),
        (["theory", "study=random_matrix", "results_dir='~/runs'"], "results_dir=~/runs"),
        (["audit", "MADE", "--data-root", "~/data"], "--data-root=~/data"),
    ],
)
def test_a_home_folder_that_is_needed_and_missing_is_one_line(argv, named, made, tmp_path):
    done = homeless(*(str(made) if word == "MADE" else word for word in argv), folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"sparsebench: error: {named}: expected a path without ~: this user has no home folder"
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    "argv", [["list"], ["compare", "RUNS"], ["compare", "reference:dpf"], ["status", "RUNS"]]
)
def test_what_an_encoding_does_not_have_is_replaced(argv, encoding, tmp_path):
    runs = put(tmp_path / "runs", [row("dense", 0.0, s, 92.0 + s, model="réseau±→\udcff") for s in (0, 1)])
    done = subprocess.run(
        [sys.executable, "-m", "sparsebench", *(str(runs) if word == "RUNS" else word for word in argv)],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout.decode(encoding)


def test_the_c_locale_is_no_error_either():
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-m", "sparsebench", "list"], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


WINDOWS = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules.pop(name, None)
sys.platform = "win32"
from sparsebench.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("argv", [[name] for name in subcommands()] + [["no_such_command"]])
def test_on_windows_every_command_says_where_it_runs(argv):
    done = subprocess.run([sys.executable, "-c", WINDOWS, *argv], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sparsebench: error: sparsebench runs on Linux and macOS; on Windows, in WSL\n"


def test_on_windows_the_help_is_the_help():
    done = subprocess.run([sys.executable, "-c", WINDOWS, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage: ")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", [["list"], ["compare", "reference:dpf"], ["collect", "MADE"]])
def test_a_full_disk_behind_the_standard_output_is_one_line(argv, unbuffered, made):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sparsebench", *(str(made) if word == "MADE" else word for word in argv)],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (2, "sparsebench: error: standard output: the disk is full\n")


@pytest.mark.parametrize("command", ["collect", "compare", "audit"])
def test_output_to_a_device_goes_through_it(command, made, capsys):
    before = os.stat("/dev/full")
    extra = ["--no-accuracy"] if command == "audit" else []
    assert main([command, str(made), *extra, "-o", "/dev/full"]) in (
        0,
        2,
    )  # an audit may have nothing to write
    assert main([command, str(made), *extra, "-o", "/dev/null"]) == 0
    for path, kind in (("/dev/full", before.st_rdev), ("/dev/null", os.makedev(1, 3))):
        found = os.stat(path)
        assert stat.S_ISCHR(found.st_mode) and found.st_rdev == kind
    if command != "audit":
        assert "/dev/full: the disk is full" in capsys.readouterr().err


@needs_other_users
def test_two_users_of_one_group_share_a_folder(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    os.chown(results, 1001, 2000)
    results.chmod(0o2775)
    code = (
        "import os, sys; os.umask(0o022); from sparsebench.records.lease import Lease; from pathlib import Path\n"
        "with Lease.claim(Path(sys.argv[1]) / '.state', 'run') as lease: print(lease.path.name)"
    )
    for user in (1001, 1002):
        done = subprocess.run(
            ["setpriv", f"--reuid={user}", "--regid=2000", "--clear-groups", "--inh-caps=+dac_read_search",
             "--ambient-caps=+dac_read_search", sys.executable, "-c", code, str(results)],
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, cwd="/",
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "run.lease.1\n"), done.stderr


def test_a_folder_that_cannot_be_written_is_the_one_that_is_named(tmp_path, capsys):
    (tmp_path / ".state").write_text("in the way")
    argv = [
        "prune=dense",
        "model=mlp",
        "model.hidden=[8]",
        "epochs=1",
        "device=cpu",
        f"results_dir={tmp_path}",
    ]
    assert main(["train", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sparsebench: error: results_dir={tmp_path}: expected a writable folder: ")
    assert f"{tmp_path}/.state" in line
