#!/usr/bin/env python3
"""Training-step time of several ranks relative to one process on the same batch, interleaved in one run.

ratio = median step of all ranks / median step of the main rank alone, while the others wait; 1 / ranks would be ideal.

    torchrun --standalone --nproc-per-node=2 scripts/bench_ddp.py                  ResNet-20, 32 pixels, batch 128
    torchrun --standalone --nproc-per-node=8 scripts/bench_ddp.py model=torchvision model.name=resnet50 \
        --pixels 224 --batch-size 2048 --images 4096 precision=bf16 channels_last=true
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time

import torch
from bench_step import WARM_UP, images, make
from hydra import initialize_config_dir

from sparsebench.paths import config_dir
from sparsebench.training.runner import Runner


def timed_step(runner: Runner) -> float:
    """Seconds of a step on this rank's slice of the batch, which it makes."""
    device = runner.device
    device.all_gather(None)  # barrier: all start together
    started = time.perf_counter()
    runner.train_step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    runner.step += 1
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as for sparsebench train")
    parser.add_argument("--method", default="dpf")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--images", type=int, default=10_000, help="in the data set (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=32, help="of each (default: %(default)s)")
    options = parser.parse_args()
    if "RANK" not in os.environ:
        parser.error("start it with torchrun, as the examples do")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else "cpu"
    dataset = images(options.pixels, options.images, str(device))
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        argv = [*options.settings, "device=ddp"]
        together = make(options.method, argv, dataset, options.batch_size)
        del os.environ["RANK"], os.environ["WORLD_SIZE"]  # from here on a single process
        alone = make(options.method, options.settings, dataset, options.batch_size)
    joint, single = [], []
    for round_ in range(options.steps + WARM_UP):
        times = timed_step(together), together.device.broadcast_from_main(lambda: timed_step(alone))
        if round_ >= WARM_UP:
            joint.append(times[0])
            single.append(times[1])
    if together.device.is_main_process:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["ranks", "batch_size", "steps", "one_process_ms", "ranks_ms", "ratio"])
        one, many = statistics.median(single), statistics.median(joint)
        size = [together.device.world_size, options.batch_size, options.steps]
        writer.writerow([*size, f"{1e3 * one:.2f}", f"{1e3 * many:.2f}", f"{many / one:.4f}"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
