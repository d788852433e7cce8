from __future__ import annotations

import pytest
import torch

from sparsebench.files import atomic, write_csv
from sparsebench.training.checkpoint import Checkpoint


@pytest.fixture
def said():
    return []


@pytest.fixture
def checkpoint(tmp_path, said):
    return Checkpoint(tmp_path, said.append)


def test_the_newest_state_comes_back(checkpoint):
    assert checkpoint.load() is None
    checkpoint.save({"step": 1, "w": torch.arange(3.0)})
    checkpoint.save({"step": 2, "w": torch.ones(3)})
    state = checkpoint.load()
    assert state["step"] == 2 and torch.equal(state["w"], torch.ones(3))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_corrupt_checkpoint_is_reported_set_aside_and_the_one_before_used(checkpoint, said, damage):
    checkpoint.save({"step": 1})
    checkpoint.save({"step": 2})
    content = bytearray(checkpoint.newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    broken = {"truncated": content[:-10], "flipped": content, "empty": b"", "foreign": b"PK\x03\x04"}[damage]
    checkpoint.newest.write_bytes(broken)
    assert checkpoint.load()["step"] == 1
    assert len(said) == 1 and "checkpoint.pt: corrupt checkpoint" in said[0]
    assert checkpoint.newest.with_name("checkpoint.corrupt.pt").read_bytes() == bytes(broken)
    assert not checkpoint.newest.exists()


def test_with_both_corrupt_the_run_starts_from_scratch(checkpoint, said):
    checkpoint.save({"step": 1})
    checkpoint.save({"step": 2})
    checkpoint.newest.write_bytes(b"x")
    checkpoint.previous.write_bytes(b"y")
    assert checkpoint.load() is None
    assert len(said) == 2


def test_a_kill_between_the_two_renames_loses_one_state_at_most(checkpoint):
    checkpoint.save({"step": 1})
    checkpoint.newest.replace(checkpoint.previous)
    assert checkpoint.load()["step"] == 1


def test_remove_deletes_both(checkpoint, tmp_path):
    checkpoint.save({"step": 1})
    checkpoint.save({"step": 2})
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.csv"
    write_csv(path, ["x", "y"], [{"x": 0.1, "y": "a,b"}])

    def fail():
        with atomic(path) as file:
            file.write(b"half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert path.read_text() == 'x,y\n0.1,"a,b"\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
