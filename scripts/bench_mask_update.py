#!/usr/bin/env python3
"""Time of a whole mask update, from dense weights to projected ones, over that of w.abs().max() of all weights."""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torchvision.models import get_model

from sparsebench.pruning.allocation import Global, zeros_for
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.scores import Magnitude


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50", help="one of torchvision's")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in get_model(options.model).named_parameters() if p.dim() > 1}
    parameters = {
        name: nn.Parameter(torch.randn(shape, device=device).mul_((2 / shape[1:].numel()) ** 0.5))
        for name, shape in shapes.items()
    }
    weights, score, allocation = MaskedParameters(parameters), Magnitude(), Global()
    dense = {name: p.detach().clone() for name, p in parameters.items()}
    flat = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    found: dict[str, object] = {}

    def rank() -> None:
        found["scores"] = score(weights.weights())

    def select() -> None:
        found["masks"] = allocation(found["scores"], options.sparsity)  # type: ignore[arg-type]

    def put() -> None:
        weights.set_masks(found["masks"])  # type: ignore[arg-type]

    parts: dict[str, Callable[[], object]] = {
        "abs_max": lambda: float(flat.abs().max()),
        "score": rank,
        "allocation": select,
        "set_masks": put,
        "project": weights.project_,
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*parts, "update"]}
    for repeat in range(options.repeats + 1):
        torch._foreach_copy_(list(parameters.values()), list(dense.values()))
        for name, part in parts.items():
            if device == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            part()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
        seconds["update"].append(
            sum(taken[-1] for name, taken in seconds.items() if name not in ("abs_max", "update"))
        )
        found.clear()
        if repeat == 0:  # the first call allocates
            assert int((~weights.packed()).sum()) == zeros_for(options.sparsity, weights.numel)
            seconds = {name: [] for name in seconds}
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        [
            "part",
            "device",
            "threads",
            "weights",
            "sparsity",
            "repeats",
            "ms",
            "ratio",
            "ratio_low",
            "ratio_high",
        ]
    )
    for name, taken in seconds.items():
        ratios = sorted(a / b for a, b in zip(taken, seconds["abs_max"], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        numbers = (statistics.median(taken) * 1e3, statistics.median(ratios), low, high)
        fixed = [name, device, torch.get_num_threads(), weights.numel, options.sparsity, options.repeats]
        writer.writerow([*fixed, *(f"{number:.2f}" for number in numbers)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
