#!/usr/bin/env python3
"""Training images per second, end to end, of ours and of what is used today, on the same network and images.

ResNet-20 on CIFAR-10, random crops and flips, batch 128. In turn, a block of each:

- `torchvision_loop`: the loop of torchvision's references/classification in plain PyTorch, with its transforms on PIL
  images, a DataLoader and its metrics (the loss and the accuracy of every step are read);
- `prune_masks`: the same with torch.nn.utils.prune: global magnitude masks of 90 %, anew every 16 steps;
- `parametrize_mask`: the same with masks as parametrisations, anew every 16 steps;
- ours: dense, gmp and dpf, masks anew every 16 steps; with --precision and --compile again in that way.

Before a block is timed, each does as many steps as its workers may have prepared while it waited. `ratio` is the
median over rounds of the rate over that of the first loop in the same round, with a 95 % bootstrap interval;
`cpu_ratio` is the same per second of the CPU, of the process and its workers, which says more on a machine that does
other work too.

    scripts/bench_peers.py                                      needs CIFAR-10 in $SPARSEBENCH_DATA
    scripts/bench_peers.py channels_last=true                   ours in NHWC order
    scripts/bench_peers.py --synthetic --precision bf16 --compile
"""

from __future__ import annotations

import argparse
import copy
import csv
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from bench_step import images, make
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

from sparsebench.config.build import build
from sparsebench.data.arrays import ImageDataset
from sparsebench.paths import config_dir
from sparsebench.training.runner import Runner

BATCH, SPARSITY, INTERVAL, PREFETCH = 128, 0.9, 16, 2
REFERENCE = "torchvision_loop"
Step = Callable[[], object]


class Pictures(Dataset[tuple[Tensor, int]]):
    """PIL images from an array and their transforms, as torchvision's CIFAR10 returns them."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.pixels = dataset.train.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = dataset.train.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def forever(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def accuracy(output: Tensor, target: Tensor, topk: tuple[int, ...]) -> list[Tensor]:
    """As in references/classification/utils.py."""
    with torch.inference_mode():
        _, predicted = output.topk(max(topk), 1, True, True)
        correct = predicted.t().eq(target[None])
        return [correct[:k].flatten().sum(dtype=torch.float32) * (100.0 / target.size(0)) for k in topk]


def loop(model: nn.Module, pictures: Pictures, workers: int, update: Callable[[], None]) -> Step:
    """A step of train_one_epoch in references/classification/train.py; ``update`` runs every 16 steps."""
    prefetch = {"prefetch_factor": PREFETCH, "persistent_workers": True} if workers else {}
    batches = forever(
        DataLoader(pictures, BATCH, shuffle=True, drop_last=True, num_workers=workers, **prefetch)  # type: ignore[arg-type]
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    criterion = nn.CrossEntropyLoss()
    steps = 0

    def step() -> list[float]:
        nonlocal steps
        if steps % INTERVAL == 0:
            update()
        image, target = next(batches)
        output = model(image)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        acc1, acc5 = accuracy(output, target, topk=(1, 5))
        steps += 1
        return [loss.item(), acc1.item(), acc5.item()]

    return step


def prunable(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def prune_masks(model: nn.Module) -> Callable[[], None]:
    """New global magnitude masks with torch.nn.utils.prune."""
    named = [(module, "weight") for module in prunable(model)]

    def update() -> None:
        for module, name in named:
            if prune.is_pruned(module):
                prune.remove(module, name)
        prune.global_unstructured(named, pruning_method=prune.L1Unstructured, amount=SPARSITY)

    return update


class Mask(nn.Module):
    """The usual parametrisation: the weight times a mask."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def parametrize_mask(model: nn.Module) -> Callable[[], None]:
    """New global magnitude masks of parametrised weights."""
    modules = prunable(model)
    for module in modules:
        parametrize.register_parametrization(module, "weight", Mask(module.weight))

    @torch.no_grad()
    def update() -> None:
        weights = [module.parametrizations.weight.original for module in modules]  # type: ignore[union-attr]
        scores = torch.cat([weight.abs().flatten() for weight in weights])
        threshold = scores.kthvalue(int(SPARSITY * len(scores))).values
        for module, weight in zip(modules, weights, strict=True):
            module.parametrizations.weight[0].mask.copy_(weight.abs() > threshold)  # type: ignore[union-attr]

    return update


def ours(runner: Runner) -> Step:
    def step() -> None:
        with runner.device.stream():  # where steps can be recorded
            runner.train_step()
        runner.step += 1

    return step


def cpu_seconds() -> float:
    """CPU seconds of this process and its workers so far; of the workers on Linux only."""
    total = time.process_time()
    for worker in multiprocessing.active_children():
        stat = Path(f"/proc/{worker.pid}/stat")
        if stat.exists():
            fields = stat.read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def contenders(options: argparse.Namespace) -> dict[str, Step]:
    """A step of each; nothing has run yet."""
    settings = ["dataset=cifar10", "model=resnet", "device=cpu", f"sparsity={SPARSITY}", *options.settings]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", overrides=settings)
        if options.synthetic:
            dataset: ImageDataset = images(32, 50_000, "cpu")
            dataset.pad, dataset.flip = 4, True
        else:
            dataset = build(cfg.dataset, "dataset", device="cpu")
        ways = {"": []}
        if options.precision != "fp32":
            ways[f"_{options.precision}"] = [f"precision={options.precision}"]
        if options.compile:
            ways |= {f"{way}_compiled": [*more, "compile=true"] for way, more in ways.items()}
        runners = {
            f"ours_{method}{way}": make(method, [*settings, *more], dataset, BATCH)
            for way, more in ways.items()
            for method in ("dense", "gmp", "dpf")
        }
    pictures, model = Pictures(dataset), runners["ours_dense"].model
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # as in the loops of others
    found = {REFERENCE: loop(copy.deepcopy(model), pictures, options.workers, lambda: None)}
    for way in (prune_masks, parametrize_mask):
        network = copy.deepcopy(model)
        update = way(network)
        found[way.__name__] = loop(network, pictures, options.workers, update)
    return found | {name: ours(runner) for name, runner in runners.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of ours, as for sparsebench train")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--workers", type=int, default=cores, help="of each DataLoader (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=cores, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="blocks of each (default: %(default)s)")
    parser.add_argument(
        "--block-steps", type=int, default=2 * INTERVAL, help="of each block (default: %(default)s)"
    )
    parser.add_argument("--precision", default="fp32", help="of ours, in addition to fp32")
    parser.add_argument("--compile", action="store_true", help="ours compiled too")
    parser.add_argument("--synthetic", action="store_true", help="random pixels instead of CIFAR-10")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    steps = contenders(options)
    prepared = max(options.workers, 1) * PREFETCH + 1
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for round_ in tqdm(range(options.rounds + 1), disable=not sys.stderr.isatty()):
        for name, step in steps.items():
            for _ in range(prepared):
                step()
            started = time.perf_counter(), cpu_seconds()
            for _ in range(options.block_steps):
                step()
            ended = time.perf_counter(), cpu_seconds()
            if round_:  # the first warms up
                times[name].append((ended[0] - started[0], ended[1] - started[1]))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ["loop", "images_per_second", "ratio", "low", "high", "cpu_ratio", "blocks", "block_steps"]
    )
    random = np.random.default_rng(0).integers(options.rounds, size=(1000, options.rounds))
    for name, measured in times.items():
        wall, cpu = (
            np.array([one[i] for one in times[REFERENCE]]) / np.array([one[i] for one in measured])
            for i in (0, 1)
        )
        low, high = np.quantile(np.median(wall[random], axis=1), (0.025, 0.975))
        rate = BATCH * options.block_steps / statistics.median(seconds for seconds, _ in measured)
        numbers = [f"{x:.3f}" for x in (np.median(wall), low, high, np.median(cpu))]
        writer.writerow([name, f"{rate:.1f}", *numbers, options.rounds, options.block_steps])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
