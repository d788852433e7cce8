from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Global, Uniform, zeros_for
from sparsebench.pruning.methods.dnw import DNW
from sparsebench.pruning.methods.dpf import DPF
from sparsebench.pruning.methods.gmp import GMP
from sparsebench.pruning.methods.ste import STE
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Constant, Cubic
from sparsebench.pruning.scores import Magnitude, Random
from tests.support.oracle import OracleDPF
from tests.support.small import Net, data, step_of, swap

TARGET = torch.tensor([0.0, 1.0, 0.0, 1.0])


def four_weights(method=DPF, settings=None, stop=None, **sgd):
    weight = nn.Parameter(torch.tensor([0.5, -0.1, 0.3, -0.05]))
    optimizer = torch.optim.SGD([weight], lr=0.5, **sgd)
    weights = MaskedParameters({"w": weight}, optimizer)
    schedule = Constant(Clock(100), 0.5, interval="1it", stop=stop)
    return weight, optimizer, method(weights, schedule, Global(), Magnitude(), **(settings or {}))


def steps(weight, optimizer, pruner, count):
    """Masks, losses and weights of ``count`` steps on the loss ½‖m ⊙ w - t‖²."""
    seen = []
    for step in range(count):
        optimizer.zero_grad()
        pruner.before_forward(step)
        loss = 0.5 * ((weight - TARGET) ** 2).sum()
        loss.backward()
        assert pruner.after_backward(step)
        gradient = weight.grad.tolist()
        optimizer.step()
        pruner.after_step(step)
        seen.append((pruner.weights.masks["w"].int().tolist(), loss.item(), gradient, weight.tolist()))
    return seen


def test_four_weights_by_hand():
    first, second, third = steps(*four_weights(), 3)
    assert first[0] == [1, 0, 1, 0]
    assert first[1] == pytest.approx(1.17)
    assert first[2] == pytest.approx([0.5, -1, 0.3, -1])
    assert first[3] == pytest.approx([0.25, 0.4, 0.15, 0.45])
    assert second[0] == [0, 1, 0, 1]  # both pruned weights have come back
    assert second[1] == pytest.approx(0.33125)
    assert second[3] == pytest.approx([0.25, 0.7, 0.15, 0.725])
    assert third[3] == pytest.approx([0.25, 0.85, 0.15, 0.8625])


def test_four_weights_with_nesterov_and_weight_decay_by_hand():
    seen = steps(*four_weights(momentum=0.9, nesterov=True, weight_decay=0.1), 3)
    assert [s[1] for s in seen] == pytest.approx([1.17, 0.014406, 0.101346], abs=1e-6)
    assert seen[0][3] == pytest.approx([-0.0225, 0.8595, -0.0135, 0.90475], abs=1e-6)
    assert seen[1][3] == pytest.approx([-0.243112, 1.320372, -0.145867, 1.316311], abs=1e-6)
    assert seen[2][3] == pytest.approx([-0.419581, 1.280821, -0.251748, 1.259022], abs=1e-6)


def test_without_feedback_the_pruned_weights_stay_pruned():
    first, second = steps(*four_weights(settings={"gradient": "masked"}), 2)
    assert first[2] == pytest.approx([0.5, 0, 0.3, 0])
    assert first[3] == pytest.approx([0.25, -0.1, 0.15, -0.05])
    assert second[0] == [1, 0, 1, 0]


def test_with_the_gradient_at_the_dense_weights_it_is_dense_training_until_evaluated():
    weight, optimizer, pruner = four_weights(settings={"gradient": "dense"})
    first, second = steps(weight, optimizer, pruner, 2)
    assert first[1] == pytest.approx(0.5 * (0.25 + 1.21 + 0.09 + 1.1025))  # nothing is masked
    assert first[3] == pytest.approx([0.25, 0.45, 0.15, 0.475])
    assert second[0] == [0, 1, 0, 1]
    with pruner.evaluating():
        assert weight.tolist() == pytest.approx([0, second[3][1], 0, second[3][3]])
    assert pruner.dense_forward(0) and pruner.dense_gradient(0)


@pytest.mark.parametrize("fine_tune", [False, True])
def test_after_the_last_update_the_mask_is_frozen_and_only_fine_tuning_drops_the_hidden_weights(fine_tune):
    seen = steps(*four_weights(settings={"fine_tune": fine_tune}, stop="0it"), 3)
    assert [s[0] for s in seen] == [[1, 0, 1, 0]] * 3
    assert seen[0][3] == pytest.approx([0.25, 0.4, 0.15, 0.45])
    assert seen[1][3] == pytest.approx([0.125, 0, 0.075, 0] if fine_tune else [0.125, 0.9, 0.075, 0.95])


def test_an_unknown_gradient_is_named():
    with pytest.raises(SettingError, match=r"^gradient=other: expected one of feedback, masked, dense"):
        four_weights(settings={"gradient": "other"})


def test_gmp_on_the_same_weights_keeps_them_at_zero():
    first, second = steps(*four_weights(GMP, momentum=0.9), 2)
    # step 0 trains dense, then prunes the two smallest of [.25, .45, .15, .475]
    assert first[3] == pytest.approx([0, 0.45, 0, 0.475])
    assert second[0] == [0, 1, 0, 1]
    assert second[3][0] == second[3][2] == 0


@pytest.mark.parametrize("allow_recovering", [False, True])
def test_gmp_that_allows_recovering_brings_a_weight_back_when_others_shrink_below_it(allow_recovering):
    weight = nn.Parameter(torch.tensor([1.0, 0.9, 0.5, 0.1]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weights = MaskedParameters({"w": weight}, optimizer)
    schedule = Cubic(
        Clock(10), 0.5, start=0, end="2it", interval="1it"
    )  # two weights after step 1, and after step 2
    pruner = GMP(weights, schedule, Global(), Magnitude(), allow_recovering=allow_recovering)
    masks = []
    for step in range(3):
        optimizer.zero_grad()
        pruner.before_forward(step)
        (weight * torch.tensor([2.4, 0.0, 1.0, 0.0])).sum().backward()
        assert pruner.after_backward(step)
        optimizer.step()
        pruner.after_step(step)
        masks.append(weights.masks["w"].int().tolist())
    # 0.76, 0.52, 0.28 against 0.4, 0.3 and then, being pruned, no longer moved
    assert masks[:2] == [[1, 1, 1, 1], [1, 1, 0, 0]]
    if allow_recovering:
        assert masks[2] == [0, 1, 1, 0] and weight.tolist() == pytest.approx([0.28, 0.9, 0.3, 0.1])
        with pruner.evaluating():
            assert weight.tolist() == pytest.approx([0, 0.9, 0.3, 0])
    else:
        assert masks[2] == [1, 1, 0, 0] and weight.tolist() == pytest.approx([0.28, 0.9, 0, 0])


def test_gmp_masks_only_shrink_whatever_the_score():
    weight = nn.Parameter(torch.randn(200))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weights = MaskedParameters({"w": weight}, optimizer)
    pruner = GMP(weights, Cubic(Clock(20), 0.9, interval="1it"), Global(), Random())
    last = weights.packed()
    for step in range(20):
        pruner.after_step(step)
        assert not (weights.packed() & ~last).any()
        last = weights.packed()
    assert int(last.sum()) == 20


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "sgd",
    [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}],
    ids=["plain", "nesterov-decay"],
)
def test_swapping_weights_equals_straight_through_autograd_bitwise(sgd, autocast):
    schedule = Cubic(Clock(60), 0.8, end="0.75", interval="4it")
    model, optimizer, pruner = swap(DPF, schedule, sgd)
    torch.manual_seed(0)
    twin = Net()
    oracle = OracleDPF([twin.conv1, twin.conv2])
    twin_optimizer = torch.optim.SGD(twin.parameters(), **sgd)
    for step, (inputs, targets) in enumerate(data(60)):
        loss = step_of(model, optimizer, pruner, step, inputs, targets, autocast)
        if step % 4 == 0:
            oracle.update(schedule.sparsity(step))
        twin_optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            twin_loss = nn.functional.cross_entropy(twin(inputs), targets)
        twin_loss.backward()
        twin_optimizer.step()
        assert loss == twin_loss.item()
        for ours, theirs in zip((model.conv1.weight, model.conv2.weight), oracle.dense(), strict=True):
            assert torch.equal(ours, theirs)


def test_ste_is_dpf_with_a_mask_update_every_step():
    sgd = {"lr": 0.1, "momentum": 0.9}
    runs = []
    for method in (DPF, STE):
        model, optimizer, pruner = swap(method, Constant(Clock(20), 0.7, interval="1it"), sgd)
        losses = [step_of(model, optimizer, pruner, t, *batch) for t, batch in enumerate(data(20))]
        runs.append((losses, pruner.weights.fingerprint()))
    assert runs[0] == runs[1]


def test_dnw_is_dpf_with_interval_1_layer_by_layer_and_without_a_ramp():
    runs = []
    for method in (DPF, DNW):
        model, optimizer, pruner = swap(
            method, Constant(Clock(20), 0.7, interval="1it"), {"lr": 0.1, "momentum": 0.9}
        )
        pruner.allocation = Uniform()
        losses = [step_of(model, optimizer, pruner, t, *batch) for t, batch in enumerate(data(20))]
        runs.append((losses, pruner.weights.fingerprint(), pruner.weights.nonzero().tolist()))
    assert runs[0] == runs[1]
    assert runs[0][2] == [11, 65]  # of 36 and 216, 76 in all


@pytest.fixture
def half_way():
    """A DPF run stopped in the middle, and the next batch."""
    model, optimizer, pruner = swap(DPF, Constant(Clock(100), 0.6, interval="8it"), {"lr": 0.1})
    for step, batch in enumerate(data(20)):
        step_of(model, optimizer, pruner, step, *batch)
    return model, optimizer, pruner, next(iter(data(1)))


def test_the_gradient_that_reaches_the_weights_is_dense(half_way):
    model, _, pruner, (inputs, targets) = half_way
    pruner.before_forward(20)
    nn.functional.cross_entropy(model(inputs), targets).backward()
    pruner.after_backward(20)
    for name, weight in pruner.weights.parameters.items():
        assert (weight.grad[~pruner.weights.masks[name]] != 0).any()


def test_a_step_moves_pruned_weights_too(half_way):
    model, optimizer, pruner, batch = half_way
    before = copy.deepcopy(pruner.weights.weights())
    step_of(model, optimizer, pruner, 21, *batch)
    for name, mask in pruner.weights.masks.items():
        assert (before[name][~mask] != pruner.weights.weights()[name][~mask]).any()


def test_the_loss_does_not_depend_on_the_values_of_pruned_weights(half_way):
    model, _, pruner, (inputs, targets) = half_way

    def loss():
        with pruner.evaluating(), torch.no_grad():
            return nn.functional.cross_entropy(model.eval()(inputs), targets).item()

    before = loss()
    with torch.no_grad():
        for name, weight in pruner.weights.parameters.items():
            weight[~pruner.weights.masks[name]] = 100 * torch.randn_like(weight)[~pruner.weights.masks[name]]
    assert loss() == before


def test_the_mask_changes_only_every_interval():
    model, optimizer, pruner = swap(DPF, Cubic(Clock(60), 0.8, end="0.9", interval="16it"), {"lr": 0.5})
    last, changed = pruner.weights.fingerprint(), []
    for step, batch in enumerate(data(60)):
        step_of(model, optimizer, pruner, step, *batch)
        if pruner.weights.fingerprint() != last:
            changed.append(step)
            last = pruner.weights.fingerprint()
        assert int((~pruner.weights.packed()).sum()) == zeros_for(
            pruner.schedule.sparsity(step), 4 * 9 + 24 * 9
        )
    assert changed == [16, 32, 48]


def test_at_sparsity_0_it_is_dense_training_bitwise():
    sgd = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
    model, optimizer, pruner = swap(DPF, Cubic(Clock(30), 0.0, interval="2it"), sgd)
    torch.manual_seed(0)
    dense = Net()
    dense_optimizer = torch.optim.SGD(dense.parameters(), **sgd)
    for step, (inputs, targets) in enumerate(data(30)):
        loss = step_of(model, optimizer, pruner, step, inputs, targets)
        dense_optimizer.zero_grad()
        dense_loss = nn.functional.cross_entropy(dense(inputs), targets)
        dense_loss.backward()
        dense_optimizer.step()
        assert loss == dense_loss.item()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), dense.parameters(), strict=True))


def test_evaluating_leaves_dense_weights_masks_optimizer_and_generator_alone(half_way):
    model, optimizer, pruner, (inputs, _) = half_way

    def state():
        return copy.deepcopy(
            [model.state_dict(), optimizer.state_dict(), pruner.state_dict(), torch.get_rng_state()]
        )

    before = state()
    model.eval()
    with pruner.evaluating(), torch.no_grad():
        model(inputs)
    torch.testing.assert_close(state(), before, rtol=0, atol=0)


def test_the_baked_model_is_the_masked_one_under_the_dense_keys(half_way):
    model, _, pruner, (inputs, _) = half_way
    model.eval()
    with pruner.evaluating(), torch.no_grad():
        masked = model(inputs)
    pruner.on_end()
    plain = Net().eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(inputs), masked)
    zeros = sum(int((p == 0).sum()) for p in (plain.conv1.weight, plain.conv2.weight))
    assert zeros == zeros_for(0.6, 4 * 9 + 24 * 9)
