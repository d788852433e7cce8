#!/usr/bin/env python3
"""Milliseconds of a training step by how steps are run: ordinary, replayed, compiled, several runs in turn; as CSV.

Each arrangement is timed three times over the same number of steps; runs are advanced as ``launcher=packed`` advances
them. Before that, replayed steps are compared with ordinary ones: where they differ in a bit, they are not chosen.

    scripts/bench_gpu.py precision=bf16 channels_last=true                 ResNet-20, 32 pixels, batch 128; a minute
    scripts/bench_gpu.py --choose settings.txt precision=bf16              and the fastest arrangement, for a sweep
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_step import images, training
from hydra import initialize_config_dir

from sparsebench.data.arrays import ArrayDataset
from sparsebench.distributed.generators import Generators
from sparsebench.paths import config_dir

COLUMNS = [
    "what",
    "method",
    "graphs",
    "compile",
    "deterministic",
    "runs",
    "ms",
    "low",
    "high",
    "images_per_second",
]
REPEATS = 3
SETTLING = 12
"""Steps before a measurement: kernels are chosen and compiled, steps recorded."""


class Run:
    """A training that is advanced step by step, with generators of its own."""

    def __init__(
        self, method: str, settings: list[str], dataset: ArrayDataset, batch_size: int, seed: int = 0
    ) -> None:
        self.generators, self.notes = Generators(), []  # type: ignore[var-annotated]
        with self.generators.in_use():
            words = [*settings, f"seed={seed}", "epochs=300"]
            self.runner = training(method, words, dataset, batch_size, self.notes.append)
        self.steps = self.runner.advance()

    def advance(self) -> None:
        with self.generators.in_use():
            next(self.steps)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of one ``work``, in ascending order of the repeats."""
    found = []
    for _ in range(REPEATS):
        synchronize()
        started = time.perf_counter()
        for _ in range(times):
            work()
        synchronize()
        found.append(1e3 * (time.perf_counter() - started) / times)
    return sorted(found)


def weights_after(
    steps: int, graphs: bool, settings: list[str], dataset: ArrayDataset, batch_size: int
) -> list[Any]:
    words = [*settings, "deterministic=true", *(["device.graphs=false"] if not graphs else [])]
    run = Run("dpf", words, dataset, batch_size)
    for _ in range(steps):
        run.advance()
    synchronize()
    return [parameter.detach().cpu() for parameter in run.runner.model.parameters()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as for sparsebench train")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--images", type=int, default=50_000, help="in the data set (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200, help="of a repeat (default: %(default)s)")
    parser.add_argument("--runs", default="1,2,4,8,12", help="numbers of runs at once (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=90, help="start nothing after that (default: %(default)s)"
    )
    parser.add_argument(
        "--choose", type=Path, metavar="FILE", help="write the fastest arrangement's settings there"
    )
    options = parser.parse_args()
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = images(options.pixels, options.images, device)
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    fastest: dict[int, float] = {}

    def row(ms: list[float], **about: Any) -> float:
        middle = statistics.median(ms)
        numbers = {"ms": f"{middle:.4f}", "low": f"{ms[0]:.4f}", "high": f"{ms[-1]:.4f}"}
        writer.writerow({**about, **numbers})
        sys.stdout.flush()
        return middle

    def step(method: str, runs: int, *more: str, graphs: bool = True, name: str = "step") -> float | None:
        if time.monotonic() - started > options.seconds:
            print(f"bench_gpu: no time for {runs} runs of {method} {' '.join(more)}", file=sys.stderr)
            return None
        words = [*options.settings, *more, *([] if graphs else ["device.graphs=false"] * (device == "cuda"))]
        members = [Run(method, words, dataset, options.batch_size, seed) for seed in range(runs)]
        for _ in range(SETTLING):
            for member in members:
                member.advance()

        def once() -> None:
            for member in members:
                member.advance()

        ms = [each / runs for each in timed(once, max(options.steps // runs, 1))]
        for note in members[0].notes:
            print(f"bench_gpu: {note}", file=sys.stderr)
        about = {"method": method, "graphs": members[0].runner.recorder.replayed > 0, "runs": runs}
        about |= {"compile": "compile=true" in more, "deterministic": "deterministic=true" in more}
        return row(
            ms,
            what=name,
            images_per_second=f"{1e3 * options.batch_size / statistics.median(ms):.0f}",
            **about,
        )

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        size = 2**28 if device == "cuda" else 2**24
        source, target = (torch.empty(size, dtype=torch.float32, device=device) for _ in range(2))
        ms = row(timed(partial(target.copy_, source), 10), what="copy")
        print(
            f"bench_gpu: copying {8 * size / ms / 1e9:.2f} TB/s, {torch.get_num_threads()} threads",
            file=sys.stderr,
        )
        graphs = device == "cuda"
        if graphs:
            ours, theirs = (
                weights_after(40, way, options.settings, dataset, options.batch_size) for way in (True, False)
            )
            graphs = all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
            print(
                f"bench_gpu: replayed steps are {'the same' if graphs else 'NOT the same'}", file=sys.stderr
            )
        for method in ("dense", "dpf"):
            step(method, 1, graphs=False)
        for method in ("dense", "dpf", "gmp") if graphs else ():
            found = step(method, 1)
            if method == "dpf" and found is not None:
                fastest[1] = found
        for runs in (int(number) for number in options.runs.split(",")):
            if runs > 1 and (found := step("dpf", runs, graphs=graphs)) is not None:
                fastest[runs] = found
        masked = Run("dpf", options.settings, dataset, options.batch_size)
        masked.advance()
        row(timed(lambda: masked.runner.pruner.update_masks(0), 20), what="mask_update", method="dpf")
        step("dpf", 1, "deterministic=true", graphs=graphs)
        if device == "cuda":
            step("dpf", 1, "compile=true")
            step("dpf", 1, "compile=true", graphs=False)
            step("dpf", 4, "compile=true")
    if options.choose is not None:
        runs = min(fastest, key=lambda number: fastest[number]) if fastest else 1
        options.choose.write_text(f"launcher=packed launcher.runs={runs}\n" if graphs else "launcher=local\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
