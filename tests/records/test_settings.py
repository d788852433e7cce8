"""What a command says, and the dense command made from it."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsebench.records.settings import dense_command, overrides, settings, words


def test_settings_leave_out_what_columns_tell_and_where_it_ran():
    command = (
        "sparsebench train dataset=cifar10 model=resnet model.depth=32 prune=dpf seed=3 results_dir='/a b' "
    )
    command += "optimizer.lr=1e-1 +x=y ++schedule.interval=\"'8it'\" --config-dir=there hydra.verbose=true"
    assert settings(command) == {
        "optimizer.lr": "0.1",
        "x": "y",
        "schedule.interval": "8it",
    }


@given(st.text(st.sampled_from("ab=#$;[] \t\r\n\x0b\x0c\x1c\x85\xa0\u2003'\"\\")))
def test_words_are_those_of_a_shell(command):
    try:
        expected = shlex.split(command)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            words(command)
    else:
        assert words(command) == expected


@pytest.mark.parametrize("text", ["", "python train.py", "sparsebench train 'x=", "lr=1"])
def test_what_is_no_command_has_no_settings(text):
    assert overrides(text) == []


def test_the_dense_command_keeps_the_training_and_drops_the_pruning():
    command = (
        "sparsebench train recipe=quick prune=gmp sparsity=0.9 schedule.interval=8it prunable.fc=false seed=4"
    )
    assert dense_command(command, 2) == "sparsebench train recipe=quick prune=dense seed=2"
    there = "sparsebench train prune=gmp results_dir=/there overwrite=true"
    assert dense_command(there, 0) == "sparsebench train prune=dense results_dir=/there seed=0"
    assert (
        dense_command("sparsebench train epochs=1 seed=4") == "sparsebench train epochs=1 seed=4 prune=dense"
    )


def test_the_dense_command_sets_what_the_methods_config_sets_outside_pruning():
    assert dense_command("sparsebench train prune=sbp_sr", 0) == (
        "sparsebench train prune=dense model.stable=true seed=0"
    )
