from __future__ import annotations

import pytest
import torch

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.optim.lr_schedules import ConstantLR, Cosine, Multistep, OneCycle


def learning_rates(schedule, steps):
    return [schedule.factor(t) for t in range(steps)]


def of_torch(make, steps, lr=1.0):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_multistep_equals_torch():
    ours = learning_rates(Multistep(Clock(100), ["0.5", "0.75"], gamma=0.1), 100)
    assert ours == pytest.approx(of_torch(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [50, 75]), 100))


def test_cosine_equals_torch():
    ours = learning_rates(Cosine(Clock(100)), 100)
    assert ours == pytest.approx(of_torch(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100), 100))


def test_one_cycle_starts_peaks_and_ends_like_torch():
    # torch puts its peak at step pct_start * T - 1
    ours = learning_rates(OneCycle(Clock(101), peak="29it"), 101)
    theirs = of_torch(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, 101, pct_start=30 / 101, cycle_momentum=False),
        101,
    )
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_warmup_rises_to_the_schedule():
    schedule = Multistep(Clock(100), ["0.5"], warmup="4it")
    assert learning_rates(schedule, 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert learning_rates(ConstantLR(Clock(10)), 10) == [1.0] * 10


def test_dpf_recipe_drops_at_epochs_150_and_225():
    schedule = Multistep(Clock(300 * 391, 391), ["0.5", "0.75"])
    factors = learning_rates(schedule, 300 * 391)
    drops = [t / 391 for t in range(1, len(factors)) if factors[t] < factors[t - 1]]
    assert drops == [150, 225]


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: Multistep(Clock(10), "0.5"), "milestones"),
        (lambda: Multistep(Clock(10), ["soon"]), "milestones"),
        (lambda: Cosine(Clock(10), warmup="1.0"), "warmup"),
    ],
)
def test_bad_times_are_refused_by_name(make, setting):
    with pytest.raises(SettingError) as refused:
        make()
    assert refused.value.setting == setting
