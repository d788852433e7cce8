"""A loop of one's own around a method of the library."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparsebench

STEPS = 40


class Net(nn.Module):
    """Two prunable layers and a classifier; no batch norm, so that a batch may be split."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.fc = nn.Linear(6 * 36, 12)
        self.out = nn.Linear(12, 4)

    def forward(self, inputs):
        return self.out(self.fc(self.conv(inputs).relu().flatten(1)).relu())


def examples(steps=STEPS, size=16, dtype=torch.float32):
    """The batches of a training."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64)
        yield inputs.to(dtype), (inputs.mean((1, 2, 3)) * 20).long().clamp(-2, 1) + 2


def setup(
    method, settings=("schedule.interval=4it",), dtype=torch.float32, sparsity=0.9, wrap=lambda m: m, **more
):
    """(model, optimiser, pruner), always from the same weights; momentum and weight decay on."""
    torch.manual_seed(0)
    model = Net().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    more = {"steps": STEPS, "steps_per_epoch": 5, "criterion": cross_entropy, **more}
    data = {"batches": lambda: examples(dtype=dtype), **more}
    return (
        model,
        optimizer,
        sparsebench.pruner(method, wrap(model), optimizer, sparsity=sparsity, settings=settings, **data),
    )


def train(
    model, optimizer, pruner, start=0, stop=STEPS, call=None, parts=1, scaler=None, dtype=torch.float32
):
    """The steps from ``start`` to ``stop``."""
    for step, (inputs, targets) in enumerate(examples(dtype=dtype)):
        if not start <= step < stop:
            continue
        optimizer.zero_grad()
        with pruner.training_step():
            for part, answer in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
                loss = cross_entropy((model if call is None else call)(part), answer) / parts
                (scaler.scale(loss) if scaler else loss).backward()
            if scaler:
                scaler.unscale_(optimizer)
            if pruner.ready():
                (scaler.step if scaler else lambda o: o.step())(optimizer)
            if scaler:
                scaler.update()
