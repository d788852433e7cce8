"""Completion of the command line: the candidates, and real shells that ask for them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from sparsebench.cli import main
from sparsebench.cli.completion import SCRIPTS, candidates
from sparsebench.cli.subcommand import subcommands
from sparsebench.paths import config_dir
from tests.support.configs import options


@pytest.mark.parametrize(
    ("before", "last", "expected"),
    [
        ([], "tr", ["train"]),
        (["train"], "model=", [f"model={name}" for name in options("model")]),
        (["train"], "prune=dp", ["prune=dpf"]),
        (["sweep"], "prune=dpf,g", [f"prune=dpf,{name}" for name in options("prune") if name[0] == "g"]),
        (["compare"], "REA", []),  # file names are the shell's
        (["compare"], "--me", ["--metric"]),
        (["compare"], "--m", ["--map", "--metric"]),
        (["compare"], "reference:dpf_", ["reference:dpf_unofficial"]),
        (["train"], "--cf", []),
        (["train"], "model.de", ["model.depth="]),
        (["train", "model=mlp"], "model.h", ["model.hidden="]),
        (["train"], "prunable.fi", ["prunable.first_conv="]),
        (["list"], "meth", ["methods"]),
        (["data"], "", ["check", "pack"]),
        (["data", "pack"], "imagen", ["imagenet"]),
        (["data", "check"], "--no", ["--no-decode"]),
        (["data", "pack", "imagenet"], "data_", ["data_root="]),
        (["completion"], "", ["bash", "zsh", "fish"]),
    ],
)
def test_completion_candidates(before, last, expected):
    assert candidates(before, last) == expected


def test_completion_offers_every_group_and_every_setting():
    found = set(candidates(["train"], ""))
    settings = yaml.safe_load((config_dir() / "train.yaml").read_text())
    assert {f"{group.parent.name}=" for group in config_dir().glob("*/*.yaml")} - {"theory="} <= found
    for key, value in settings.items():
        if key not in ("defaults", "hydra"):
            below = [f"{key}.{name}=" for name in value] if isinstance(value, dict) else [f"{key}="]
            assert set(below) <= found


@pytest.mark.parametrize(
    "argv",
    [[name] for name, command in subcommands().items() if command.arguments]
    + [["data", "check"], ["data", "pack"]],
    ids=" ".join,
)
def test_completion_offers_exactly_the_options_that_the_help_names(argv, capsys):
    assert main([*argv, "--help"]) == 0
    named = sorted(set(re.findall(r"--\w[\w-]*", capsys.readouterr().out)))
    assert candidates(argv, "-") == named and "--help" in named


@pytest.fixture
def launched(tmp_path):
    """The environment of a shell that finds ``sparsebench``."""
    launcher = tmp_path / "sparsebench"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sparsebench "$@"\n')
    launcher.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_completion_in_a_real_bash(launched):
    script = """
        eval "$(sparsebench completion bash)"
        complete_line() {
            COMP_LINE=$1; COMP_POINT=${#COMP_LINE}; _sparsebench; echo "${COMPREPLY[@]}"
        }
        complete_line 'sparsebench train prune=dp'
        complete_line 'sparsebench sweep prune=dpf,gm'
        complete_line 'sparsebench train'
        complete_line 'sparsebench compare --me'
        COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
        complete_line 'sparsebench train prune=dp'
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, env=launched)
    # bash itself keeps "prune=", unless told that "=" breaks no words
    assert done.stdout.splitlines() == ["dpf", "dpf,gmp", "train", "--metric", "prune=dpf"]


def test_completion_in_a_real_fish(launched):
    if shutil.which("fish") is None:
        pytest.skip("there is no fish")
    script = "sparsebench completion fish | source; for line in $argv; complete -C $line; end"
    lines = ["sparsebench train prune=dp", "sparsebench sweep prune=dpf,gm", "sparsebench compare --me"]
    done = subprocess.run(
        ["fish", "--no-config", "-c", script, *lines], capture_output=True, text=True, env=launched
    )
    assert done.stdout.splitlines() == ["prune=dpf", "prune=dpf,gmp", "--metric"]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_completion_script_is_one_that_the_shell_can_read(shell, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    assert main(["completion", shell]) == 0
    done = subprocess.run([shell, "-n"], input=capsys.readouterr().out, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_completion_offers_studies_and_the_settings_of_the_chosen_one():
    assert "study=overparam_prune" in candidates(["theory"], "study=over")
    assert {"study=", "device=", "results_dir="} <= set(candidates(["theory"], ""))
    assert not candidates(["theory"], "epochs")
    assert candidates(["theory", "study=overparam_prune"], "study.rf.n") == ["study.rf.n=", "study.rf.noise="]
    assert candidates(["sweep", "study=overparam_prune"], "study.seeds") == ["study.seeds="]
    assert candidates(["theory"], "device=cu") == ["device=cuda"]
