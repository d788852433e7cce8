from __future__ import annotations

import pytest

from sparsebench.records.run_folder import (
    finished_runs,
    is_finished,
    is_run,
    run_id_of,
    training_of,
    unfinished,
)
from sparsebench.records.states import ResultsFolder

NAME = "cifar10-resnet20-lottery-s0.9-seed3-training12-0123456789"


@pytest.mark.parametrize(
    ("files", "finished", "run"),
    [(["summary.csv"], True, True), (["run.json"], False, True), (["config.yaml"], False, False)],
)
def test_a_folder_is_a_run_by_its_provenance_and_finished_by_its_summary(tmp_path, files, finished, run):
    folder = tmp_path / NAME
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    assert (is_finished(folder), is_run(folder)) == (finished, run)
    assert (finished_runs(tmp_path), unfinished(tmp_path)) == (
        [folder] * finished,
        [folder] * (run - finished),
    )
    assert finished_runs(folder / "no_such_folder") == []


def test_a_folders_name_says_the_run_id_and_the_training(tmp_path):
    (tmp_path / NAME).mkdir()
    assert run_id_of(tmp_path / NAME) == "0123456789" and ResultsFolder(tmp_path).folders == {
        "0123456789": tmp_path / NAME
    }
    assert training_of(tmp_path / NAME) == 12
    assert training_of(tmp_path / "digits-mlp-dpf-s0.9-seed0-0123456789") is None
