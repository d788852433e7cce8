"""A network of two prunable layers, batches for it, and a training step around a method."""

from __future__ import annotations

import torch
from torch import nn

from sparsebench.pruning.allocation import Global
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.scores import Magnitude


def probe(seed: int = 0) -> Probe:
    """For methods that at the start only draw."""
    generator = torch.Generator().manual_seed(seed)
    return Probe(nn.Identity(), iter, nn.CrossEntropyLoss(), generator, lambda: None)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def data(count, size=32):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield (
            torch.randn(size, 1, 7, 7, generator=generator),
            torch.randint(0, 3, (size,), generator=generator),
        )


def swap(method, schedule, sgd, autocast=False, **kwargs):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), **sgd)
    weights = MaskedParameters(
        {"conv1.weight": model.conv1.weight, "conv2.weight": model.conv2.weight}, optimizer
    )
    return model, optimizer, method(weights, schedule, Global(), Magnitude(), **kwargs)


def step_of(model, optimizer, pruner, step, inputs, targets, autocast=False):
    optimizer.zero_grad(set_to_none=True)
    pruner.before_forward(step)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    pruner.after_backward(step)
    optimizer.step()
    pruner.after_step(step)
    return loss.item()
