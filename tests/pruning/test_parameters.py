from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.pruning.parameters import MaskedParameters, count_kept, counts_by_sum
from sparsebench.pruning.prunable import Prunable


def make(values, optimizer=None):
    parameter = nn.Parameter(torch.tensor(values))
    weights = MaskedParameters({"w": parameter}, optimizer(parameter) if optimizer else None)
    return parameter, weights


def test_hide_shows_masked_weights_and_restore_brings_the_dense_ones_back_bitwise():
    parameter, weights = make([0.5, -0.1, -0.0, 1e-40])
    before = parameter.detach().clone()
    weights.set_masks({"w": torch.tensor([True, False, True, False])})
    weights.hide_()
    assert parameter.tolist() == [0.5, 0.0, 0.0, 0.0]
    weights.restore_()
    assert torch.equal(parameter.view(torch.int32), before.view(torch.int32))


def test_gradient_at_hidden_weights_is_not_masked():
    parameter, weights = make([2.0, 3.0])
    weights.set_masks({"w": torch.tensor([True, False])})
    weights.hide_()
    (parameter * torch.tensor([10.0, 20.0])).sum().backward()
    weights.restore_()
    assert parameter.grad.tolist() == [10.0, 20.0]
    weights.mask_grads_()
    assert parameter.grad.tolist() == [10.0, 0.0]


def test_autograd_notices_weights_that_are_restored_before_backward():
    parameter, weights = make([2.0, 3.0])
    weights.hide_()
    loss = (parameter**2).sum()
    weights.restore_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_masking_inside_autocast_does_not_reach_a_cached_cast():
    # The trap that the docstring warns of: it must fail this way, or the warning is out of date.
    layer = nn.Linear(2, 1, bias=False)
    weights = MaskedParameters({"weight": layer.weight})
    weights.set_masks({"weight": torch.tensor([[False, False]])})
    ones = torch.ones(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = layer(ones).item()
        weights.hide_()
        inside = layer(ones).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outside = layer(ones).item()
    weights.restore_()
    assert inside == before != 0
    assert outside == 0


@pytest.mark.parametrize(
    "action",
    [
        lambda w: w.hide_(),
        lambda w: w.set_masks({"w": torch.tensor([True, True])}),
        lambda w: w.project_(),
        lambda w: w.bake_(),
        lambda w: w.state_dict(),
        lambda w: w.weights(),
        lambda w: w.pruning_error(),
    ],
)
def test_nothing_touches_masks_or_dense_weights_while_hidden(action):
    _, weights = make([1.0, 2.0])
    weights.hide_()
    with pytest.raises(RuntimeError, match="hidden"):
        action(weights)


def test_restore_without_hide_is_refused():
    with pytest.raises(RuntimeError, match="only be restored while hidden"):
        make([1.0])[1].restore_()


def test_applied_nests_and_restores_after_an_error():
    parameter, weights = make([1.0, 2.0])
    weights.set_masks({"w": torch.tensor([False, True])})

    def fail():
        with weights.applied(), weights.applied():
            assert parameter.tolist() == [0.0, 2.0]
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert parameter.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "mask", [torch.tensor([1.0, 0.0]), torch.tensor([True]), torch.tensor([[True, False]])]
)
def test_a_mask_of_another_type_or_shape_is_refused(mask):
    with pytest.raises(ValueError, match="the mask of w"):
        make([1.0, 2.0])[1].set_masks({"w": mask})


def test_masks_for_other_layers_are_refused():
    with pytest.raises(ValueError, match="other layers"):
        make([1.0])[1].set_masks({"v": torch.tensor([True])})


@pytest.mark.parametrize(
    ("make_optimizer", "states"),
    [
        (lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9), 1),
        (lambda p: torch.optim.AdamW([p], lr=0.1), 2),
    ],
)
def test_project_clears_weights_and_optimizer_state_of_pruned_weights(make_optimizer, states):
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = make_optimizer(parameter)
    weights = MaskedParameters({"w": parameter}, optimizer)
    parameter.sum().backward()
    optimizer.step()
    weights.set_masks({"w": torch.tensor([True, False])})
    weights.project_()
    buffers = [s for s in optimizer.state[parameter].values() if s.shape == (2,)]
    assert len(buffers) == states
    assert parameter[1] == 0 and all(b[1] == 0 and b[0] != 0 for b in buffers)


def test_pruning_error_by_hand():
    _, weights = make([3.0, 4.0])
    weights.set_masks({"w": torch.tensor([False, True])})
    assert weights.pruning_error().item() == pytest.approx(9 / 25)


def test_masks_survive_a_state_dict_and_have_one_fingerprint():
    _, first = make([1.0, 2.0, 3.0])
    first.set_masks({"w": torch.tensor([True, False, True])})
    _, second = make([1.0, 2.0, 3.0])
    assert first.fingerprint() != second.fingerprint()
    second.load_state_dict(first.state_dict())
    assert first.fingerprint() == second.fingerprint()


def test_channels_last_weights_keep_their_layout_and_masks_follow():
    parameter = nn.Parameter(torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last))
    weights = MaskedParameters({"w": parameter})
    mask = torch.rand(4, 3, 2, 2) > 0.5
    weights.set_masks({"w": mask})
    expected = parameter.detach() * mask
    with weights.applied():
        assert torch.equal(parameter, expected)
        assert parameter.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weights.packed(), mask.reshape(-1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.shortcut = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.hidden = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("switches", "names"),
    [
        ({}, ["conv1.weight", "shortcut.0.weight", "hidden.weight"]),
        ({"first_conv": False}, ["shortcut.0.weight", "hidden.weight"]),
        ({"shortcut_convs": False}, ["conv1.weight", "hidden.weight"]),
        ({"fc": False}, ["conv1.weight", "shortcut.0.weight"]),
        ({"last_fc": True}, ["conv1.weight", "shortcut.0.weight", "hidden.weight", "fc.weight"]),
    ],
)
def test_every_contested_layer_has_its_switch(switches, names):
    assert list(Prunable(**switches).select(Block())) == names


def test_a_model_with_nothing_left_to_prune_is_refused():
    with pytest.raises(ValueError, match="at least one prunable layer"):
        Prunable().select(nn.Linear(2, 2))


def test_prunable_fraction_of_resnet50_is_what_dpf_counts():
    from torchvision.models import resnet50

    with torch.device("meta"):
        model = resnet50()
    prunable = sum(p.numel() for p in Prunable().select(model).values())
    assert prunable == 23_454_912
    assert 0.9 * prunable / sum(p.numel() for p in model.parameters()) == pytest.approx(0.8260, abs=5e-5)


def test_baked_weights_are_what_the_forward_sees_already():
    weight = nn.Parameter(torch.tensor([3.0, -2.0, 1.0]))
    weights = MaskedParameters({"w": weight})
    weights.set_masks({"w": torch.tensor([True, True, False])})
    with weights.applied({"w": weight.detach() / 2}):
        assert weight.tolist() == [1.5, -1, 0.5]
    weights.bake_({"w": weight.detach() / 2})
    assert weight.tolist() == [1.5, -1, 0]
    with weights.applied({"w": weight.detach() / 2}):  # not a second time
        assert weight.tolist() == [1.5, -1, 0]


def test_a_method_that_takes_the_decay_over_decides_alone_what_decays():
    prunable, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([prunable, other], lr=0.5, momentum=0.9, weight_decay=0.1)
    weights = MaskedParameters({"w": prunable}, optimizer)
    assert weights.disable_weight_decay_() == 0.1
    (0 * prunable.sum() + 0 * other.sum()).backward()
    optimizer.step()
    assert prunable.tolist() == [1, 1] and other.tolist() == pytest.approx([0.95, 0.95])
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert MaskedParameters({"w": prunable}).disable_weight_decay_() == 0  # there is no optimiser


def test_where_no_gradient_reaches_momentum_comes_to_rest():
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weights = MaskedParameters({"w": weight}, optimizer)
    weight.sum().backward()
    optimizer.step()
    forward, backward = torch.tensor([True, False, False]), torch.tensor([True, True, False])
    weights.set_masks({"w": forward}, backward={"w": backward})
    weights.project_optimizer_()
    assert optimizer.state[weight]["momentum_buffer"].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("values", "zeros", "fits"),
    [
        ([1.0, 0.0, 0.0, 2.0], (2, 2, 0), True),
        ([1.0, 0.0, 3.0, 2.0], (1, 2, 1), False),  # a pruned weight that came back
        ([0.0, 0.0, 0.0, 2.0], (3, 2, 0), True),  # a kept weight is zero by itself
        ([0.0, 0.0, 3.0, 2.0], (2, 2, 1), False),  # as many zeros as requested, but not those
    ],
)
def test_zeros_are_as_requested_where_the_masks_have_so_many_and_nothing_leaks(values, zeros, fits):
    _, weights = make(values)
    weights.set_masks({"w": torch.tensor([True, False, False, True])})
    found = weights.zeros()
    assert found == zeros and found.as_requested(2) is fits and found.as_requested(None) is fits
    assert not found.as_requested(1) and not found.as_requested(3)
    assert found.kept == (values[0] == 0)


@pytest.mark.parametrize("layers", [1, 4])
def test_kept_weights_are_counted_the_same_on_every_device(layers):
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(5, 3, 2, 2 + n, generator=generator) > 0.2 * n for n in range(layers)]
    masks[-1] = masks[-1].to(memory_format=torch.channels_last)
    counts = [int(mask.sum()) for mask in masks]
    assert count_kept(masks).tolist() == counts_by_sum(masks).tolist() == counts


def test_the_masks_of_forward_and_gradient_act_from_the_step_they_are_set():
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, -4.0]))
    weights = MaskedParameters({"w": weight}, torch.optim.SGD([weight], 0.1))
    forward, backward = (torch.tensor(m, dtype=torch.bool) for m in ([1, 0, 0, 1], [1, 1, 0, 1]))

    def seen():
        weight.grad = torch.ones(4)
        weights.mask_grads_()
        with weights.applied():
            return weight.tolist(), weight.grad.tolist()

    assert seen() == ([1, -2, 3, -4], [1, 1, 1, 1])  # before any mask
    weights.set_masks({"w": forward}, backward={"w": backward})
    assert seen() == ([1, 0, 0, -4], [1, 1, 0, 1])
    weights.set_masks({"w": backward})
    assert seen() == ([1, -2, 0, -4], [1, 1, 0, 1])
    weights.set_masks({"w": ~forward}, backward={"w": ~backward})
    assert seen() == ([0, -2, 3, 0], [0, 0, 1, 0])
    other = MaskedParameters({"w": weight})
    other.load_state_dict(weights.state_dict())
    weights = other
    assert seen() == ([0, -2, 3, 0], [0, 0, 1, 0])
