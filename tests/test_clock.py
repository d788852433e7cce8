from __future__ import annotations

import pytest

from sparsebench.clock import Clock
from sparsebench.errors import SettingError

CLOCK = Clock(total_steps=1000, steps_per_epoch=100)


@pytest.mark.parametrize(
    ("time", "steps"),
    [("0.75", 750), (0.75, 750), ("1.0", 1000), (0.0, 0), ("30ep", 3000), ("2.5ep", 250), ("500it", 500), (0, 0),
     ("0", 0), (".5", 500), ("16.0it", 16), ("0.0005", 1)],
)  # fmt: skip
def test_times_become_steps(time, steps):
    assert CLOCK.steps(time) == steps


@pytest.mark.parametrize("time", ["abc", "-1", -0.5, "1.5", 1.5, "16.5it", "30 ep", True, None, [1]])
def test_what_is_not_a_time_is_refused_with_its_setting(time):
    with pytest.raises(SettingError, match=r"^interval.*: expected a time"):
        CLOCK.steps(time, "interval")


@pytest.mark.parametrize("time", [1, 16, "16", 150, "225"])
def test_a_whole_number_needs_a_unit(time):
    for convert in (CLOCK.steps, CLOCK.duration):
        with pytest.raises(SettingError) as refused:
            convert(time, "milestones")
        assert str(refused.value) == (
            f"milestones={time}: expected a time with a unit: {time}ep for epochs or {time}it for steps, "
            "or a fraction such as 0.5"
        )


def test_an_extended_training_moves_times_and_keeps_durations():
    clock = Clock(total_steps=5000, steps_per_epoch=100, extend=5)
    assert [clock.steps(time) for time in ("0.75", "3ep", "500it", "16it")] == [3750, 1500, 2500, 80]
    assert [clock.duration(time) for time in ("0.75", "3ep", "500it", "16it")] == [3750, 300, 500, 16]


@pytest.mark.parametrize("lengths", [(0, 1), (10, 0)])
def test_a_training_has_at_least_one_step(lengths):
    with pytest.raises(SettingError):
        Clock(*lengths)


def test_a_duration_is_at_least_one_step_of_a_short_training():
    clock = Clock(25, 5)
    assert [clock.duration(t) for t in ("0.016", "0.05ep", "0.2", "7it", "3it")] == [1, 1, 5, 7, 3]
    assert [clock.duration(t) for t in (0, "0.0", "0ep")] == [0, 0, 0]
