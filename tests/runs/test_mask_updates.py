"""How often masks were set: counted, kept over a stop, and enough for a method that drops and grows."""

from __future__ import annotations

import pytest

from sparsebench.cli import main
from sparsebench.files import read_csv
from sparsebench.records.run_folder import RunFolder
from sparsebench.training.metrics import MaskUpdates

TINY = (
    "model=mlp",
    "model.hidden=[8]",
    "dataset.train_samples=320",
    "batch_size=32",
    "epochs=2",
    "device=cpu",
)
"""Twenty steps."""

GROWING = ("set", "rigl", "srigl", "snfs", "itop", "granet", "mest", "dsr")


def row(folder):
    ((found,),) = [read_csv(path) for path in folder.glob("*/summary.csv")]
    return found


@pytest.mark.parametrize(
    ("argv", "count", "last"),
    [
        (("prune=dense",), "0", ""),
        (("prune=snip",), "0", ""),  # its mask is made before the first step
        (("prune=one_shot", "schedule.at=0.5"), "1", "10"),
        (("prune=rigl", "schedule.interval=4it", "schedule.stop=14it"), "4", "12"),
        (("prune=itop", "schedule.interval=6it"), "3", "18"),
        (("prune=dpf", "schedule.interval=5it"), "4", "15"),
        (("prune=ste",), "20", "19"),
    ],
)
def test_a_row_says_at_how_many_steps_masks_were_set_and_the_last(tmp_path, argv, count, last):
    assert main(["train", *TINY, *argv, f"results_dir={tmp_path}"]) == 0
    assert (row(tmp_path)["mask_updates"], row(tmp_path)["last_update_step"]) == (count, last)


def test_the_count_is_kept_over_a_stop(tmp_path, monkeypatch):
    argv = ["train", *TINY, "prune=set", "schedule.interval=3it", "save_every=5it", "eval_every=7it"]
    assert main([*argv, f"results_dir={tmp_path / 'whole'}"]) == 0
    write, calls = RunFolder.write_metrics, []

    def interrupted(self, rows):
        write(self, rows)
        calls.append(len(rows))
        if len(rows) == 2 and calls.count(2) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_metrics", interrupted)
    assert main([*argv, f"results_dir={tmp_path / 'broken'}"]) == 130
    assert main([*argv, f"results_dir={tmp_path / 'broken'}"]) == 0
    names = ("mask_updates", "last_update_step", "weights_hash")
    whole, broken = ([row(tmp_path / name)[column] for column in names] for name in ("whole", "broken"))
    assert whole == broken and whole[:2] == ["6", "18"]


def test_what_an_earlier_version_did_not_count_is_empty():
    counted = MaskUpdates(**{"count": None})
    counted.seen(3, 0, 1)
    assert counted.columns() == {"mask_updates": "", "last_update_step": ""}


@pytest.mark.parametrize("method", GROWING)
def test_a_method_that_drops_and_grows_has_three_updates_or_is_refused(method, tmp_path, capsys):
    few = ["schedule.interval=15it"]
    if method == "dsr":
        few.append("schedule.doublings=[0.9]")
    if method == "mest":  # the start of a stage is an update too
        few += ["prune.stages=[0.9]", "prune.margins=[0.2,0.0]"]
    argv = ["train", *TINY, f"prune={method}", f"results_dir={tmp_path}"]
    if method == "granet":
        few.append("schedule.end=15it")
    assert main([*argv, *few]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sparsebench: error: schedule.interval=15it: expected at least 3 mask updates;")
    longest = int(line.partition("schedule.interval to at most ")[2].partition("it")[0])
    assert not list(tmp_path.iterdir())
    more = [f"schedule.interval={longest}it" if "interval" in word else word for word in few]
    assert main([*argv, *more]) == 0 and int(row(tmp_path)["mask_updates"]) >= 3


def test_the_defaults_of_methods_that_drop_and_grow_suffice_in_a_short_training(tmp_path):
    for method in GROWING:
        assert main(["train", *TINY, f"prune={method}", f"results_dir={tmp_path / method}"]) == 0
        assert int(row(tmp_path / method)["mask_updates"]) >= 3


def test_a_smoke_test_only_says_so(tmp_path, capsys):
    argv = ["train", "prune=rigl", "scale=smoke", "schedule.interval=100it", "model=mlp", "device=cpu"]
    assert main([*argv, f"results_dir={tmp_path}"]) == 0
    assert "note: schedule.interval=100it: expected at least 3 mask updates" in capsys.readouterr().err
