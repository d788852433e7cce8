"""Train a small network, or prune a large one? Networks and the linear theory on features of the same images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsebench.data.cifar import CIFAR10
from sparsebench.data.digits import Digits
from sparsebench.errors import SettingError, one_of, require_int
from sparsebench.paths import expanded
from sparsebench.records.damage import read_row
from sparsebench.records.run_folder import finished_runs
from sparsebench.records.validity import is_valid
from sparsebench.theory.pruned_estimates import Problem
from sparsebench.theory.study import (
    Check,
    Draws,
    Point,
    Row,
    Study,
    Tables,
    below,
    close,
    mean_and_error,
    require_list,
)

DATASETS = {"digits": Digits, "cifar10": CIFAR10}


@dataclass(frozen=True)
class OverparamPruneNetwork(Study):
    """Pruned networks of growing width, compared with the linear theory on random features of real images.

    Width grows, the number of non-zero weights stays: the test error of trained networks, read from runs, and that
    of least squares on random ReLU features ``relu(W x)`` of the images, pruned to ``keep`` of them. The prediction
    replaces the features by Gaussian ones with their covariance over all images.

    Args:
        seed: Seed of all random numbers.
        seeds: Draws of the training images per grid point.
        dataset: ``digits`` or ``cifar10``.
        data_root: Folder of CIFAR-10.
        images: Maximum number of images in the population.
        positive: Classes with the target 1; the others have -1. Both are centred.
        n: Training images.
        keep: Number of features kept.
        features: Numbers of random features.
        draws: Number of draws of the limit for a prediction.
        runs: Folder of finished runs of one data set and kind of network, dense and pruned; ``None`` for none.

    References:
        Chang, Li, Oymak, Thrampoulidis: Provable Benefits of Overparameterization in Model Compression: From Double
        Descent to Pruning Neural Networks. AAAI 2021, arXiv 2012.08749.
    """

    tables: ClassVar[Mapping[str, Sequence[str]]] = {
        "overparam_prune_network": (
            "dataset",
            "n",
            "p",
            "keep",
            "method",
            "retrain",
            "sigma2_eff",
            "xi",
            "gamma",
            "theory_risk",
            "mc_risk",
            "se_risk",
            "rel_dev",
            "seeds",
        ),
        "networks": (
            "dataset",
            "method",
            "prunable",
            "nonzero",
            "target_sparsity",
            "error",
            "se_error",
            "seeds",
            "models",
            "config_hash",
        ),
    }

    seed: int
    seeds: int
    dataset: str
    data_root: str
    images: int
    positive: Sequence[int]
    n: int
    keep: int
    features: Sequence[int]
    draws: int
    runs: str | None

    def __post_init__(self) -> None:
        for name in ("seeds", "draws", "keep"):
            require_int(name, getattr(self, name), least=2)
        require_list("positive", self.positive, 0, 9)
        require_list("features", self.features, 2)
        if self.dataset not in DATASETS:
            raise SettingError("dataset", self.dataset, one_of(DATASETS, self.dataset))
        if self.n in self.features or self.n < self.keep + 2:
            allowed = f"more than {self.keep + 1}, and no number of features"
            raise SettingError("n", self.n, allowed)
        place = None if self.runs is None else expanded(self.runs)
        if place and not finished_runs(place):
            raise SettingError("runs", self.runs, "a folder with finished runs")

    def points(self) -> list[Point]:
        """Every number of features, and the runs."""
        if len(self._population[1]) < 4 * max(*self.features, self.n):
            most = len(self._population[1]) // 4
            raise SettingError(
                "features", max(*self.features, self.n), f"at most {most}, a quarter of the images"
            )
        found: list[Point] = [{"part": "features", "p": p} for p in self.features]
        return found + ([{"part": "networks", "runs": str(self.runs)}] if self.runs else [])

    def rows(self, point: Point, device: torch.device) -> Tables:
        """One row per method of least squares, or one per configuration of the runs."""
        if point["part"] == "networks":
            return {"networks": _networks(expanded(point["runs"]))}
        draws = Draws(self.seed, point, device)
        problem = self._problem(point["p"], draws)
        given = {"dataset": self.dataset, "n": self.n, "p": point["p"]}
        found = problem.rows(min(self.keep, point["p"]), self.draws, draws)
        return {"overparam_prune_network": [{**given, **row} for row in found]}

    @cached_property
    def _population(self) -> tuple[Tensor, Tensor]:
        """Images (N, pixels), each pixel of mean 0, all of variance 1, and targets (N,), of mean 0."""
        split: dict[str, Any] = {"val_fraction": 0.1, "split_seed": 0, "train_samples": None}
        if self.dataset == "cifar10":
            split |= {"mean": [0.0] * 3, "std": [1.0] * 3, "data_root": self.data_root}
        else:
            split |= {"mean": [0.0], "std": [1.0]}
        made = DATASETS[self.dataset](**split, pad=0, flip=False)
        stored = torch.cat([made.train.images, made.val.images, made.test.images])[: self.images]
        pixels = stored.flatten(1).double()
        labels = torch.cat([made.train.labels, made.val.labels, made.test.labels])[: self.images]
        targets = torch.where(torch.isin(labels, torch.tensor(list(self.positive))), 1.0, -1.0).double()
        pixels = pixels - pixels.mean(0)
        return pixels / pixels.std(), targets - targets.mean()

    def _problem(self, p: int, draws: Draws) -> Problem:
        images, targets = (part.to(draws.device) for part in self._population)
        directions = draws.normal(images.shape[1], p) / math.sqrt(images.shape[1])
        phi = (images @ directions).relu()
        phi = phi - phi.mean(0)
        covariance, cross = phi.T @ phi / len(phi), phi.T @ targets / len(phi)
        target = torch.linalg.solve(covariance, cross)
        unseen = targets.square().mean() - cross @ target
        chosen = draws.uniform(self.seeds, len(phi)).argsort(1)[:, : self.n]  # without repetition
        return Problem(covariance[None], target[None], unseen[None], phi[chosen], targets[chosen])

    def checks(self, tables: Tables) -> Iterable[Check]:
        """Risks compared with predictions away from the peak, and whether pruning beats training small, for both."""
        rows = tables["overparam_prune_network"]
        for row in rows:
            if not math.isnan(row["theory_risk"]) and abs(row["p"] / self.n - 1) >= 0.25:
                name = f"risk on features of images, {row['method']}{' and retraining' if row['retrain'] else ''}"
                yield close(name, f"p={row['p']}", row["theory_risk"], row["mc_risk"], 0.1, row["se_risk"])
        most, small = max(self.features), [r for r in rows if r["p"] == self.keep and r["method"] == "none"]
        for row in rows:
            if small and row["p"] == most and row["method"] == "magnitude":
                name = "large and pruned" + (" and retrained" if row["retrain"] else "")
                yield below(
                    f"{name} beats small from the start",
                    f"features p={most}",
                    small[0]["mc_risk"],
                    row["mc_risk"],
                )
        networks = tables["networks"]
        dense = {row["nonzero"]: row["error"] for row in networks if row["method"] == "dense"}
        largest = max((row["prunable"] for row in networks), default=0)
        for row in networks:
            if row["method"] != "dense" and row["prunable"] == largest and row["nonzero"] in dense:
                name = f"large, then {row['method']}, beats small from the start"
                yield below(
                    name, f"{row['models']} {row['nonzero']} weights", dense[row["nonzero"]], row["error"]
                )


def _networks(folder: Path) -> list[Row]:
    """Test errors (%) of the finished runs of ``folder``, means over the seeds of each configuration."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for run in finished_runs(folder):
        row = read_row(run).cells
        if is_valid(row):
            found.setdefault((row["method"], row["config_hash"]), []).append(row)
    rows = []
    for (method, config_hash), own in found.items():
        first = own[0]
        error, spread = mean_and_error(
            100 - torch.tensor([float(row["top1"]) for row in own], dtype=torch.float64)
        )
        rows.append(
            {
                "dataset": first["dataset"],
                "method": method,
                "prunable": int(first["prunable"]),
                "nonzero": int(first["nonzero"]),
                "target_sparsity": float(first["target_sparsity"] or "nan"),
                "error": error,
                "se_error": spread,
                "seeds": len(own),
                "models": first["model"],
                "config_hash": config_hash,
            }
        )
    return sorted(rows, key=lambda row: (str(row["method"]), int(str(row["prunable"]))))
