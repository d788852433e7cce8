"""Every command in the README and in docs is run; shortened where it would train for long."""

from __future__ import annotations

import re
import shlex

import pytest

from sparsebench.cli import main
from sparsebench.config.open import compose_config
from sparsebench.config.used import unused_overrides
from sparsebench.paths import groups, options
from tests.support import ROOT, imagenet_tree

PAGES = {
    path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
}
COMMANDS = [
    line.split(" # ")[0].strip()
    for page in PAGES.values()
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("scripts/sparsebench ")
]

EXAMPLES = [
    example for page in PAGES.values() for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
]


def needs_images(argv):
    return any(word.startswith("dataset=") and word != "dataset=digits" for word in argv)


def test_the_readme_has_the_main_commands():
    assert "scripts/sparsebench train model=resnet prune=dpf sparsity=0.9" in COMMANDS
    assert {shlex.split(c)[1] for c in COMMANDS} >= {"train", "sweep", "compare", "list"}


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tree = imagenet_tree.imagenet(tmp_path / "imagenet", classes=3, train=4, val=2, sides=(30, 60))
    for command in dict.fromkeys(COMMANDS):
        argv = [word.replace("/data/imagenet", str(tree)) for word in shlex.split(command)[1:]]
        if "study=overparam_prune" in argv:
            argv += ["study.seeds=2", "study.latent.seeds=2", "study.latent.draws=2", "study.latent.p=100"]
            argv += ["study.general.features=[50]", "study.rf.features=[50]", "study.diag.keep=[20]"]
            argv += ["study.diag.features=[60,300]"]
        elif argv[0] in ("train", "sweep") and "--cfg" not in argv:
            # Images may not be here, and a training takes long: those compose, the others run two epochs.
            short = ["epochs=2", "schedule.interval=1it", "dataset.train_samples=200"]
            if argv[0] == "train" and not needs_images(
                argv
            ):  # a sweep leaves out what a run does not use itself
                words = [word for word in argv[1:] if not word.startswith("-")]
                ignored = unused_overrides(short, *compose_config([*words, *short]))
                short = [word for word in short if word not in ignored]
            argv += ["--cfg", "job"] if needs_images(argv) else short
        if "experiment=dpf_cifar10" in argv:  # a corner of the grid
            argv += ["model=resnet", "model.depth=20", "prune=dense,dpf", "sparsity=0.9"]
        status, said = main(argv), capsys.readouterr()
        assert status == 0, (command, said.err)
        output = said.out
        if argv[0] == "compare" and "-o" not in argv:
            assert output.count("resnet20") == 1 + 2 * 3  # dense once, gmp and dpf at three sparsities
    assert (tmp_path / "results/runs/report/index.html").is_file()
    assert len((tmp_path / "accuracy.csv").read_text().splitlines()) == 1 + 1 + 2 * 3


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", PAGES[page])
    for target, anchor in links:
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_linked_to_and_every_option_that_a_page_chooses_exists():
    linked = {target for target, _ in re.findall(r"\]\((docs/[^)#]*)(#[^)]*)?\)", PAGES[ROOT / "README.md"])}
    assert linked == {f"docs/{path.name}" for path in PAGES if path.parent.name == "docs"}
    for page, text in PAGES.items():
        for group, option in re.findall(r"\b([a-z_]+)=([a-z]\w*)", text):
            if group in groups() and option not in ("mysite",):
                assert option in options(group), (page, f"{group}={option}")


def test_the_python_in_the_readme_runs_and_reaches_its_sparsity(tmp_path, monkeypatch, capsys):
    (example,) = EXAMPLES
    seeded = f"import torch\ntorch.manual_seed(0)\n{example}"
    program = f"{seeded}\nassert (model(images.float() / 16).argmax(1) == targets).float().mean() > 0.9\n"
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec", dont_inherit=True), {"__name__": "__main__"})
    said = capsys.readouterr()
    assert said.err == "" and "'sparsity': 0.9" in said.out
