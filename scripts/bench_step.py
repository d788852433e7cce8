#!/usr/bin/env python3
"""Training-step time of methods relative to the dense step, all interleaved in one run.

Steps that update masks are timed separately and weighted by their frequency in a training:
ratio = ((1 - u) · median ordinary step + u · median step with an update) / median dense step.

    scripts/bench_step.py                                              ResNet-20, 32 pixels, batch 128
    scripts/bench_step.py --methods all --steps 24                     every method
    scripts/bench_step.py model=torchvision model.name=resnet50 --pixels 224 --batch-size 16 --images 512
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import nn
from tqdm import tqdm

from sparsebench.data.arrays import ArrayDataset, Content, Split
from sparsebench.paths import config_dir
from sparsebench.runs.build import build_run
from sparsebench.training.checkpoint import Checkpoint
from sparsebench.training.flops import TrainingFLOPs
from sparsebench.training.runner import RecordSettings, Runner, StepSettings, TrainingSetup

WARM_UP = 2


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


def make(method: str, argv: list[str], dataset: ArrayDataset, batch_size: int) -> Runner:
    """A runner of ``method``, at a mask update after three eighths of the training."""
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
        checkpoint=Checkpoint(Path(tempfile.gettempdir()), print),
        record=print,
        progress=lambda total, done: Silent(),
        eval_every=10**9,
        save_every=10**9,
    )
    runner = Runner(setup, StepSettings(made.device), records)
    runner.progress = Silent()
    made.pruner.on_start(runner._probe())
    updates = due(runner)
    middle = made.clock.total_steps * 3 // 8
    runner.step = next((t for t in updates if t >= middle), updates[-1] if updates else middle) - WARM_UP - 1
    return runner


def due(runner: Runner) -> list[int]:
    """The steps of the whole training at which masks are updated."""
    schedule = getattr(runner.pruner, "schedule", None)
    return [t for t in range(runner.clock.total_steps) if schedule is not None and schedule.due(t)]


def timed_step(runner: Runner) -> tuple[float, bool]:
    """(seconds, whether masks were updated)."""
    version = runner.pruner.weights.version
    started = time.perf_counter()
    runner.train_step()
    if runner.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    runner.step += 1
    return seconds, runner.pruner.weights.version != version


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as for sparsebench train")
    parser.add_argument("--methods", default="gmp,dpf")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--images", type=int, default=50_000, help="in the data set (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=64, help="of each method (default: %(default)s)")
    options = parser.parse_args()
    found = sorted(path.stem for path in (config_dir() / "prune").glob("*.yaml"))
    chosen = found if options.methods == "all" else options.methods.split(",")
    methods = ["dense", *(method for method in chosen if method != "dense")]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = images(options.pixels, options.images, device)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        runners = {m: make(m, options.settings, dataset, options.batch_size) for m in methods}
    times: dict[str, list[tuple[float, bool]]] = {m: [] for m in methods}
    for round_ in tqdm(range(options.steps + WARM_UP), disable=not sys.stderr.isatty()):
        for method in methods if round_ % 2 else reversed(methods):  # alternate which one goes first
            measured = timed_step(runners[method])
            if round_ >= WARM_UP:
                times[method].append(measured)
    dense = statistics.median(seconds for seconds, _ in times["dense"])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["method", "step_ms", "update_ms", "updates", "steps", "ratio_to_dense"])
    for method in methods:
        ordinary = [seconds for seconds, update in times[method] if not update]
        updates = [seconds for seconds, update in times[method] if update]
        typical = statistics.median(ordinary or updates)
        with_update = statistics.median(updates) if updates else typical
        share = len(due(runners[method])) / runners[method].clock.total_steps if updates else 0.0
        ratio = ((1 - share) * typical + share * with_update) / dense
        row = [
            f"{1e3 * typical:.2f}",
            f"{1e3 * (with_update - typical):.2f}",
            len(updates),
            len(times[method]),
        ]
        writer.writerow([method, *row, f"{ratio:.4f}"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
