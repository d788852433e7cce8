from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Global
from sparsebench.pruning.methods.acdc import ACDC
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Alternating
from sparsebench.pruning.scores import Magnitude


def test_the_phases_on_imagenet_are_those_of_the_paper(hydra_config):
    from sparsebench.config.build import build

    cfg, _ = hydra_config("prune=acdc")
    schedule = build(cfg.schedule, "schedule", clock=Clock(1000, 10))
    sparse = [epoch for epoch in range(100) if schedule.sparsity(10 * epoch) > 0]
    assert sparse == [e for start in range(10, 80, 10) for e in range(start, start + 5)] + list(
        range(85, 100)
    )
    assert [t // 10 for t in range(1000) if schedule.due(t)] == [*range(10, 80, 5), 85]


@pytest.mark.parametrize(
    ("sparse", "dense"),
    [(["0.5"], ["0.2"]), (["0.2", "0.6"], []), (["0.2", "0.6"], ["0.7"]), (["1.0"], []), ([], [])],
)
def test_phases_that_do_not_alternate_or_end_dense_are_refused(sparse, dense):
    with pytest.raises(SettingError, match=r"^dense_starts"):
        Alternating(Clock(100), 0.5, sparse, dense)


def test_four_weights_by_hand():
    weight, bias = nn.Parameter(torch.tensor([4.0, 1.0, 3.0, 2.0])), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight, bias], lr=1.0, momentum=0.5)
    weights = MaskedParameters({"w": weight}, optimizer)
    pruner = ACDC(weights, Alternating(Clock(4), 0.5, ["1it", "3it"], ["2it"]), Global(), Magnitude())
    seen = []
    for step in range(4):
        optimizer.zero_grad()
        pruner.before_forward(step)
        (0.5 * weight.sum() + bias.sum()).backward()  # gradients 0.5 and 1
        assert pruner.after_backward(step)
        optimizer.step()
        pruner.after_step(step)
        seen.append((weight.tolist(), optimizer.state[bias]["momentum_buffer"].item()))
    # dense: -0.5; compressed to {4, 3}: momentum 0.75; decompressed: momentum from zero, the pruned from zero;
    # compressed again to {2.25, 1.25}: momentum 0.75
    assert seen[0] == ([3.5, 0.5, 2.5, 1.5], 1.0)
    assert seen[1] == ([2.75, 0.0, 1.75, 0.0], 1.5)
    assert seen[2] == ([2.25, -0.5, 1.25, -0.5], 1.0)
    assert seen[3] == ([1.5, 0.0, 0.5, 0.0], 1.5)
