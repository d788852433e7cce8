from __future__ import annotations

import math

import pytest
import torch

from sparsebench.training.metrics import TrainLoss, evaluate


def batches(logits, targets, sizes):
    return zip(logits.split(sizes), targets.split(sizes), strict=True)


def test_accuracy_by_hand_is_per_sample_not_per_batch():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0]])
    targets = torch.tensor([0, 0, 1])  # right, wrong, right
    found = evaluate(lambda x: x, batches(logits, targets, [2, 1]))  # a mean of batch means would be 75 %
    assert found.top1 == pytest.approx(100 * 2 / 3)
    assert found.top5 == 100  # three classes are all among the best five
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item())


def test_top5_equals_torchs_topk():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 20, generator=generator)
    targets = torch.randint(0, 20, (500,), generator=generator)
    found = evaluate(lambda x: x, batches(logits, targets, 64))
    hits = (logits.topk(5).indices == targets[:, None]).any(1).double().mean().item()
    assert found.top5 == pytest.approx(100 * hits)
    assert found.top1 == pytest.approx(100 * (logits.argmax(1) == targets).double().mean().item())


def test_a_constant_network_is_not_right_on_every_class():
    found = evaluate(lambda x: x, [(torch.zeros(10, 10), torch.arange(10))])
    assert (found.top1, found.top5) == (10.0, 50.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_misses(value):
    found = evaluate(lambda x: x, [(torch.full((4, 3), value), torch.tensor([0, 1, 2, 0]))])
    assert (found.top1, found.top5) == (0.0, 0.0)
    assert not math.isfinite(found.loss)


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        evaluate(lambda x: x, [])


def add(meter, loss, samples):
    meter.add(torch.tensor(loss), samples)
    meter.samples += samples


def test_the_training_loss_is_a_mean_over_samples_and_survives_a_checkpoint():
    meter = TrainLoss(torch.device("cpu"))
    add(meter, 1.0, 3)
    other = TrainLoss(torch.device("cpu"))
    other.load_state_dict(meter.state_dict())
    add(other, 5.0, 1)
    assert other.read() == 2.0
    add(other, 7.0, 2)
    assert other.read() == 7.0
