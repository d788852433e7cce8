"""Runs of earlier versions, whose config_hash counts numerics, in one table with runs of today."""

from __future__ import annotations

import json

from sparsebench.compare.comparison import compare
from sparsebench.records.collect import read
from tests.support import ROOT
from tests.support.tables import table, told

IDS = json.loads((ROOT / "tests" / "data" / "run_ids.json").read_text())
WORDS = "compile=true channels_last=true prune=gmp"
EARLIER, NOW = IDS["earlier"][WORDS][1], IDS["present"]["prune=gmp"][1]


def rows(*hashes):
    """A run of one seed for each hash; the first command sets numerics."""
    commands = [f"sparsebench train {WORDS}", *["sparsebench train prune=gmp"] * (len(hashes) - 1)]
    return [
        told(
            "gmp", 0.9, seed, 90 + seed, config_hash=one, run_id=f"r{seed}", command=f"{command} seed={seed}"
        )
        for seed, (one, command) in enumerate(zip(hashes, commands, strict=True))
    ]


def found(path):
    return compare([(path.name, read(path))]).frame.to_dict("records")


def test_they_are_one_configuration(tmp_path):
    (one,) = found(table(tmp_path, "t", rows(EARLIER, NOW, NOW)))
    assert (one["n"], one["mean"]) == (3, 91)


def test_a_hash_that_is_not_shown_to_be_the_same_stays_apart(tmp_path):
    assert [one["n"] for one in found(table(tmp_path, "t", rows("0123456789", NOW, NOW)))] == [1, 2]
