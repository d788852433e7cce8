from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from sparsebench.distributed.device import Device, seed_everything
from sparsebench.errors import SettingError
from sparsebench.optim.param_groups import parameter_groups


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_every_generator_comes_back_from_the_state():
    device = Device("cpu")
    seed_everything(3)
    draws()
    state = device.state_dict()
    expected = draws()
    seed_everything(4)
    device.load_state_dict(state)
    assert draws() == expected


def test_a_seed_determines_every_generator():
    seed_everything(5)
    first = draws()
    seed_everything(5)
    assert draws() == first


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_that_of_the_forward_and_weights_stay_float32(precision, dtype):
    device = Device("cpu", precision=precision)
    layer = device.to_device(nn.Linear(4, 2))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    with device.autocast():
        output = layer(torch.ones(3, 4))
    assert output.dtype == dtype
    device.backward(output.float().sum() / 8)  # half precision holds the scaled gradient
    device.unscale(optimizer)
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(layer.weight.grad, torch.full((2, 4), 3 / 8))  # in its true scale
    device.step(optimizer)
    torch.testing.assert_close(layer.weight.detach(), before - 0.1 * 3 / 8)


def test_steps_whose_gradients_overflow_are_counted_and_the_count_resumes():
    device = Device("cpu", precision="fp16")
    layer = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for factor in (1.0, float("inf"), 1.0):
        before = layer.weight.detach().clone()
        optimizer.zero_grad()
        device.backward(layer(torch.ones(3, 4)).sum() / 1e4 * factor)
        device.unscale(optimizer)
        device.step(optimizer)
        assert torch.equal(layer.weight, before) == (factor != 1)
    assert device.summary() == {"skipped_steps": 1}
    resumed = Device("cpu", precision="fp16")
    resumed.load_state_dict(device.state_dict())
    assert resumed.summary() == {"skipped_steps": 1}
    assert Device("cpu").summary() == {}


def test_tf32_is_for_gpus_and_fp32_is_fp32():
    with pytest.raises(SettingError, match=r"^precision=tf32: expected fp32, bf16 or fp16 on a CPU"):
        Device("cpu", precision="tf32")
    Device("cpu")
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


def test_a_step_may_be_left_out():
    device = Device("cpu", precision="fp16")
    layer = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    for stepping in (False, True):  # the scaler is ready again after a step that was left out
        optimizer.zero_grad()
        device.backward(layer(torch.ones(3, 4)).sum())
        device.unscale(optimizer)
        device.step(optimizer, stepping)
        assert torch.equal(layer.weight, before) != stepping


def test_channels_last_places_convolutions_in_that_order():
    model = Device("cpu", channels_last=True).to_device(nn.Conv2d(3, 4, 3))
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("arguments", "setting"), [({"name": "tpu"}, "device"), ({"precision": "int8"}, "precision")]
)
def test_unknown_names_are_refused(arguments, setting):
    with pytest.raises(SettingError) as refused:
        Device(**arguments)
    assert refused.value.setting == setting


def test_weight_decay_spares_normalisation_and_biases_only_on_request():
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    (everything,) = parameter_groups(model, 0.1, norm_weight_decay=True)
    assert len(everything["params"]) == 4 and everything["weight_decay"] == 0.1
    decayed, spared = parameter_groups(model, 0.1, norm_weight_decay=False)
    assert decayed["params"] == [model[0].weight] and decayed["weight_decay"] == 0.1
    assert len(spared["params"]) == 3 and spared["weight_decay"] == 0
