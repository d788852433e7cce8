from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.schedules import Constant, Cubic, Linear, OneShotSchedule

RAMPS = [Cubic, Linear]


def test_cubic_of_zhu_and_gupta_by_hand():
    schedule = Cubic(Clock(11), sparsity=0.9, interval="1it", end="10it")
    expected = [0, 0.2439, 0.4392, 0.5913, 0.7056, 0.7875, 0.8424, 0.8757, 0.8928, 0.8991, 0.9]
    assert [schedule.sparsity(t) for t in range(11)] == pytest.approx(expected, abs=1e-12)


def test_cubic_equals_its_formula_at_every_update():
    schedule = Cubic(Clock(100_000), sparsity=0.95, start="1000it", end="75000it", interval="1000it")
    for k in range(75):
        assert schedule.sparsity(1000 + 1000 * k) == pytest.approx(0.95 - 0.95 * (1 - k / 74) ** 3, abs=1e-12)


def test_linear_by_hand():
    schedule = Linear(Clock(10), sparsity=0.8, interval="2it", end="8it")
    assert [schedule.sparsity(t) for t in range(10)] == pytest.approx(
        [0, 0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8]
    )


def test_mean_sparsity_of_a_ramp_over_three_quarters_is_0_8125_of_the_target():
    schedule = Cubic(Clock(100_000), sparsity=0.9, interval="1it", end="0.75")
    mean = sum(schedule.sparsity(t) for t in range(100_000)) / 100_000
    assert mean == pytest.approx(0.8125 * 0.9, abs=1e-4)


@given(
    total=st.integers(50, 3000),
    interval=st.integers(1, 16),
    target=st.floats(0, 0.999),
    end=st.floats(0.4, 0.95),
    ramp=st.sampled_from(RAMPS),
)
def test_ramps_rise_only_at_updates_from_zero_to_the_target(total, interval, target, end, ramp):
    clock = Clock(total)
    schedule = ramp(clock, sparsity=target, end=end, interval=f"{interval}it")
    values = [schedule.sparsity(t) for t in range(total)]
    assert values[0] == 0
    assert values[-1] == target
    assert values[clock.steps(end)] == target
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert all(schedule.due(t) for t in range(1, total) if values[t] != values[t - 1])
    assert [t for t in range(total) if schedule.due(t)] == list(range(0, total, interval))


def test_masks_stop_changing_at_stop():
    schedule = Cubic(Clock(100), sparsity=0.9, end="0.5", interval="10it", stop="0.75")
    assert [t for t in range(100) if schedule.due(t)] == [0, 10, 20, 30, 40, 50, 60, 70]


def test_constant_and_one_shot_by_hand():
    constant = Constant(Clock(10), sparsity=0.5, start="2it", interval="4it")
    assert [constant.sparsity(t) for t in range(10)] == [0, 0] + [0.5] * 8
    assert [t for t in range(10) if constant.due(t)] == [2, 6]
    one_shot = OneShotSchedule(Clock(10), sparsity=0.5, at="0.6")
    assert [one_shot.sparsity(t) for t in range(10)] == [0] * 6 + [0.5] * 4
    assert [t for t in range(10) if one_shot.due(t)] == [6]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.2, "0.9", True, None])
@pytest.mark.parametrize("schedule", [Cubic, Linear, Constant, OneShotSchedule])
def test_a_sparsity_outside_0_to_1_is_refused(schedule, sparsity):
    with pytest.raises(SettingError, match=r"^sparsity.* in \[0, 1\)"):
        schedule(Clock(1000), sparsity=sparsity)


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: Cubic(Clock(100), 0.9, interval=0), "interval"),
        (lambda: Cubic(Clock(100), 0.9, end="1.0", interval="1it"), "end"),
        (lambda: Cubic(Clock(100), 0.9, end="10it"), "end"),
        (lambda: Cubic(Clock(100), 0.9, end="0.75", stop="0.5"), "end"),
        (lambda: Cubic(Clock(100), 0.9, start="100it"), "start"),
        (lambda: Constant(Clock(100), 0.9, start="1.0"), "start"),
        (lambda: OneShotSchedule(Clock(100), 0.9, at="1.0"), "at"),
    ],
)
def test_a_schedule_that_cannot_reach_its_target_is_refused_by_name(make, setting):
    with pytest.raises(SettingError) as refused:
        make()
    assert refused.value.setting == setting


def test_an_extended_training_moves_every_time_and_keeps_the_interval(hydra_config):
    from sparsebench.runs.build import build_run

    small = ("device=cpu", "model.depth=8", "epochs=10", "lr_schedule.milestones=[5ep,0.8]", "ramp_end=6ep")
    one, five = (build_run(hydra_config(*small, f"extend={factor}")[0]) for factor in (1, 5))
    assert five.clock.total_steps == 5 * one.clock.total_steps
    assert five.lr_schedule.milestones == [5 * step for step in one.lr_schedule.milestones]
    assert five.pruner.schedule.interval == one.pruner.schedule.interval == 16
    ramps = [made.pruner.schedule.updates * 16 for made in (one, five)]
    assert ramps[1] == pytest.approx(5 * ramps[0], abs=5 * 16)
