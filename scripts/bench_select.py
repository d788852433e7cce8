#!/usr/bin/env python3
"""Time of selecting the lowest fraction of many scores: ours, full sort, kthvalue and topk, in one run."""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sparsebench.pruning.allocation import lowest


def by_sort(scores: Tensor, count: int) -> Tensor:
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[scores.sort(stable=True).indices[:count]] = True
    return mask


def by_kthvalue(scores: Tensor, count: int) -> Tensor:
    return scores <= scores.kthvalue(count).values  # one too many for each tie


def by_topk(scores: Tensor, count: int) -> Tensor:
    mask = torch.ones_like(scores, dtype=torch.bool)
    mask[scores.topk(len(scores) - count, sorted=False).indices] = False
    return mask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--weights", type=int, default=23_454_912, help="number of scores (default: ResNet-50's)"
    )
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores = torch.randn(options.weights, generator=torch.Generator().manual_seed(0)).abs().to(device)
    count = int(options.sparsity * options.weights)
    ways: dict[str, Callable[[Tensor, int], Tensor]] = {
        "lowest": lowest,
        "sort": by_sort,
        "kthvalue": by_kthvalue,
        "topk": by_topk,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, choose in ways.items():
            started = time.perf_counter()
            chosen = int(choose(scores, count).sum())
            seconds[name].append(time.perf_counter() - started)
            assert name != "lowest" or chosen == count
    ours = statistics.median(seconds["lowest"])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["way", "ms", "ratio_to_ours"])
    for name, measured in seconds.items():
        median = statistics.median(measured)
        writer.writerow([name, f"{1e3 * median:.1f}", f"{median / ours:.2f}"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
