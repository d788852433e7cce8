from __future__ import annotations

import pytest
import torch

from sparsebench.data.mixing import Mix
from sparsebench.errors import SettingError


def batch(n=6):
    inputs = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return inputs, torch.arange(n) % 4


def test_mixup_is_between_an_image_and_the_one_before_it():
    inputs, targets = batch()
    mixed, soft = Mix(0.4, 0.0, 4, seed=0)(3, inputs, targets)
    share = float(soft[1, 1])  # of its own class; its neighbour has another
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * inputs + (1 - share) * inputs.roll(1, 0))
    torch.testing.assert_close(soft.sum(1), torch.ones(6))


def test_cutmix_takes_a_rectangle_of_the_one_before_it_and_its_share_of_the_target():
    inputs, targets = batch()
    mixed, soft = Mix(0.0, 1.0, 4, seed=0)(3, inputs, targets)
    theirs = (mixed == inputs.roll(1, 0)).all(1)
    assert ((mixed == inputs).all(1) | theirs).all() and 0 < theirs[0].float().mean() < 1
    torch.testing.assert_close(soft[1, 0], theirs[1].float().mean())


def test_what_is_mixed_is_a_function_of_seed_and_step():
    inputs, targets = batch()
    before = torch.random.get_rng_state()
    mix = Mix(0.2, 1.0, 4, seed=1)
    one, again = mix(5, inputs, targets), mix(5, inputs, targets)
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(mix(6, inputs, targets)[0], one[0])
    assert not torch.equal(Mix(0.2, 1.0, 4, seed=2)(5, inputs, targets)[0], one[0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_of_both_kinds_each_is_used_for_half_of_the_steps():
    inputs, targets = batch()
    mix = Mix(0.2, 1.0, 4, seed=0)
    cut = sum(
        bool(((x := mix(step, inputs, targets)[0]) == inputs).any()) or torch.equal(x, inputs.roll(1, 0))
        for step in range(200)
    )
    assert 70 < cut < 130


@pytest.mark.parametrize(
    ("mixup", "cutmix", "setting"), [(-1.0, 0.0, "mixup"), (0.0, float("nan"), "cutmix")]
)
def test_an_alpha_that_is_none_is_refused(mixup, cutmix, setting):
    with pytest.raises(SettingError, match=rf"^{setting}="):
        Mix(mixup, cutmix, 10, 0)
