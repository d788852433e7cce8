"""What a run's settings and its seed mean, against a training that is written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from sparsebench.cli import main
from sparsebench.data.digits import Digits
from sparsebench.data.mixing import Mix
from sparsebench.files import read_csv
from sparsebench.models.resnet import ResNet
from sparsebench.runs.build import build_run

SETTINGS = ("model=resnet", "model.depth=8", "model.width=4", "prune=magnitude_init", "sparsity=0.5", "epochs=4",
            "batch_size=50", "dataset.train_samples=80", "dataset.split_seed=7", "label_smoothing=0.1",
            "norm_weight_decay=false", "optimizer.weight_decay=0.01", "clip_norm=0.5", "accumulate=3",
            "eval_every=3it", "device=cpu")  # fmt: skip


def by_hand(seed, mixup, ema):
    """The state that SETTINGS end in and the loss of every step, in a loop of plain PyTorch."""
    dataset = Digits(
        val_fraction=0.1, split_seed=7, train_samples=80, mean=[0.3058], std=[0.3764], pad=1, flip=False
    )
    data, mix = dataset.loader(50, seed), Mix(mixup, 0.0, 10, seed)
    torch.manual_seed(seed)
    model = ResNet(dataset.input_shape, 10, depth=8, width=4)
    convs = {name: p for name, p in model.named_parameters() if p.dim() == 4}
    sizes = torch.cat([w.detach().abs().reshape(-1) for w in convs.values()]).sort().values
    masks = {name: w.detach().abs() >= sizes[int(0.5 * len(sizes) + 0.5)] for name, w in convs.items()}
    for name, weight in convs.items():
        weight.data *= masks[name]
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]  # batch norm, and the bias of the classifier
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    average, losses = copy.deepcopy(model.state_dict()), []
    for step in range(8):  # of 50 and of 30 images in turn
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.1 ** ((step >= 4) + (step >= 6))
        inputs, targets = mix(step, *data.batch(step))
        losses.append(0.0)
        optimizer.zero_grad()
        for part, answer in zip(inputs.chunk(3), targets.chunk(3), strict=True):
            loss = cross_entropy(model(part), answer, label_smoothing=0.1) * (len(answer) / len(targets))
            loss.backward()
            losses[-1] += loss.item()
        for name, weight in convs.items():
            weight.grad *= masks[name]
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        for name, tensor in model.state_dict().items():
            averaged = ema is not None and tensor.is_floating_point()  # not the number of batches
            average[name] = average[name].lerp(tensor, 1 - ema) if averaged else tensor.clone()
    return {name: tensor * masks.get(name, 1) for name, tensor in average.items()}, losses


@pytest.mark.parametrize(("seed", "mixup", "ema"), [(0, 0.0, None), (1, 0.4, 0.75)])
def test_a_training_ends_in_the_weights_of_a_loop_written_by_hand(tmp_path, seed, mixup, ema):
    argv = [f"seed={seed}", f"mixup={mixup}", f"ema={ema or 'null'}", f"results_dir={tmp_path}"]
    assert main(["train", *SETTINGS, *argv]) == 0
    (folder,) = tmp_path.glob("digits-*")
    found, (expected, losses) = load_file(folder / "model.safetensors"), by_hand(seed, mixup, ema)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    sizes, rows = [50, 30] * 4, read_csv(folder / "metrics.csv")
    assert [row["step"] for row in rows] == ["3", "6", "8"]  # and at the end
    for row, start in zip(rows, (0, 3, 6), strict=True):
        since = range(start, int(row["step"]))  # the last evaluation: the mean over images, not over batches
        mean = sum(losses[i] * sizes[i] for i in since) / sum(sizes[i] for i in since)
        assert float(row["train_loss"]) == pytest.approx(mean, rel=1e-6)


def test_the_seed_is_of_the_weights_and_of_the_order_of_the_data_and_not_of_the_splits(hydra_config):
    first, second = (build_run(hydra_config(*SETTINGS, f"seed={seed}")[0]) for seed in (0, 1))
    for split in ("train", "val", "test"):
        a, b = (getattr(made.dataset, split) for made in (first, second))
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels), split
    for (name, a), b in zip(first.model.named_parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b) == (a.dim() == 1), name  # batch norm and biases start at ones and zeros
    assert not torch.equal(first.data.batch(0)[1], second.data.batch(0)[1])
