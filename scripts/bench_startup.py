#!/usr/bin/env python3
"""Time until the command line answers, and until a training's first step, each in processes of their own, in turns.

`first step` is README's first command until its first optimiser step, with the forward and backward pass of that step;
`over_torch` is what it takes in addition to `import torch`. CPU seconds are of all threads: on a busy machine they say
more than those of the clock.

    scripts/bench_startup.py --repeats 9
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time

from tqdm import tqdm

FIRST_STEP = """
import os, sys
from torch.optim.optimizer import register_optimizer_step_pre_hook
register_optimizer_step_pre_hook(lambda *_: os._exit(0))
from sparsebench.cli import main
main(sys.argv[1:])
os._exit(1)
"""
SPARSEBENCH = ("-m", "sparsebench")
TRAIN = ("train", "model=resnet", "prune=dpf", "sparsity=0.9")
COMMANDS = {
    "import torch": ("-c", "import os, torch; os._exit(0)"),  # as below: without the end of a process
    "--help": (*SPARSEBENCH, "--help"),
    "train --help": (*SPARSEBENCH, "train", "--help"),
    "completion": (*SPARSEBENCH, "_complete", "sparsebench train prune=d"),
    "first step": ("-c", FIRST_STEP, *TRAIN),
}


def measured(argv: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and of the CPU, of a command in its own process."""
    started = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"bench_startup: this failed: {' '.join(argv)}")
    return seconds, usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each command (default: %(default)s)")
    options = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for repeat in tqdm(range(options.repeats + 1), disable=not sys.stderr.isatty()):
        for name, argv in COMMANDS.items():
            with tempfile.TemporaryDirectory() as results:
                more = [f"results_dir={results}"] if name == "first step" else []
                one = measured([sys.executable, *argv, *more])
            if repeat:  # the first fills the disk's cache, and compiles what was never imported
                times[name].append(one)
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)]
        for name, found in times.items()
    }
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["command", "seconds", "cpu_seconds", "over_torch", "cpu_over_torch", "repeats"])
    for name, (seconds, cpu) in medians.items():
        over = [f"{a - b:.2f}" for a, b in zip((seconds, cpu), medians["import torch"], strict=True)]
        writer.writerow(
            [
                name,
                f"{seconds:.3f}",
                f"{cpu:.3f}",
                *(over if name == "first step" else ["", ""]),
                options.repeats,
            ]
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
