"""scripts/mutate.py, and that its table fits the present source."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.support import ROOT

spec = importlib.util.spec_from_file_location("mutate", ROOT / "scripts/mutate.py")
mutate = sys.modules["mutate"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutate)

MUTATIONS = mutate.read(ROOT / "scripts/mutations.yaml")

TABLE = """
- {name: sum, file: code.py, old: x + x, new: x * x, tests: test_code.py}
- {name: nothing, file: code.py, old: x + x, new: 2 * x, tests: test_code.py}
- {name: import, file: code.py, old: "# here", new: import nowhere, tests: test_code.py}
- {name: anyway, file: code.py, old: x + x, new: 2 * x, tests: test_wrong.py}
"""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_applies_to_the_present_source_and_its_tests_exist(mutation):
    mutation.broken(ROOT)  # compiled too
    assert mutation.old != mutation.new and mutation.tests
    for test in mutation.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists(), test
        assert not name or f"def {name.partition('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8"), test


@pytest.fixture
def small(tmp_path):
    """A repository of one function, its test, and one that fails."""
    (tmp_path / "code.py").write_text("# here\ndef twice(x):\n    return x + x\n")
    test = "from code import twice\n\ndef test_twice():\n    assert (twice(2), twice(3)) == (4, 6)\n"
    (tmp_path / "test_code.py").write_text(test)
    (tmp_path / "test_wrong.py").write_text("def test_wrong():\n    raise RuntimeError\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\npythonpath = ['.']\n")
    (tmp_path / "table.yaml").write_text(TABLE)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def run(small, *argv):
    return mutate.main(["--root", str(small), "--table", str(small / "table.yaml"), *argv])


def test_what_a_test_notices_is_killed_and_the_rest_is_listed(small, capsys):
    before = {path: path.read_bytes() for path in small.rglob("*.py")}
    assert run(small, "--near", "--jobs", "2", "-o", str(small / "found.csv")) == 1
    lines = [line.split(",") for line in (small / "found.csv").read_text().splitlines()]
    assert [line[:4] for line in lines[1:]] == [
        ["sum", "code.py", "killed", "test_code.py::test_twice"],
        ["nothing", "code.py", "survived", ""],
        ["import", "code.py", "invalid", ""],  # no test has run
        ["anyway", "code.py", "invalid", "test_wrong.py::test_wrong"],  # it has noticed nothing
    ]
    said = capsys.readouterr().out
    assert "1 of 4 mutations killed, not these:" in said
    assert "No module named 'nowhere'" in said and "test_wrong.py::test_wrong fails without it" in said
    assert {path: path.read_bytes() for path in small.rglob("*.py")} == before


def test_tests_that_take_too_long_are_stopped(small):
    outcome = mutate.attempt(mutate.read(small / "table.yaml")[0], small, near=True, limit=0.01)
    assert outcome.result == "timed out" and outcome.seconds < 10


def test_a_text_that_is_not_there_once_and_an_unknown_name_are_refused(small, capsys):
    for old in ("x", "y"):
        with pytest.raises(ValueError, match=f"not once: {old}"):
            mutate.Mutation("m", "code.py", old, "z", ("test_code.py",)).broken(small)
    with pytest.raises(SystemExit):
        run(small, "--only", "none")
    assert "no such mutation: none" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.nightly
def test_every_mutation_is_killed(capfd):
    assert mutate.main(["--jobs", "2"]) == 0, capfd.readouterr().out
