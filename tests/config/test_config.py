from __future__ import annotations

import re

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from sparsebench.config.build import build
from sparsebench.config.identity import config_hash, run_id
from sparsebench.config.open import validate
from sparsebench.errors import SettingError
from sparsebench.paths import config_dir
from tests.support.configs import options

GROUPS = sorted(path.name for path in config_dir().iterdir() if path.is_dir() and path.name != "theory")


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in options(g)])
def test_every_option_of_every_group_composes_and_is_valid(hydra_config, group, option):
    cfg, choices = hydra_config(f"{group}={option}")
    assert choices[group] == option
    if required := sorted(OmegaConf.missing_keys(cfg)):
        with pytest.raises(SettingError, match=f"^{re.escape(required[0])}: expected a value"):
            validate(cfg, choices)
    elif option != "cuda":
        validate(cfg, choices)


def identify(hydra_config, *overrides):
    return run_id(*hydra_config(*overrides))


def test_a_run_is_named_by_what_it_is_not_by_how_it_was_written(hydra_config):
    base = identify(hydra_config)
    assert identify(hydra_config, "seed=0", "prune=dpf", "sparsity=0.9") == base  # equal to the defaults
    assert (
        identify(hydra_config, "results_dir=elsewhere", "data_root=/x", "device=cpu", "save_every=3it")
        == base
    )
    quick = identify(hydra_config, "recipe=quick")
    by_hand = identify(
        hydra_config, "lr_schedule=one_cycle", "epochs=10", "batch_size=128", "ramp_end='0.5'", "optimizer.lr=0.2",
        "optimizer.weight_decay=5e-4",
    )  # fmt: skip
    assert quick == by_hand != base
    assert identify(hydra_config, "extend=2") == identify(hydra_config, "extend=2.0") != base


@pytest.mark.parametrize(
    "change",
    ["seed=1", "sparsity=0.8", "prune=gmp", "model.depth=32", "dataset=cifar10", "optimizer.lr=0.05", "precision=bf16",
     "schedule.interval=8it", "allocation=erk", "prunable.last_fc=true", "epochs=41", "accumulate=2",
     "dataset.train_samples=500", "eval_every=2ep"],
)  # fmt: skip
def test_what_changes_the_training_changes_the_name(hydra_config, change):
    assert identify(hydra_config, change) != identify(hydra_config)


def test_seeds_share_a_config_hash(hydra_config):
    first, second = hydra_config("seed=1"), hydra_config("seed=2")
    assert config_hash(*first) == config_hash(*second) and run_id(*first) != run_id(*second)
    assert config_hash(*hydra_config("sparsity=0.8")) != config_hash(*first)


def test_the_trainings_of_a_run_have_names_of_their_own(hydra_config):
    cfg, choices = hydra_config("prune=imp")
    for name in (run_id, config_hash):
        assert (
            name(cfg, choices, 0) == name(cfg, choices)
            and len({name(cfg, choices, n) for n in range(4)}) == 4
        )


def test_a_dense_run_does_not_depend_on_what_it_does_not_use(hydra_config):
    base = identify(hydra_config, "prune=dense")
    unused = ("sparsity=0.5", "schedule=linear", "schedule.interval=3it", "allocation=erk", "ramp_end='0.5'")
    assert all(identify(hydra_config, "prune=dense", change) == base for change in unused)
    assert identify(hydra_config, "prune=dense", "epochs=3") != base


def test_a_method_brings_its_schedule_and_the_command_line_wins(hydra_config):
    assert hydra_config("prune=random")[1]["allocation"] == "erk"
    assert hydra_config("prune=random", "allocation=uniform")[1]["allocation"] == "uniform"
    assert hydra_config("prune=one_shot")[1]["schedule"] == "one_shot"


def test_errors_name_the_setting_as_the_user_writes_it(hydra_config):
    from sparsebench.clock import Clock

    cfg, _ = hydra_config("ramp_end=2.5")
    with pytest.raises(SettingError, match=r"^ramp_end=2.5: expected a time"):
        build(cfg.schedule, "schedule", clock=Clock(100))
    cfg, _ = hydra_config("schedule.interval=0it")
    with pytest.raises(SettingError, match=r"^schedule.interval=0it: expected at least one step"):
        build(cfg.schedule, "schedule", clock=Clock(100))


def test_build_passes_runtime_objects_as_they_are(hydra_config):
    from sparsebench.clock import Clock

    clock = Clock(100)  # a dataclass: Hydra's instantiate alone would turn it into a config
    cfg, _ = hydra_config("lr_schedule=cosine")
    assert build(cfg.lr_schedule, clock=clock, unknown="left out").clock is clock
    assert GlobalHydra.instance().is_initialized()
