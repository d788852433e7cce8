"""The estimated cost of a sweep: runs, training FLOPs, and hours based on a step measured on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from sparsebench.config.identity import config_hash
from sparsebench.runs.build import RunComponents, build_run
from sparsebench.runs.result import training_layers

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sparsebench.data.dataset import Dataset

SAMPLES = 32
"""Maximum number of images of a measured step."""


class Estimate:
    """Accumulates runs, FLOPs and hours of what is not finished yet; prints as a few lines of text.

    FLOPs are those of dense training with the same number of samples, an upper bound for every method. Hours assume
    the dense step (forward, backward and optimiser) measured on this machine's device, with one run after another and
    evaluations included.
    """

    def __init__(self) -> None:
        self.runs, self.finished, self.trainings, self.flops, self.seconds = 0, 0, 0, 0.0, 0.0
        self._datasets: dict[str, Dataset] = {}
        self._speeds: dict[str, tuple[float, float]] = {}
        self._lengths: dict[str, tuple[int, float, float]] = {}

    def add(self, cfg: DictConfig, choices: Mapping[str, str | None], finished: bool) -> None:
        """Add a run.

        Args:
            cfg: Its validated config.
            choices: Config group -> chosen option.
            finished: Whether it is finished already.

        Raises:
            SettingError: A setting is wrong.
        """
        same = config_hash(cfg, choices)
        if same not in self._lengths:
            kind = json.dumps([choices["dataset"], dict(cfg.dataset)], default=str, sort_keys=True)
            components = build_run(cfg, self._datasets.get(kind))
            self._datasets[kind] = components.dataset
            self._lengths[same] = _length(cfg, components, self._speeds)
        trainings, flops, seconds = self._lengths[same]
        self.runs += 1
        self.finished += finished
        if not finished:
            self.trainings += trainings
            self.flops += flops
            self.seconds += seconds

    def __str__(self) -> str:
        threads = f" with {torch.get_num_threads()} threads" if not torch.cuda.is_available() else ""
        trainings = f", {self.trainings} trainings" if self.trainings != self.runs - self.finished else ""
        unit, name = next(
            (u, n) for u, n in ((3600, "hours"), (60, "minutes"), (0, "seconds")) if self.seconds >= u
        )
        length = f"{self.seconds / max(unit, 1):.3g} {name}"
        return (
            f"{self.runs} runs, {self.finished} of them finished; to do: {self.runs - self.finished}{trainings}\n"
            f"training FLOPs, upper bound (dense): {self.flops:.3g}\n"
            f"time, runs in sequence, estimated from a dense step measured here{threads}: {length}"
        )


def _length(
    cfg: DictConfig, components: RunComponents, speeds: dict[str, tuple[float, float]]
) -> tuple[int, float, float]:
    """(trainings, FLOPs, seconds) of one run."""
    trainings, images = components.pruner.trainings, components.clock.total_steps * int(cfg.batch_size)
    macs = sum(
        layer.macs for layer in training_layers(components.model, components.dataset, components.layers)
    )
    shape = components.dataset.input_shape
    kind = f"{components.model.name} {shape} {macs} {cfg.precision} {cfg.channels_last} {cfg.device}"
    if kind not in speeds:
        speeds[kind] = _measured(components, min(SAMPLES, int(cfg.batch_size)))
    training, evaluation = speeds[kind]
    evaluations = components.clock.total_steps // components.eval_every
    sizes = [len(components.dataset.val), len(components.dataset.test)]
    evaluated = evaluations * sizes[0] + sizes[1]
    seconds = trainings * (images * training + evaluated * evaluation)
    return trainings, 6.0 * macs * images * trainings, seconds


def _measured(components: RunComponents, samples: int) -> tuple[float, float]:
    """Seconds per image of a training step and of an evaluation, the fastest of three."""
    inputs, targets = (part[:samples] for part in components.data.batch(0))
    training, evaluation = [], []
    for _ in range(3):
        start = _now()
        components.optimizer.zero_grad()
        with components.device.autocast():
            loss = torch.nn.functional.cross_entropy(components.model(inputs), targets)
        loss.backward()
        components.optimizer.step()
        between = _now()
        with torch.no_grad(), components.device.autocast():
            components.model(inputs)
        training.append((between - start) / len(targets))
        evaluation.append((_now() - between) / len(targets))
    return min(training), min(evaluation)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
