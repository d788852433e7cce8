"""Numerics are chosen when a run is begun, and kept when it is resumed; a change is said, recorded, or refused."""

from __future__ import annotations

import json

import pytest
import torch

from sparsebench.cli import main
from sparsebench.files import read_csv, write_json
from sparsebench.records.run_folder import RunFolder
from sparsebench.runs.numerics import as_text, cpu_name, differences, stored_numerics

TINY = (
    "model=mlp",
    "model.hidden=[8]",
    "dataset.train_samples=64",
    "batch_size=32",
    "epochs=3",
    "prune=dpf",
    "schedule.interval=1it",
    "device=cpu",
)


@pytest.fixture
def train(tmp_path):
    """(words) -> exit status of a training in tmp_path."""
    return lambda *argv: main(["train", *TINY, f"results_dir={tmp_path}", *argv])


@pytest.fixture
def half_done(tmp_path, monkeypatch, train, capsys):
    """(words) -> the folder of a run that was interrupted in its second epoch, with a checkpoint of the first."""

    def make(*argv):
        write = RunFolder.write_metrics

        def interrupted(self, rows):
            write(self, rows)
            if len(rows) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(RunFolder, "write_metrics", interrupted)
        assert train(*argv) == 130
        monkeypatch.setattr(RunFolder, "write_metrics", write)
        (folder,) = tmp_path.glob("*-*")
        assert (folder / "checkpoint.pt").exists() and not (folder / "summary.csv").exists()
        capsys.readouterr()
        return folder

    return make


def edit(folder, **numerics):
    """As if the run had been begun with other numerics."""
    origin = json.loads((folder / "run.json").read_text())
    origin["numerics"] |= numerics
    write_json(folder / "run.json", origin)


def row(folder):
    return read_csv(folder / "summary.csv")[0]


def test_what_a_new_run_is_told_is_stored(train, tmp_path):
    assert train("channels_last=true") == 0
    (folder,) = tmp_path.glob("*-*")
    stored = stored_numerics([folder])
    assert stored == json.loads((folder / "run.json").read_text())["numerics"]
    assert stored["device"] == "cpu" and stored["channels_last"] is True and stored["compile"] is False
    assert (stored["threads"], stored["torch"], stored["ranks"]) == (1, torch.__version__, 1)
    assert row(folder)["numerics"] == as_text(stored) and row(folder)["numerics_changed_at"] == ""
    assert stored_numerics([]) == {} == stored_numerics([tmp_path / "none"])


@pytest.mark.parametrize(("begun", "asked"), [("true", "false"), ("false", "true")])
def test_a_resumed_run_keeps_its_numerics_and_says_so(half_done, train, capsys, begun, asked):
    folder = half_done(f"channels_last={begun}")
    assert train(f"channels_last={asked}") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sparsebench: ")]
    assert said == [
        f"sparsebench: channels_last={asked} is not used: the run was begun with channels_last={begun}"
    ]
    assert row(folder)["numerics_changed_at"] == ""
    assert f"channels_last={begun}" in row(folder)["command"]  # what the row was made with
    assert stored_numerics([folder])["channels_last"] is (begun == "true")
    assert f"\nchannels_last: {begun}\n" in (folder / "config.yaml").read_text()


def test_a_resumed_run_keeps_its_numerics_without_a_word_if_none_are_asked_for(half_done, train, capsys):
    folder = half_done("channels_last=true")
    assert train() == 0
    assert "sparsebench: " not in capsys.readouterr().err
    assert " channels_last " in row(folder)["numerics"]


def test_threads_are_kept_where_there_are_cores(half_done, train, capsys):
    folder = half_done("device.threads=1")
    try:
        assert train("device.threads=3") == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)
    assert "device.threads=3 is not used: the run was begun with device.threads=1" in capsys.readouterr().err
    assert "threads=1" in row(folder)["numerics"]


def test_another_machine_goes_on_with_a_line_and_the_step_in_the_row(half_done, train, capsys):
    folder = half_done()
    edit(folder, torch="1.0", threads=10_000)
    (first,) = [r["step"] for r in read_csv(folder / "metrics.csv")][:1]
    assert train() == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sparsebench: ")]
    assert said == [
        f"sparsebench: {folder}: begun with other numerics than can be had here (threads 10000 -> 1, torch 1.0 -> "
        f"{torch.__version__}): the result differs by rounding"
    ]
    assert row(folder)["numerics_changed_at"] == first
    assert f"torch={torch.__version__}" in row(folder)["numerics"]
    assert json.loads((folder / "run.json").read_text())["numerics_changed_at"] == [int(first)]


def test_a_run_without_a_checkpoint_begins_anew_with_what_there_is(half_done, train, capsys):
    folder = half_done()
    for path in folder.glob("*.pt"):
        path.unlink()
    edit(folder, torch="1.0", deterministic=True)
    assert train() == 0
    assert "other numerics" not in capsys.readouterr().err and row(folder)["numerics_changed_at"] == ""


def test_a_deterministic_run_is_not_resumed_with_other_numerics_unless_allowed(half_done, train, capsys):
    folder = half_done("deterministic=true")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    edit(folder, name="another CPU")
    before[folder / "run.json"] = (folder / "run.json").read_bytes()
    assert train("deterministic=true") == 1
    said = capsys.readouterr().err
    assert said.startswith(
        f"sparsebench: error: {folder}: begun with other numerics than can be had here (name another CPU -> "
    )
    assert (
        said.endswith(", and deterministic=true; --allow-other-numerics resumes it anyway\n")
        and said.count("\n") == 1
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert train("deterministic=false") == 1  # is kept, and refused
    capsys.readouterr()
    assert train("--allow-other-numerics") == 0
    assert row(folder)["numerics_changed_at"] and "allow_other_numerics" not in row(folder)["command"]


def test_the_precision_of_a_resumed_run_never_changes(half_done, train, tmp_path):
    folder = half_done("precision=bf16")
    assert train("precision=fp32") == 0  # another run
    assert not (folder / "summary.csv").exists() and len(list(tmp_path.glob("*/summary.csv"))) == 1
    assert train("device.precision=bf16") == 0
    assert row(folder)["precision"] == "bf16"


def test_threads_count_on_a_cpu_only():
    cpu = {"device": "cpu", "name": "a", "threads": 2, "torch": "2"}
    assert differences(cpu, {**cpu, "threads": 3}) == ["threads 2 -> 3"]
    gpu = {**cpu, "device": "cuda"}
    assert differences(gpu, {**gpu, "threads": 3}) == [] and as_text(gpu) == as_text({**gpu, "threads": 3})
    assert differences({"torch": "2"}, {**cpu, "cudnn": 9}) == []  # what is not known of an old run


def test_a_cpu_without_a_name_has_one(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: AMD EPYC\nflags : x\n")
    assert cpu_name(tmp_path / "cpuinfo") == "AMD EPYC" and cpu_name(tmp_path / "none")


def test_the_fastest_memory_format_is_measured_once_a_machine_and_network(train, tmp_path, monkeypatch):
    from sparsebench.runs import memory_format

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    measured = []
    monkeypatch.setattr(memory_format, "_faster", lambda *words: measured.append(words) or True)
    for argv in (("seed=1",), ("seed=2",), ("seed=3", "batch_size=16")):
        assert train(*argv, "channels_last=auto") == 0
    assert len(measured) == 2  # another shape is measured again
    assert set(json.loads(memory_format.remembered().read_text()).values()) == {True}
    for summary in tmp_path.glob("*/summary.csv"):
        (result,) = read_csv(summary)
        assert " channels_last " in result["numerics"] and "channels_last=true" in result["command"]


def test_a_measurement_takes_both_formats_and_leaves_random_numbers_as_they_were(tmp_path, monkeypatch):
    from sparsebench.config.open import compose_config
    from sparsebench.runs.memory_format import channels_last_is_faster

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cfg, _ = compose_config(
        [*TINY[2:], "model=resnet", "model.depth=8", "model.width=2", "channels_last=auto"]
    )
    before = torch.get_rng_state()
    first = channels_last_is_faster(cfg)
    assert isinstance(first, bool) and channels_last_is_faster(cfg) is first
    assert torch.equal(torch.get_rng_state(), before)
