"""Names of data sets, models, methods and evaluations that are no file names: one folder each, and one line each."""

from __future__ import annotations

import json

import pytest

from sparsebench.cli import main
from sparsebench.files import read_csv
from sparsebench.records import schema
from tests.support.imagenet_tree import Maker

NAMES = [
    "../../out",
    "/absolute",
    ".hidden",
    "..",
    "org/name",
    "a\nb",
    "\x1b[31mred\x1b[0m",
    "x" * 300,
    "right\u202eleft",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    maker = Maker(None, sides=(20, 30))
    for number in range(24):
        maker.write(folder / f"class{number % 2}" / f"{number:02}.jpg", number % 2)
    return folder


def train(name, images, results, *argv):
    quoted = "'" + name.replace("'", r"\'") + "'"
    words = [
        "dataset=imagefolder",
        f"dataset.name={quoted}",
        f"data_root={images}",
        "batch_size=2",
        "workers=0",
    ]
    words += [
        "model=mlp",
        "model.hidden=[4]",
        "prune=dense",
        "device=cpu",
        "epochs=1",
    ]
    return main(["train", *words, f"results_dir={results}", *argv])


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_any_name_is_one_folder_that_every_command_sees(name, images, tmp_path, capfd):
    results = tmp_path / "deep" / "down" / "results"
    assert train(name, images, results, "evaluate=calibration") == 0
    said = capfd.readouterr()
    assert "\x1b" not in said.out + said.err and "\u202e" not in said.out + said.err
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["down"]
    (folder,) = (path for path in results.iterdir() if not path.name.startswith("."))
    (row,) = read_csv(folder / schema.SUMMARY)
    assert row["dataset"] == name and folder.name.endswith(f"-{row['run_id']}")
    assert folder.name.isprintable() and len(folder.name.encode()) <= 255
    assert train(name, images, results) == 0
    assert "already finished" in capfd.readouterr().out
    for argv in (
        ["status", str(results), "--all"],
        ["compare", str(results)],
        ["audit", str(results), "--no-accuracy"],
    ):
        assert main(argv) == 0
        said = capfd.readouterr()
        most = 20 if argv[0] == "audit" else 5  # which names what it does not check
        assert len(said.out.splitlines()) <= most and "\x1b" not in said.out + said.err
    assert main(["compare", str(results), "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out)[0]["dataset"] == name
    if "\x1b" in name or len(name) > 255:  # characters without a glyph, and more than fit into a title
        assert main(["report", str(results)]) == 0
    assert main(["merge", str(results), "-o", str(tmp_path / "merged")]) == 0
    assert [path.name for path in (tmp_path / "merged").iterdir() if path.name[0] != "."] == [folder.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "merged"]


def test_an_option_in_a_folder_of_its_own_is_no_folder_of_results(tmp_path, capsys):
    option = tmp_path / "conf" / "evaluate" / "org" / "name.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("'../../x':\n  _target_: sparsebench.evaluation.calibration.Calibration\n")
    results = tmp_path / "runs"
    argv = [f"--config-dir={tmp_path / 'conf'}", "model=mlp", "model.hidden=[4]", "epochs=1", "device=cpu"]
    assert main(["train", *argv, "prune=dense", "evaluate=org/name", f"results_dir={results}"]) == 0
    (folder,) = results.glob("*-*")
    assert [path.name for path in sorted((folder / "evaluation").iterdir())] == [
        "%2E.%2F..%2Fx.csv",
        "%2E.%2F..%2Fx_details.csv",
    ]


def test_a_name_that_looks_like_a_round_is_none(tmp_path):
    from sparsebench.records.run_folder import training_of

    assert training_of(tmp_path / "a-training3-b-mlp-dense-s0-seed0-0123456789") is None
    assert training_of(tmp_path / "a-training3-b-lottery-s0.9-seed0-training1-0123456789") == 1


def test_a_log_is_escaped_on_a_terminal_only(tmp_path, capsys, monkeypatch):
    (tmp_path / schema.LOG).write_bytes(b"one\x1b[31m\ttwo\nthree\xff\n")
    assert main(["logs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "one\x1b[31m\ttwo\nthree\ufffd\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["logs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "one\\x1b[31m\ttwo\nthree\ufffd\n"


def test_names_of_folders_and_records_of_failures_are_escaped(tmp_path, capsys):
    folder = tmp_path / "\x1b[31mred\n-1"
    folder.mkdir()
    (folder / schema.PROVENANCE).write_text("{}")
    (tmp_path / ".state").mkdir()
    (tmp_path / ".state" / "1.failed").write_text(json.dumps({"error": "\x1b[2J\nboom"}))
    assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and len(said.splitlines()) == 3 and r"\x1b[2J\nboom" in said
    (folder / schema.SUMMARY).write_text("")
    assert main(["compare", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and len(said.splitlines()) == 2
