"""What a run computes changes only where an option's revision says so."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from omegaconf import OmegaConf

from sparsebench.cli import main
from sparsebench.config.compose import own_hydra
from sparsebench.config.identity import id_of, identity, run_id
from sparsebench.config.open import compose_config, reopen_config
from sparsebench.config.revisions import PAST_DEFAULTS, past_defaults
from sparsebench.errors import SettingError
from tests.support import option_snapshot
from tests.support.option_snapshot import RECORD, all_options, differs, present

RECORDED = json.loads(RECORD.read_text())


@pytest.mark.parametrize("name", all_options())
def test_defaults_and_weights_change_only_with_the_revision(name):
    now = present(name)
    assert name in RECORDED, "a new option: python -m tests.support.option_snapshot"
    changed = differs(RECORDED[name], now)
    assert not changed, (
        f"{changed} of {name} changed: raise its revision, then python -m tests.support.option_snapshot"
    )
    assert now["revision"] == RECORDED[name]["revision"]


def test_a_change_without_a_revision_is_found_and_not_recorded(tmp_path, monkeypatch, capsys):
    record = copy.deepcopy(RECORDED)
    record["schedule/cubic"]["defaults"]["interval"] = "8it"
    record["score/magnitude"]["fingerprint"][1] += 0.1
    record["train"]["defaults"]["label_smoothing"] = 0.1
    monkeypatch.setattr(option_snapshot, "RECORD", tmp_path / "options.json")
    monkeypatch.setattr(
        option_snapshot, "all_options", lambda: ["schedule/cubic", "score/magnitude", "train"]
    )
    (tmp_path / "options.json").write_text(json.dumps(record))
    assert option_snapshot.main() == 1
    assert capsys.readouterr().err.splitlines() == [
        "schedule/cubic: interval changed: raise its revision",
        "score/magnitude: the weights after some steps changed: raise its revision",
        "train: label_smoothing changed: raise its revision",
    ]
    kept = json.loads((tmp_path / "options.json").read_text())
    assert kept == {name: record[name] for name in ("schedule/cubic", "score/magnitude", "train")}


@pytest.mark.parametrize(("group", "key"), [("schedule", "schedule.revision"), ("train", "revision")])
def test_a_revision_is_part_of_the_id_from_two_on(hydra_config, group, key):
    cfg, choices = hydra_config("prune=gmp")
    plain = identity(cfg, choices)
    OmegaConf.update(cfg, key, 1, force_add=True)
    assert identity(cfg, choices) == plain
    OmegaConf.update(cfg, key, 2, force_add=True)
    found = identity(cfg, choices)
    assert found == {**plain, "revisions": {group: 2}} and id_of(found) != id_of(plain)


def test_the_revision_of_an_option_that_is_not_used_does_not_count(hydra_config):
    cfg, choices = hydra_config("prune=dense")
    before = run_id(cfg, choices)
    OmegaConf.update(cfg, "schedule.revision", 2, force_add=True)
    assert run_id(cfg, choices) == before


@pytest.mark.parametrize("override", ["+revision=2", "schedule.revision=7", "+prune.revision=2"])
def test_a_revision_is_no_setting(override, tmp_path, capsys):
    argv = ["train", "prune=rigl", override, f"results_dir={tmp_path}"]
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_an_earlier_run_is_judged_by_the_defaults_of_its_own_revision():
    past = yaml.safe_load(PAST_DEFAULTS.read_text())
    assert past["schedule/dynamic"][1] == {"interval": "100it"}
    cfg, choices = compose_config(["prune=rigl", "schedule.interval=100it"])
    del cfg.schedule.revision  # as an earlier version wrote it
    assert past_defaults(cfg, choices) == {"schedule.interval": "100it"}
    opened = reopen_config(OmegaConf.to_yaml(cfg, resolve=True), choices)
    assert opened.run_id == "4d27469cf0"  # what earlier versions gave to prune=rigl
    assert "schedule.interval" not in opened.changed
    cfg, choices = compose_config(["prune=rigl"])
    assert past_defaults(cfg, choices) == {}
    with own_hydra():
        assert run_id(cfg, choices) != "4d27469cf0"


@pytest.mark.parametrize("name", sorted(yaml.safe_load(PAST_DEFAULTS.read_text())))
def test_past_defaults_are_of_settings_that_exist_and_of_earlier_revisions(name):
    for revision, values in yaml.safe_load(PAST_DEFAULTS.read_text())[name].items():
        assert 1 <= revision < RECORDED[name]["revision"]
        assert values.keys() <= RECORDED[name]["defaults"].keys()


def test_a_revision_that_is_no_number_is_refused(hydra_config):
    cfg, choices = hydra_config("prune=gmp")
    OmegaConf.update(cfg, "schedule.revision", "new", force_add=True)
    with pytest.raises(SettingError, match=r"^schedule.revision=new: expected an integer, at least 1"):
        identity(cfg, choices)
