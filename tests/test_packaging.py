"""What a user installs: the source archive is complete, and the wheel made from it runs by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """The command's output, without this interpreter's environment; a failure shows all that it said."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k != "VIRTUAL_ENV"}
    argv = [str(part) for part in command]
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel built from it rather than from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the wheel, which borrows the dependencies of the one that runs the tests."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=venv.parent)
    python = venv / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", archives[1], cwd=venv.parent)
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=venv).strip())
    # A line of a .pth file goes to the END of sys.path, so the wheel comes first; and the .pth files in the
    # borrowed folders, such as an editable install's, are not read.
    borrowed = [p for p in sys.path if Path(p).name in {"site-packages", "dist-packages"}]
    (own / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return venv


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A current folder that has nothing to do with the checkout."""
    assert ROOT not in tmp_path.parents
    return tmp_path


def test_sdist_holds_what_the_wheel_and_the_tests_need(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "CITATION.cff",
        "scripts/sparsebench",
        "scripts/test",
    }
    folders = [("sparsebench", ".py"), ("conf", ".yaml"), ("tests", ".py"), ("results/reference", ".csv")]
    for folder, suffix in folders:
        expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(f"*{suffix}")}
    assert expected <= names
    assert not [name for name in names if name.startswith((".venv", "outputs", "multirun"))]


def test_wheel_holds_every_config_and_no_tests(archives: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(archives[1]).namelist())
    configs = {
        f"sparsebench/conf/{path.relative_to(ROOT / 'conf').as_posix()}"
        for path in (ROOT / "conf").rglob("*.yaml")
    }
    assert "sparsebench/conf/train.yaml" in names
    assert {f"sparsebench/report/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert configs <= names
    reference = ROOT / "results" / "reference"
    tables = {
        f"sparsebench/reference/{p.relative_to(reference).as_posix()}" for p in reference.rglob("*.csv")
    }
    assert "sparsebench/reference/papers/dpf.csv" in tables and tables <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"sparsebench"}


def test_installed_wheel_does_not_import_the_checkout(installed: Path, elsewhere: Path) -> None:
    code = (
        "import sparsebench, sparsebench.paths as c; print(sparsebench.__file__, c.config_dir(), sep='\\n')"
    )
    package, conf = map(Path, run(installed / "bin" / "python", "-c", code, cwd=elsewhere).splitlines())
    assert installed in package.parents
    assert conf.resolve() == package.resolve().parent / "conf"


@pytest.mark.parametrize("argument", ["--help", "list"])
def test_installed_command_answers(installed: Path, elsewhere: Path, argument: str) -> None:
    assert run(installed / "bin" / "sparsebench", argument, cwd=elsewhere).strip()


def test_installed_command_trains_from_its_own_configs(installed: Path, elsewhere: Path) -> None:
    results = elsewhere / "results"
    command = ["train", "dataset=digits", "model=mlp", "epochs=1", f"results_dir={results}"]
    run(installed / "bin" / "sparsebench", *command, cwd=elsewhere)
    assert list(results.rglob("*.csv"))
    told = run(installed / "bin" / "sparsebench", "compare", "reference:dpf", results, cwd=elsewhere)
    assert "90.88 ± 0.07 (3)" in told and "memory-high" in told


@pytest.mark.nightly
def test_installed_command_sweeps_an_experiment(installed: Path, elsewhere: Path) -> None:
    argv = ["sweep", "experiment=dpf_cifar10", "scale=smoke", "model=resnet", "model.depth=20", "--dry-run"]
    assert "21 runs" in run(installed / "bin" / "sparsebench", *argv, cwd=elsewhere)
