"""A method, score, evaluation, tracker, study, subcommand and figure are new files, and nothing is edited for them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT

FILES = {
    "conf/prune/newcomer.yaml": "_target_: sparsebench.pruning.methods.newcomer.Newcomer\nallow_recovering: false\n",
    "sparsebench/pruning/methods/newcomer.py": '''\
"""A method."""

from __future__ import annotations

from sparsebench.pruning.methods.gmp import GMP


class Newcomer(GMP):
    """Prunes as GMP does.

    References:
        A. Uthor, "Newcomers", Some Venue 2031, arXiv 3101.00001.
    """
''',
    "conf/score/newcomer.yaml": "_target_: sparsebench.pruning.newcomer_score.Squared\n",
    "sparsebench/pruning/newcomer_score.py": '''\
"""A score."""

from __future__ import annotations

from sparsebench.pruning.scores import Score


class Squared(Score):
    """The squared weight.

    Example:
        >>> import torch
        >>> Squared()({"w": torch.tensor([3.0])})["w"].tolist()
        [9.0]
    """

    def __call__(self, weights, generator=None):
        """w²."""
        return {name: weight.detach().float().square() for name, weight in weights.items()}
''',
    "conf/evaluate/newcomer.yaml": "# @package evaluate.newcomer\n_target_: sparsebench.evaluation.newcomer.Count\n",
    "sparsebench/evaluation/newcomer.py": '''\
"""An evaluation."""

from __future__ import annotations

from sparsebench.evaluation.subject import Result


class Count:
    """How many test images there are."""

    needs_dense = False

    def __call__(self, subject):
        """Column ``test_images``."""
        count = len(subject.dataset.test)
        return Result({"test_images": count}, [{"n": count}])
''',
    "conf/tracker/newcomer.yaml": "_target_: sparsebench.trackers.newcomer.Newcomer\n",
    "sparsebench/trackers/newcomer.py": '''\
"""A tracker."""

from __future__ import annotations

from sparsebench.trackers.tracker import Tracker


class Newcomer(Tracker):
    """Steps, in a file of the run folder."""

    def start(self, run):
        """Keep the folder."""
        self.folder = run.folder

    def log(self, step, values):
        """Add a line."""
        with open(self.folder / "steps.txt", "a") as file:
            file.write(f"{step}\\\\n")
''',
    "conf/theory/newcomer.yaml": "_target_: sparsebench.theory.newcomer.Newcomer\nseed: 0\n",
    "sparsebench/theory/newcomer.py": '''\
"""A study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsebench.theory.study import Study, close


@dataclass(frozen=True)
class Newcomer(Study):
    """The mean of two numbers; its table ``newcomer`` has a row for each number of them.

    References:
        A. Uthor, "Means", Some Venue 2031, arXiv 3101.00002.
    """

    tables: ClassVar = {"newcomer": ("n", "mean")}
    seed: int = 0

    def points(self):
        """One."""
        return [{"n": 2}]

    def rows(self, point, device):
        """The mean of 0 and 1."""
        return {"newcomer": [{**point, "mean": 0.5}]}

    def checks(self, tables):
        """It is a half."""
        yield close("mean", "n=2", 0.5, tables["newcomer"][0]["mean"], 0.0)
''',
    "sparsebench/report/studies/newcomer.py": '''\
"""Its figure."""

from __future__ import annotations

from matplotlib.figure import Figure

from sparsebench.report.style import Drawing


def drawings(tables):
    """The mean."""
    figure = Figure()
    figure.add_subplot().plot(tables["newcomer"]["n"], tables["newcomer"]["mean"], "o")
    return [Drawing("newcomer", "Means", "Of two numbers.", figure, tables["newcomer"])]
''',
    "sparsebench/cli/newcomer.py": '''\
"""A subcommand."""

from __future__ import annotations

from sparsebench.cli.subcommand import Section, Subcommand


def run(options):
    """Greet."""
    print(f"{options.greeting}, {options.path}")
    return 0


def arguments(parser):
    """Whom, and how."""
    parser.add_argument("path")
    parser.add_argument("--greeting", default="hello")


COMMAND = Subcommand(
    name="newcomer", help="greets", section=Section.OTHER, examples=("sparsebench newcomer you",), files=True,
    arguments=arguments, run=run,
)
''',
    "sparsebench/report/figures/newcomer.py": '''\
"""How many runs there are."""

from __future__ import annotations

from matplotlib.figure import Figure

from sparsebench.report.figure import Drawn, Group, ReportFigure
from sparsebench.report.style import Drawing


def draw(group: Group) -> Drawn:
    """A bar a line."""
    figure = Figure()
    figure.add_subplot().bar(group.points["label"], group.points["n"])
    return Drawn([Drawing("newcomer", "Numbers of runs", "A bar a line.", figure, group.points)])


FIGURE = ReportFigure(draw)
''',
}
TRAIN = """train prune=newcomer score=newcomer evaluate=[newcomer] tracker=newcomer model=mlp model.hidden=[20] epochs=2
    schedule.interval=1it dataset.train_samples=300 device=cpu results_dir=results/runs"""
COMMANDS = [
    ["list", "--format", "json"],
    ["--help"],
    ["newcomer", "--help"],
    ["newcomer", "you"],
    ["completion", "fish"],
    *(
        ["_complete", f"sparsebench {line}"]
        for line in (
            "newc",
            "newcomer --gr",
            "train prune=newc",
            "train score=newc",
            "train evaluate=newc",
            "train tracker=newc",
            "theory study=newc",
            "list fig",
        )
    ),
    TRAIN.split(),
    ["theory", "study=newcomer", "results_dir=results/theory"],
    ["report", "results"],
]
PROGRAM = """
import contextlib, io, json, sys
from sparsebench.cli import main

answers = []
for argv in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main(argv)
    answers.append((status, out.getvalue()))
json.dump(answers, sys.stdout)
"""
DISCOVERING = (
    "tests/cli/test_completion.py",
    "tests/cli/test_main.py",
    "tests/config/test_config.py",
    "tests/pruning/test_contract.py",
    "tests/test_examples.py",
    "tests/theory/test_theory.py",
)
"""Tests that find what there is, and have to pass for what is new."""


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the repository as it lies here, committed, and the new files in it."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("repository")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    found = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in found:
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git = [
        "git",
        "-c",
        "user.name=nobody",
        "-c",
        "user.email=nobody@example.org",
        "-c",
        "commit.gpgsign=false",
    ]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "as it was"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    for name, text in FILES.items():
        assert not (folder / name).exists()
        (folder / name).write_text(text.replace("\\\\", "\\"))
    return folder


def test_they_are_listed_completed_run_and_drawn_and_no_file_is_edited(copied):
    environment = {**os.environ, "PYTHONPATH": str(copied)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=copied, env=environment, capture_output=True,
                          text=True, input=json.dumps(COMMANDS))  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = dict(zip(map(" ".join, COMMANDS), json.loads(done.stdout), strict=True))
    assert {status for status, _ in answers.values()} == {0}, (answers, done.stderr)

    listed = json.loads(answers["list --format json"][1])
    listing = {label for label, found in listed.items() if "newcomer" in {entry["name"] for entry in found}}
    assert listing == {"methods", "scores", "evaluations", "trackers", "theory", "commands", "figures"}
    assert {"newcomer    greets", "sparsebench newcomer you"} <= {
        line.strip() for line in answers["--help"][1].splitlines()
    }
    assert answers["newcomer you"][1] == "hello, you\n" and "--greeting" in answers["newcomer --help"][1]
    assert " newcomer " in answers["completion fish"][1].splitlines()[0]
    completed = {
        line.rpartition(" ")[2]: out.split() for line, (_, out) in answers.items() if "_complete" in line
    }
    assert completed == {
        "newc": ["newcomer"], "--gr": ["--greeting"], "fig": ["figures"],
        **{f"{key}=newc": [f"{key}=newcomer"] for key in ("prune", "score", "evaluate", "tracker", "study")},
    }  # fmt: skip

    (run,) = (copied / "results/runs").glob("digits-mlp20-newcomer-*")
    assert (run / "evaluation/newcomer.csv").read_text() == "test_images\n359\n"
    assert len((run / "steps.txt").read_text().splitlines()) == 2
    drawn = {path.name for path in (copied / "results/report/figures").glob("*newcomer.png")}
    assert "digits-mlp20-newcomer.png" in drawn and len(drawn) == 2  # of the runs, and of the study

    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    changed = subprocess.run(status, cwd=copied, capture_output=True, text=True, check=True).stdout
    assert sorted(changed.splitlines()) == sorted(f"?? {name}" for name in FILES)


def test_the_tests_that_find_what_there_is_pass_for_them(copied):
    environment = {**os.environ, "PYTHONPATH": str(copied)}
    command = ["-m", "pytest", "-v", "-k", "newcomer", "-p", "no:cacheprovider", *DISCOVERING]
    done = subprocess.run(
        [sys.executable, *command], cwd=copied, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    passed = [line for line in done.stdout.splitlines() if "newcomer" in line and "PASSED" in line]
    assert {line.partition("::")[0] for line in passed} == set(DISCOVERING)
