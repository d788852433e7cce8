"""What a run's settings and its seed mean, against a training that is written out by hand."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from sparsebench.cli import main
from sparsebench.data.digits import Digits
from sparsebench.models.resnet import ResNet
from sparsebench.runs.build import assemble

SETTINGS = ("model=resnet", "model.depth=8", "model.width=4", "prune=magnitude_init", "sparsity=0.5", "epochs=4",
            "batch_size=50", "dataset.train_samples=80", "dataset.split_seed=7", "label_smoothing=0.1",
            "norm_weight_decay=false", "optimizer.weight_decay=0.01", "clip_norm=0.5", "accumulate=3",
            "device=cpu")  # fmt: skip


def by_hand(seed):
    """The weights that SETTINGS end in, in plain PyTorch."""
    dataset = Digits(
        val_fraction=0.1, split_seed=7, train_samples=80, mean=[0.3058], std=[0.3764], pad=1, flip=False
    )
    data = dataset.loader(50, seed)
    torch.manual_seed(seed)
    model = ResNet(dataset.input_shape, 10, depth=8, width=4)
    convs = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    sizes = torch.cat([w.detach().abs().reshape(-1) for w in convs]).sort().values
    masks = [w.detach().abs() >= sizes[int(0.5 * len(sizes) + 0.5)] for w in convs]
    for weight, mask in zip(convs, masks, strict=True):
        weight.data *= mask
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]  # batch norm, and the bias of the classifier
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for step in range(8):  # of 50 and of 30 images in turn
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.1 ** ((step >= 4) + (step >= 6))
        inputs, targets = data.batch(step)
        optimizer.zero_grad()
        for part, answer in zip(inputs.chunk(3), targets.chunk(3), strict=True):
            loss = cross_entropy(model(part), answer, label_smoothing=0.1)
            (loss * (len(answer) / len(targets))).backward()
        for weight, mask in zip(convs, masks, strict=True):
            weight.grad *= mask
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_training_ends_in_the_weights_of_a_loop_written_by_hand(tmp_path, seed):
    assert main(["train", *SETTINGS, f"seed={seed}", f"results_dir={tmp_path}"]) == 0
    (folder,) = tmp_path.glob("digits-*")
    found, expected = load_file(folder / "model.safetensors"), by_hand(seed)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_seed_is_of_the_weights_and_of_the_order_of_the_data_and_not_of_the_splits(hydra_config):
    first, second = (assemble(hydra_config(*SETTINGS, f"seed={seed}")[0]) for seed in (0, 1))
    for split in ("train", "val", "test"):
        a, b = (getattr(made.dataset, split) for made in (first, second))
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels), split
    for (name, a), b in zip(first.model.named_parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b) == (a.dim() == 1), name  # batch norm and biases start at ones and zeros
    assert not torch.equal(first.data.batch(0)[1], second.data.batch(0)[1])
