#!/usr/bin/env python3
"""Training-step time of methods relative to the dense step, in alternating blocks of equal length.

Every block of a method stands between two dense ones, and its ratio is to their mean. Steps that update masks are timed
apart and count with their frequency in a training:
ratio = median over blocks (ordinary step / dense step) + frequency · median (update step - ordinary step) / dense step.
`low` and `high` are a 95 % bootstrap interval over blocks. On a CPU the process is pinned to its cores.

    scripts/bench_step.py                                              ResNet-20, 32 pixels, batch 128
    scripts/bench_step.py --methods all --steps 24                     every method
    scripts/bench_step.py model=torchvision model.name=resnet50 --pixels 224 --batch-size 16 --images 512
    scripts/bench_step.py --clock cpu                                  on a machine that does other work too
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import nn
from tqdm import tqdm

from sparsebench.data.arrays import ArrayDataset, Content, Split
from sparsebench.paths import config_dir
from sparsebench.runs.build import build_run
from sparsebench.training.flops import TrainingFLOPs
from sparsebench.training.runner import RecordSettings, Runner, StepSettings, TrainingSetup

WARM_UP = 2
RECORDED = 4
"""More steps before measurements on a GPU, where a step is recorded as a CUDA graph."""


class Silent:
    """No progress output."""

    def step(self, *_: object) -> None:
        pass


def images(pixels: int, count: int, device: str) -> ArrayDataset:
    """Random images: their content does not change the time of a step."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (count, 3, pixels, pixels), generator=generator, dtype=torch.uint8)
    split = Split(pictures, torch.arange(count) % 10)
    settings = {"val_fraction": 0.1, "split_seed": 0, "train_samples": None, "pad": 0, "flip": False}
    content = Content("random", 10, split, split)
    return ArrayDataset(content=content, **settings, mean=[0.5] * 3, std=[0.25] * 3, device=device)


class Unsaved:
    """A checkpoint of nothing."""

    def load(self) -> None:
        pass

    def save(self, state: dict[str, Any]) -> None:
        pass


def training(
    method: str,
    argv: list[str],
    dataset: ArrayDataset,
    batch_size: int,
    note: Callable[[str], object] = sys.stderr.write,
) -> Runner:
    """The training loop of ``method``, before its first step, without evaluations and checkpoints."""
    cfg = compose("train", overrides=[f"prune={method}", *argv, f"batch_size={batch_size}"])
    made = build_run(cfg, dataset)
    setup = TrainingSetup(
        model=made.model,
        data=made.data,
        evaluation=lambda split: iter(()),
        criterion=nn.CrossEntropyLoss(),
        optimizer=made.optimizer,
        lr_schedule=made.lr_schedule,
        pruner=made.pruner,
        clock=made.clock,
        flops=TrainingFLOPs(made.layers, made.pruner.weights),
    )
    records = RecordSettings(
        checkpoint=Unsaved(),
        record=print,
        progress=lambda total, done: Silent(),
        eval_every=10**9,
        save_every=10**9,
        note=note,
    )
    return Runner(setup, StepSettings(made.device), records)


def make(method: str, argv: list[str], dataset: ArrayDataset, batch_size: int) -> Runner:
    """A runner of ``method``, at a mask update after three eighths of the training."""
    runner = training(method, argv, dataset, batch_size)
    runner.progress = Silent()
    runner.pruner.on_start(runner._probe())
    updates = due(runner)
    middle = runner.clock.total_steps * 3 // 8
    runner.step = next((t for t in updates if t >= middle), updates[-1] if updates else middle) - WARM_UP - 1
    return runner


def due(runner: Runner) -> list[int]:
    """The steps of the whole training at which masks are updated."""
    schedule = getattr(runner.pruner, "schedule", None)
    return [t for t in range(runner.clock.total_steps) if schedule is not None and schedule.due(t)]


class Block(NamedTuple):
    """Mean seconds of the ordinary steps of a block, and those of each step that updated masks."""

    ordinary: float
    updates: list[float]


def block(runner: Runner, steps: int, clock: Callable[[], float]) -> Block:
    """Run and time a block of steps; where every step updates masks, an update is what is ordinary."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(steps):
        version = runner.pruner.weights.version
        started = clock()
        with runner.device.stream():  # where steps can be recorded
            runner.train_step()
        if runner.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = clock() - started
        runner.step += 1
        times[runner.pruner.weights.version != version].append(seconds)
    ordinary = times[False] or times[True]
    return Block(statistics.fmean(ordinary), times[True] if times[False] else [])


def ratio(blocks: Sequence[tuple[Block, float]], share: float) -> float:
    """The ratio to dense of a method's blocks, each with the mean seconds of the dense steps around it."""
    extra = [(update - one.ordinary) / dense for one, dense in blocks for update in one.updates]
    plain = statistics.median(one.ordinary / dense for one, dense in blocks)
    return plain + (share * statistics.median(extra) if extra else 0.0)


def interval(
    blocks: Sequence[tuple[Block, float]], share: float, resamples: int = 1000
) -> tuple[float, float]:
    """95 % bootstrap interval of :func:`ratio` over blocks."""
    random = np.random.default_rng(0)
    drawn = random.integers(len(blocks), size=(resamples, len(blocks)))
    low, high = np.quantile([ratio([blocks[i] for i in one], share) for one in drawn], (0.025, 0.975))
    return float(low), float(high)


def pin(cores: int) -> None:
    """Keep this process, and as many threads, on ``cores`` of the cores that it may use; on Linux only."""
    torch.set_num_threads(cores)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as for sparsebench train")
    parser.add_argument("--methods", default="gmp,dpf")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--images", type=int, default=50_000, help="in the data set (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=256, help="of each method (default: %(default)s)")
    parser.add_argument("--block-steps", type=int, default=4, help="of each block (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=1, help="of a CPU (default: %(default)s)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: seconds of this process on a CPU"
    )
    options = parser.parse_args()
    found = sorted(path.stem for path in (config_dir() / "prune").glob("*.yaml"))
    chosen = found if options.methods == "all" else options.methods.split(",")
    if not (methods := [method for method in chosen if method != "dense"]):
        parser.error("--methods: expected some to compare with dense")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        pin(options.cores)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    dataset = images(options.pixels, options.images, device)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        runners = {m: make(m, options.settings, dataset, options.batch_size) for m in ("dense", *methods)}
    for runner in runners.values():
        block(runner, WARM_UP + (RECORDED if device == "cuda" else 0), clock)
    rounds = max(options.steps // options.block_steps, 2)
    dense = [block(runners["dense"], options.block_steps, clock).ordinary]
    blocks: dict[str, list[tuple[Block, float]]] = {method: [] for method in methods}
    gc.disable()  # a collection would hit one block and not its neighbours
    for round_ in tqdm(range(rounds), disable=not sys.stderr.isatty()):
        gc.collect()
        for method in methods if round_ % 2 else reversed(methods):  # none is always the first
            one = block(runners[method], options.block_steps, clock)
            dense.append(block(runners["dense"], options.block_steps, clock).ordinary)
            blocks[method].append((one, statistics.fmean(dense[-2:])))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ["method", "step_ms", "update_ms", "ratio_to_dense", "low", "high", "blocks", "block_steps"]
    )
    # Neighbouring dense blocks differ by the noise that a method's ratio has too.
    noise = [
        (Block(dense[i], []), statistics.fmean((dense[i - 1], dense[i + 1])))
        for i in range(1, len(dense) - 1)
    ]
    for method in ("dense", *methods):
        pairs = noise if method == "dense" else blocks[method]
        updates = [update - one.ordinary for one, _ in pairs for update in one.updates]
        share = len(due(runners[method])) / runners[method].clock.total_steps if updates else 0.0
        step_ms = 1e3 * statistics.median(one.ordinary for one, _ in pairs)
        update_ms = 1e3 * statistics.median(updates) if updates else 0.0
        low, high = interval(pairs, share)
        numbers = [
            f"{step_ms:.2f}",
            f"{update_ms:.2f}",
            *(f"{x:.4f}" for x in (ratio(pairs, share), low, high)),
        ]
        writer.writerow([method, *numbers, len(pairs), options.block_steps])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
