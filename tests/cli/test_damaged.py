"""One damaged or foreign run among good ones: every command names it, leaves it out, and says so in its status."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sparsebench.cli import main
from sparsebench.files import read_csv, write_csv
from sparsebench.records import schema

BAD = "dpf-s0.9-seed1"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Three finished runs."""
    folder = tmp_path_factory.mktemp("made")
    argv = ["model=mlp", "model.hidden=[8]", "epochs=2", "device=cpu", f"results_dir={folder}"]
    assert main(["train", *argv, "prune=dense"]) == 0
    for seed in (0, 1):
        assert main(["train", *argv, "prune=dpf", f"seed={seed}"]) == 0
    return folder


@pytest.fixture
def results(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


def replace(name: str, content: bytes):
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


def edit(change):
    """Change the header and the cells of the summary."""

    def damage(folder: Path) -> None:
        header, cells = (folder / schema.SUMMARY).read_text().splitlines()
        (folder / schema.SUMMARY).write_text("\n".join(change(header, cells)) + "\n")

    return damage


def cell(column: str, value: str):
    def damage(folder: Path) -> None:
        (row,) = read_csv(folder / schema.SUMMARY)
        write_csv(folder / schema.SUMMARY, [*row], [{**row, column: value}])

    return damage


def instead(name: str, make):
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def link_out(path: Path) -> None:
    other = path.parent.parent.parent / "outside.csv"
    other.write_text("secret\n")
    path.symlink_to(other)


DAMAGES = {
    "empty": replace(schema.SUMMARY, b""),
    "blank": replace(schema.SUMMARY, b"\n\n"),
    "not UTF-8": replace(schema.SUMMARY, b"schema,run_id\n1,\xff\xfe\n"),
    "binary": replace(schema.SUMMARY, bytes(range(256))),
    "header only": edit(lambda header, cells: [header]),
    "two rows": edit(lambda header, cells: [header, cells, cells]),
    "too few fields": edit(lambda header, cells: [header, cells.rpartition(",")[0]]),
    "too many fields": edit(lambda header, cells: [header, f"{cells},more"]),
    "a column twice": edit(lambda header, cells: [f"{header},top1", f"{cells},1"]),
    "no column": edit(lambda header, cells: [header.replace("sparsity_ok", "ok"), cells]),
    "no schema": edit(lambda header, cells: [header.replace("schema", "version_of"), cells]),
    "a NUL byte": edit(lambda header, cells: [header, cells.replace("mlp8", "ml\0p8")]),
    "a huge field": edit(lambda header, cells: [header, cells.replace("mlp8", "m" * 200_000)]),
    "text for a number": cell("top1", "ninety"),
    "a number in another script": cell("top1", "９０"),
    "text for a bool": cell("sparsity_ok", "perhaps"),
    "a newer schema": cell("schema", "99"),
    "an older schema": cell("schema", "0"),
    "no number for a schema": cell("schema", "one"),
    "a folder": instead(schema.SUMMARY, lambda path: path.mkdir()),
    "a FIFO": instead(schema.SUMMARY, os.mkfifo),
    "a device": instead(schema.SUMMARY, lambda path: path.symlink_to("/dev/zero")),
    "a link out": instead(schema.SUMMARY, link_out),
    "a link to nothing": instead(schema.SUMMARY, lambda path: path.symlink_to("nothing")),
    "run.json empty": replace(schema.PROVENANCE, b""),
    "run.json a list": replace(schema.PROVENANCE, b"[1, 2]"),
    "run.json text": replace(schema.PROVENANCE, b"finished"),
    "run.json not UTF-8": replace(schema.PROVENANCE, b'{"a": "\xff"}'),
    "run.json deep": replace(schema.PROVENANCE, b"[" * 100_000),
    "run.json a FIFO": instead(schema.PROVENANCE, os.mkfifo),
    "run.json a link out": instead(schema.PROVENANCE, link_out),
}


def damaged(results: Path, what: str) -> Path:
    (folder,) = results.glob(f"*-{BAD}-*")
    DAMAGES[what](folder)
    return folder


@pytest.mark.parametrize("what", DAMAGES)
def test_every_command_leaves_a_damaged_run_out_and_says_so(what, results, tmp_path, capsys):
    folder = damaged(results, what)
    run_id = folder.name.rpartition("-")[2]
    table, merged = tmp_path / "table.csv", tmp_path / "merged"
    for argv in (
        ["collect", str(results), "-o", str(table)],
        ["collect", str(results), "--unfinished", "-o", str(table)],
        ["compare", str(results)],
        ["compare", str(results), "--unfinished"],
        ["compare", str(results), str(results), "--format", "json"],
        ["merge", str(results), "-o", str(merged)],
    ):
        assert main(argv) == 1, argv
        said = capsys.readouterr()
        assert f"{folder}: left out: " in said.err, argv
        assert said.err.splitlines()[-1].endswith("left out what cannot be read: 1 run"), argv
        assert "secret" not in said.out + said.err
        assert all(len(line) < 1000 for line in said.err.splitlines())
    assert len(read_csv(table)) == 2 and run_id not in table.read_text()
    assert len([path for path in merged.glob("*-*") if not path.name.startswith(".")]) == 2
    assert main(["status", str(results), "--format", "json"]) == 1
    states = {run["run_id"]: run for run in json.loads(capsys.readouterr().out)}
    assert sorted(run["state"] for run in states.values()) == ["damaged", "finished", "finished"]
    assert states[run_id]["state"] == "damaged" and states[run_id]["error"]
    assert main(["status", str(results)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 3  # the counts, the header, and the damaged one
    assert main(["logs", run_id, str(results)]) == 0


@pytest.mark.parametrize("what", ["empty", "text for a number", "run.json a list"])
def test_report_and_audit_and_evaluate_go_on_with_the_others(what, results, capsys):
    folder = damaged(results, what)
    assert main(["report", str(results)]) == 1
    said = capsys.readouterr()
    assert f"{folder}: left out: " in said.err and "2 of 2 runs are valid" in said.err
    assert (results / "report" / "index.html").is_file()
    assert main(["audit", str(results), "--no-accuracy"]) == 1
    said = capsys.readouterr()
    assert folder.name in said.out and "3 runs audited" in said.out
    assert main(["evaluate", str(results), "evaluate=calibration"]) == 1
    said = capsys.readouterr()
    assert said.out.count("ece ") == 2 and str(folder) in said.err


@pytest.mark.parametrize(
    ("name", "content"),
    [(schema.LAYERS, b"layer,sparsity\nx,y\n"), (schema.METRICS, b"\xff"), (schema.METRICS, b"")],
)
def test_damaged_tables_of_a_run_only_keep_it_out_of_figures(name, content, results, capsys):
    (folder,) = results.glob("*-dpf-s0.9-seed0-*")
    (folder / name).write_bytes(content)
    assert main(["report", str(results)]) == 1
    assert f"{folder}: left out: {name}" in capsys.readouterr().err
    assert (results / "report" / "index.html").is_file()


def test_a_damaged_run_is_not_run_over_but_said_in_one_line(results, capsys):
    folder = damaged(results, "empty")
    argv = ["train", "model=mlp", "model.hidden=[8]", "epochs=2", "device=cpu", "prune=dpf", "seed=1"]
    assert main([*argv, f"results_dir={results}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"sparsebench: error: path={folder}: expected a run that can be read: summary.csv: empty"
    assert main([*argv, f"results_dir={results}", "overwrite=true"]) == 0
    capsys.readouterr()
    assert main(["compare", str(results)]) == 0


def test_records_of_sweeps_that_cannot_be_read_stop_nothing(results, capsys):
    (folder,) = results.glob(f"*-{BAD}-*")
    (folder / schema.SUMMARY).unlink()
    run_id = folder.name.rpartition("-")[2]
    for name, content in (("a/plan.csv", b"\xff"), ("b/plan.csv", b"run_id\n1\n")):
        (results / ".sweeps" / name).parent.mkdir(parents=True)
        (results / ".sweeps" / name).write_bytes(content)
    (results / ".state" / f"{run_id}.failed").write_text("[")
    (results / ".state" / f"{run_id}.lease.1").write_text('{"timeout": "long", "pid": "x", "eta": "soon"}')
    (folder / schema.METRICS).write_text("step,epoch\nfirst\n")
    assert main(["status", str(results)]) == 1
    said = capsys.readouterr()
    assert said.err.count("left out") == 2 and "3 runs: 1 running, 2 finished" in said.out


def test_links_out_of_the_folder_are_not_followed(results, made, tmp_path, capsys):
    (results / "theirs").symlink_to(made)
    (results / "here").symlink_to(next(results.glob("*-dense-*")))
    for argv in (
        ["collect", str(results)],
        ["compare", str(results)],
        ["audit", str(results), "--no-accuracy"],
    ):
        assert main(argv) == 1
        said = capsys.readouterr()
        assert f"{results / 'theirs'}: left out: a link to another folder, which is not followed" in said.err
        if argv[0] == "collect":
            assert len(said.out.splitlines()) == 4, "each run once"
    (dpf,) = made.glob(f"*-{BAD}-*")
    (results / "theirs").unlink()
    shutil.rmtree(results / dpf.name)
    (results / dpf.name).symlink_to(dpf)
    for argv in (["status", str(results), "--all"], ["collect", str(results), "--unfinished"]):
        assert main(argv) == 1
        said = capsys.readouterr()
        assert f"{results / dpf.name}: left out: a link" in said.err and dpf.name not in said.out
    link = tmp_path / "link"
    link.symlink_to(made)
    assert main(["collect", str(link)]) == 0, "a link that the user names is followed"


@pytest.mark.parametrize("place", ["evaluation", "report/figures", "report"])
def test_nothing_is_written_through_links_in_a_folder_of_somebody_elses(place, results, tmp_path, capsys):
    (dense,) = results.glob("*-dense-*")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "mine.csv").write_text("mine")
    if place == "evaluation":
        (dense / place).symlink_to(victim)
        assert main(["evaluate", str(dense), "evaluate=calibration"]) == 1
    else:
        (results / place).parent.mkdir(exist_ok=True)
        (results / place).symlink_to(victim)
        assert main(["report", str(results)]) == 2
    assert "link" in capsys.readouterr().err
    assert [path.name for path in victim.iterdir()] == ["mine.csv"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user")
def test_what_may_not_be_read_is_named_and_left_out(results, capsys):
    (folder,) = results.glob(f"*-{BAD}-*")
    (results / "closed").mkdir(mode=0)
    (folder / schema.SUMMARY).chmod(0)
    for path in (results, *results.parents):
        if path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o755) if path.is_relative_to("/tmp") else None
    child = os.fork()
    if child == 0:
        os.setegid(12345)
        os.seteuid(12345)
        status = main(["collect", str(results)])
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
