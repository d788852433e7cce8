"""What every option's defaults are, and what weights it leads to: the committed record of what a run computes.

``python -m tests.support.option_snapshot`` rewrites the record, and refuses where something has changed and its option
has not raised its ``revision``.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from sparsebench.config.compose import IDENTITY_GROUPS
from sparsebench.config.options import REVISION
from sparsebench.data.loader import batches
from sparsebench.runs.build import build_run
from tests.support.configs import options, train_config
from tests.support.training import Unsaved, runner_of

RECORD = Path(__file__).parents[1] / "data" / "options.json"

MAIN = "train"
"""The settings outside groups."""

BASE = ("dataset=digits", "dataset.train_samples=64", "batch_size=16", "epochs=10", "model=mlp", "model.hidden=[12,8]",
        "device=cpu", "lr_schedule=constant", "ramp_end=0.5", "sparsity=0.75")  # fmt: skip
"""Forty steps. All in float64, in which every machine computes the same up to the last digits."""

METHOD_OF = {
    "schedule": ("prune=gmp",),
    "allocation": ("prune=gmp", "schedule.interval=4it"),
    "score": ("prune=gmp", "schedule.interval=4it"),
}
"""Methods by which options that are parts of a method are looked at; others with a dense training."""

NOT_TRAINED = {
    "dataset/cifar10", "dataset/cifar100", "dataset/imagefolder", "dataset/imagenet", "dataset/tiny_imagenet",  # files
    "allocation/from_file", "score/trained", "prune/magnitude_init",  # of another run
    "model/torchvision",  # of a library
    "model/lenet",  # of larger images
}  # fmt: skip
"""Options of which only the defaults are recorded."""

NEEDED = {
    "prune/imp": ("prune.rounds=2", "prune.retrain=0.75"),
    "prune/lr_rewind": ("prune.rounds=2",),
    "prune/lottery": ("prune.rounds=2",),
}
"""What makes an option fit into forty steps of digits."""


def all_options() -> list[str]:
    """``group/option`` of every option that is part of a run's identity, and :data:`MAIN`."""
    return [MAIN, *(f"{group}/{name}" for group in IDENTITY_GROUPS for name in options(group))]


def defaults(name: str) -> tuple[int, dict[str, Any]]:
    """(revision, defaults as they are written) of an option."""
    group, _, option = name.partition("/")
    cfg, _ = train_config(*([f"{group}={option}"] if option else []))
    node = cfg[group] if option else {k: v for k, v in _written(cfg).items() if not isinstance(v, dict)
                                      or k in ("prunable", "sanity", "update_interval")}  # fmt: skip
    content = _written(node) if option else node
    return int(content.pop(REVISION, 1)), content


def _written(node: Any) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(node, resolve=False)
    return content


def fingerprint(name: str) -> list[float]:
    """Two sums over the weights after forty steps with the option, and the number of zeros."""
    group, _, option = name.partition("/")
    chosen = {"prune": ("schedule.interval=4it",)}.get(group, METHOD_OF.get(group, ("prune=dense",)))
    words = [*BASE, *([f"{group}={option}"] if option else ()), *chosen, *NEEDED.get(name, ())]
    if group == "model" or name == "prune/sbp_sr":
        words = [word for word in words if not word.startswith(("model", "epochs"))]
        words += [
            "epochs=2",
            *([f"model={option}"] if group == "model" else ["model=resnet", "model.depth=8"]),
        ]
    plain, _ = train_config(*[word for word in words if not word.startswith("schedule.interval")])
    if "interval" not in plain.schedule:
        words = [word for word in words if not word.startswith("schedule.interval")]
    if group == "lr_schedule":
        words.remove("lr_schedule=constant")
    cfg, _ = train_config(*words)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return _trained(cfg)
    finally:
        torch.set_default_dtype(before)


def _trained(cfg: Any) -> list[float]:
    training, handed_over, made = 0, {}, build_run(cfg)
    while True:
        made.model.register_forward_pre_hook(lambda _, inputs: tuple(one.double() for one in inputs))
        first = made.pruner.begin(training, handed_over)
        runner_of(made, partial(_batches, made.dataset), Unsaved(), first).run()
        if training == made.pruner.trainings - 1:
            break
        training, handed_over = training + 1, made.pruner.handover()
        made = build_run(cfg)
    weights = torch.cat([p.detach().flatten().double() for p in made.model.parameters()])
    places = torch.arange(1, len(weights) + 1, dtype=torch.float64)
    return [
        float(weights.abs().sum()),
        float((weights * torch.sin(places)).sum()),
        float((weights == 0).sum()),
    ]


def _batches(dataset: Any, split: Any) -> Any:
    return batches(dataset, split, 100)


def present(name: str) -> dict[str, Any]:
    """What the record says of an option if it is up to date."""
    revision, written = defaults(name)
    found = {"revision": revision, "defaults": written}
    return found if name in NOT_TRAINED else {**found, "fingerprint": fingerprint(name)}


def differs(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of an option is not as it was recorded."""
    found = [key for key in now["defaults"].keys() & recorded["defaults"].keys()
             if now["defaults"][key] != recorded["defaults"][key]]  # fmt: skip
    before, after = recorded.get("fingerprint"), now.get("fingerprint")
    if before and after and any(abs(a - b) > 1e-6 * (1 + abs(b)) for a, b in zip(after, before, strict=True)):
        found.append("the weights after some steps")
    return sorted(found)


def main() -> int:
    """Rewrite the record; returns the exit status."""
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    found, status = {}, 0
    for name in all_options():
        now = present(name)
        changed = differs(recorded[name], now) if name in recorded else []
        if changed and now["revision"] <= recorded[name]["revision"]:
            print(f"{name}: {', '.join(changed)} changed: raise its revision", file=sys.stderr)
            status, now = 1, recorded[name]
        found[name] = now
    RECORD.write_text(json.dumps(found, indent=1) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
