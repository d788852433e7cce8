"""Every command in the README is run; shortened where it would train for long."""

from __future__ import annotations

import re
import shlex

import pytest

from sparsebench.cli import main
from tests.support import ROOT, imagenet_tree

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split(" # ")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("scripts/sparsebench ")
]

EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def needs_images(words):
    return any(word.startswith("dataset=") and word != "dataset=digits" for word in words)


def test_the_readme_has_the_main_commands():
    assert "scripts/sparsebench train model=resnet prune=dpf sparsity=0.9" in COMMANDS
    assert {shlex.split(c)[1] for c in COMMANDS} >= {"train", "sweep", "compare", "list"}


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tree = imagenet_tree.imagenet(tmp_path / "imagenet", classes=3, train=4, val=2, sides=(30, 60))
    for command in dict.fromkeys(COMMANDS):
        words = [word.replace("/data/imagenet", str(tree)) for word in shlex.split(command)[1:]]
        if "study=overparam_prune" in words:
            words += ["study.seeds=2", "study.latent.seeds=2", "study.latent.draws=2", "study.latent.p=100"]
            words += ["study.general.features=[50]", "study.rf.features=[50]", "study.diag.keep=[20]"]
            words += ["study.diag.features=[60,300]"]
        elif words[0] in ("train", "sweep") and "--cfg" not in words:
            # Images may not be here, and a training takes long: those compose, the others run two epochs.
            short = ["epochs=2", "schedule.interval=1it", "dataset.train_samples=200"]
            words += ["--cfg", "job"] if needs_images(words) else short
        if "experiment=dpf_cifar10" in words:  # a corner of the grid
            words += ["model=resnet", "model.depth=20", "prune=dense,dpf", "sparsity=0.9"]
        status, said = main(words), capsys.readouterr()
        assert status == 0, (command, said.err)
        output = said.out
        if words[0] == "compare" and "-o" not in words:
            assert output.count("resnet20") == 1 + 2 * 3  # dense once, gmp and dpf at three sparsities
    assert (tmp_path / "results/runs/report/index.html").is_file()
    assert len((tmp_path / "accuracy.csv").read_text().splitlines()) == 1 + 1 + 2 * 3


def test_what_the_readme_lists_is_what_there_is():
    from tests.support.configs import options

    for group in ("prune", "model", "dataset", "recipe", "schedule", "allocation", "experiment", "scale"):
        (line,) = re.findall(rf"^\| `{group}` \| (.*)\|$", README, re.MULTILINE)
        named = set(re.findall(r"`(\w+)`", line))
        assert set(options(group)) <= named, group
    (studies,) = re.findall(r"^\| `study` \|.*\n\|---\|---\|\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert set(re.findall(r"^\| `(\w+)`", studies, re.MULTILINE)) >= set(options("theory"))


def test_the_python_in_the_readme_runs_and_reaches_its_sparsity(tmp_path, monkeypatch, capsys):
    (example,) = EXAMPLES
    seeded = f"import torch\ntorch.manual_seed(0)\n{example}"
    program = f"{seeded}\nassert (model(images.float() / 16).argmax(1) == targets).float().mean() > 0.9\n"
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec", dont_inherit=True), {"__name__": "__main__"})
    said = capsys.readouterr()
    assert said.err == "" and "'sparsity': 0.9" in said.out
