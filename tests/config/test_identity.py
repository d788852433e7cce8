"""Which settings are part of a run's id, which are numerics, and which ids earlier versions gave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sparsebench.cli import main
from sparsebench.config.compose import own_hydra
from sparsebench.config.identity import config_hash, hash_of, id_of, identity, match, run_id
from sparsebench.config.open import compose_config, present_hash
from sparsebench.config.resolve import as_settings, resolve
from sparsebench.distributed import precision as table
from sparsebench.distributed.precision import automatic_precision, cpu_flags
from sparsebench.errors import SettingError
from sparsebench.records.settings import NUMERICS

IDS = json.loads((Path(__file__).parents[1] / "data" / "run_ids.json").read_text())
"""Overrides -> [run_id, config_hash] of the code before numerics left the id, and `earlier`: those that it changed."""

TINY = ("model=mlp", "model.hidden=[8]", "dataset.train_samples=50", "epochs=1", "device=cpu", "prune=dense")


@pytest.mark.parametrize("overrides", IDS["present"])
def test_ids_are_what_they_were(hydra_config, overrides):
    cfg, choices = hydra_config(*overrides.split())
    assert [run_id(cfg, choices), config_hash(cfg, choices)] == IDS["present"][overrides]


@pytest.mark.parametrize("overrides", IDS["earlier"])
def test_numerics_are_not_part_of_an_id_and_the_earlier_id_is_known(hydra_config, overrides):
    words = overrides.split()
    plain = hydra_config(*(word for word in words if word.split("=")[0] not in NUMERICS))
    cfg, choices = hydra_config(*words)
    found = identity(cfg, choices)
    assert found == identity(*plain) and id_of(found) != IDS["earlier"][overrides][0]
    known = match(found, cfg, lambda run: run == IDS["earlier"][overrides][0])
    assert [id_of(known), hash_of(known)] == IDS["earlier"][overrides]
    # By a command that does not set them too: it is the same run.
    assert match(identity(*plain), plain[0], lambda run: run == id_of(known)) == known
    assert match(found, cfg, lambda run: False) == found


def test_of_two_earlier_runs_a_command_finds_its_own(hydra_config):
    cfg, choices = hydra_config("channels_last=true")
    plain, own = identity(cfg, choices), IDS["earlier"]["channels_last=true"][0]
    assert id_of(match(plain, cfg, {id_of(plain), own}.__contains__)) == own
    default, _ = hydra_config()
    assert match(plain, default, {id_of(plain), own}.__contains__) == plain


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID"])
def test_ranks_count_where_each_normalises_alone(hydra_config, monkeypatch, name):
    one, joint = run_id(*hydra_config()), run_id(*hydra_config("sync_bn=true"))
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1",
             "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}  # fmt: skip
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for variable, value in (torchrun if name == "RANK" else slurm).items():
        monkeypatch.setenv(variable, value)
    two = run_id(*hydra_config("device=ddp"))
    assert two != one == run_id(*hydra_config("device=cpu"))
    assert run_id(*hydra_config("device=ddp", "sync_bn=true")) == joint
    cfg, choices = hydra_config("device=ddp")
    assert id_of(identity(cfg, choices, ranks=2)) == two != id_of(identity(cfg, choices, ranks=3))
    assert id_of(identity(cfg, choices, ranks=1)) == one
    assert match(identity(cfg, choices), cfg, lambda run: run == one) == identity(cfg, choices, ranks=1)


@pytest.mark.parametrize("setting", ["precision=bf16", "accumulate=2", "sync_bn=true"])
def test_what_changes_more_than_rounding_is_part_of_the_id(hydra_config, setting):
    assert run_id(*hydra_config(setting)) != run_id(*hydra_config())


def test_a_setting_of_the_device_that_repeats_another_is_that_one():
    plain = compose_config(["precision=bf16"])
    assert run_id_of("device.precision=bf16") == run_id_of("precision=bf16") != run_id_of()
    assert compose_config(["device.precision=bf16"]) == plain
    assert run_id_of("device.timeout=3.0", "device=ddp") == run_id_of() == run_id_of("device.threads=2")
    both = ["precision=bf16", "device.precision='bf16'"]
    assert as_settings(both) == ["precision=bf16"] and compose_config(both) == plain
    assert as_settings(["++device.compile=true", "~device.timeout"]) == ["compile=true", "~device.timeout"]


def run_id_of(*overrides):
    cfg, choices = compose_config(overrides)
    with own_hydra():
        return run_id(cfg, choices)


def test_two_values_of_one_setting_are_refused(tmp_path, capsys):
    argv = ["train", *TINY, f"results_dir={tmp_path}", "precision=fp32", "device.precision=bf16"]
    assert main(argv) == 2
    assert capsys.readouterr().err == (
        "sparsebench: error: device.precision=bf16: expected the value of precision, fp32, which it repeats; "
        "set one of them\n"
    )
    assert main(["sweep", *argv[1:]]) == 2 and not list(tmp_path.iterdir())


def test_a_file_may_set_the_devices_precision(hydra_config):
    cfg, choices = hydra_config()
    cfg.device.precision = "bf16"  # as a YAML file of another package does
    resolve(cfg)
    assert cfg.precision == "bf16" == cfg.device.precision
    assert run_id(cfg, choices) == run_id(*hydra_config("precision=bf16"))
    assert OmegaConf.to_container(cfg.device, resolve=False)["precision"] == "${precision}"
    cfg.device.precision = "fp16"
    with pytest.raises(SettingError, match=r"^device.precision=fp16: expected the value of precision, bf16"):
        resolve(cfg)


def test_the_devices_precision_is_another_run_whose_command_makes_it_again(tmp_path, capsys):
    argv = ["train", *TINY, f"results_dir={tmp_path}"]
    for more in ("precision=fp32", "device.precision=bf16"):
        assert main([*argv, more]) == 0
        assert "already finished" not in capsys.readouterr().out
    (found,) = [
        path
        for path in tmp_path.glob("*-*")
        if json.loads((path / "run.json").read_text())["precision"] == "bf16"
    ]
    assert main(json.loads((found / "run.json").read_text())["command"].replace("'", "").split()[1:]) == 0
    assert f"{found}: already finished" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*-*"))) == 2


def test_an_automatic_precision_is_as_if_typed(tmp_path, capsys):
    typed = automatic_precision("cpu")
    assert run_id_of("precision=auto", "device=cpu") == run_id_of(f"precision={typed}", "device=cpu")
    assert main(["train", *TINY, f"results_dir={tmp_path}", "precision=auto"]) == 0
    (found,) = tmp_path.glob("*-*")
    origin = json.loads((found / "run.json").read_text())
    assert origin["precision"] == typed and f"precision={typed}" in origin["command"]
    assert "precision=auto" not in origin["command"]
    assert main(["train", *TINY, f"results_dir={tmp_path}", f"precision={typed}"]) == 0
    assert "already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("avx2 amx_bf16 amx_tile", "bf16"),
        ("avx512f avx512_bf16", "bf16"),
        ("avx512f avx512_vnni", "fp32"),
        ("", "fp32"),
    ],
)
def test_bf16_is_automatic_on_a_cpu_that_has_it(tmp_path, monkeypatch, flags, precision):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    there = cpu_flags(tmp_path / "cpuinfo")
    assert there == set(flags.split())
    monkeypatch.setattr(table, "cpu_flags", lambda path: there)
    assert automatic_precision("cpu") == precision
    assert cpu_flags(tmp_path / "missing") == set()


def test_the_hash_of_an_earlier_version_is_translated_where_it_is_shown_to_be_the_same():
    earlier, (_, plain) = (
        IDS["earlier"]["compile=true channels_last=true prune=gmp"],
        IDS["present"]["prune=gmp"],
    )
    command = "sparsebench train compile=true channels_last=true prune=gmp"
    assert present_hash(command, earlier[1]) == plain
    assert present_hash(command, plain) == plain
    assert present_hash(command, "0123456789") == "0123456789"
    assert present_hash("sparsebench train no=setting", earlier[1]) == earlier[1]
