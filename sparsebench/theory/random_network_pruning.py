"""The gap between a random ReLU network and its pruned copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sparsebench.errors import SettingError, require_int
from sparsebench.theory import pruned_networks as nets
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
    near,
    relative,
    require_list,
)

TOLERANCE = 0.03
LEAST_ENTRIES = 18
"""Weights removed per row below which their operator norm is not that of a dense matrix."""


@dataclass(frozen=True)
class RandomNetworkPruning(Study):
    """Randomly and magnitude-pruned random networks: distance from the original by depth, width and fraction removed.

    ``F`` is a ReLU network of square layers without biases and with linear output, its weights independent, of mean 0
    and variance 2 / (inputs of a unit); ``f`` is ``F`` with the same fraction of weights of every layer removed, at
    random or the smallest. In the limit of wide layers ``E |F - f|² / E |F|²`` depends on the depth and on the fraction
    ``eta`` of a layer's energy that was removed only. The same holds for convolutions, for the same reason: the
    correlation of the two networks is the same at all locations, and averaging over a kernel keeps it. Parts:

    * ``networks``: the gap against the fraction removed, the operator norm of what was removed from a layer, and the
      bound that a product of operator norms gives.
    * ``widths``: the same with ``D^(1 - alpha)`` of the ``D`` weights of a layer removed, uniform on
      ±1/sqrt(width): norm and gap (its square root) fall as width^-alpha (random), width^-3alpha (magnitude).
    * ``convolution``: the gap for convolutions on periodic images of independent N(0, 1) pixels.

    With fewer than 18 weights removed per row the operator norm is that of a few rows: it is shown, not tested; so are
    the norms of convolutions, which are a maximum over many frequencies.

    Args:
        seed: Seed of all random numbers.
        networks: ``dist`` (gauss, uniform), ``method`` (random, magnitude), ``rho`` (fractions removed), ``depth``
            (weight matrices), ``width``, ``seeds``, ``inputs`` (per network), ``norms`` (seeds whose operator norms
            are computed).
        widths: ``alpha``, ``width``, ``depth``, ``seeds``, ``inputs``, ``norms`` (at the largest width;
            proportionally more at others).
        convolution: ``method``, ``rho``, ``depth``, ``channels``, ``kernel``, ``side`` (pixels), ``seeds``,
            ``inputs``, ``norms``; the weights are Gaussian.

    References:
        Qian, Klabjan: A Probabilistic Approach to Neural Network Pruning. ICML 2021, arXiv 2105.10065. The wide limit
        is that of the arc-cosine kernel: Cho, Saul: Kernel Methods for Deep Learning. NeurIPS 2009.
    """

    tables: ClassVar[Mapping[str, Sequence[str]]] = {
        "random_network_pruning": (
            "dist", "method", "rho", "depth", "width", "eta", "theory_err", "mc_err", "se_err", "rel_dev",
            "theory_err_rescaled", "mc_err_rescaled", "se_err_rescaled", "rel_dev_rescaled",
            "opnorm_theory", "opnorm_mc", "se_opnorm", "rel_dev_opnorm", "product_bound", "seeds",
        ),
        "widths": (
            "method", "alpha", "width", "depth", "removed_per_row", "rho", "eta", "theory_err", "mc_err", "se_err",
            "rel_dev", "opnorm_theory", "opnorm_mc", "se_opnorm", "rel_dev_opnorm", "seeds",
        ),
        "convolution": (
            "method", "rho", "depth", "channels", "kernel", "side", "eta", "theory_err", "mc_err", "se_err",
            "rel_dev", "theory_err_rescaled", "mc_err_rescaled", "se_err_rescaled", "rel_dev_rescaled",
            "opnorm_theory", "opnorm_mc", "se_opnorm", "rel_dev_opnorm", "product_bound", "seeds",
        ),
    }  # fmt: skip

    seed: int
    networks: Mapping[str, Any]
    widths: Mapping[str, Any]
    convolution: Mapping[str, Any]

    def __post_init__(self) -> None:
        for part in ("networks", "widths", "convolution"):
            own = getattr(self, part)
            where = f"study.{part}"
            require_int(f"{where}.seeds", own["seeds"], least=2)
            for key in ("inputs", "norms"):
                require_int(f"{where}.{key}", own[key], least=1)
            if own["norms"] > own["seeds"]:
                raise SettingError(f"{where}.norms", own["norms"], f"at most the {own['seeds']} seeds")
            fraction = "alpha" if part == "widths" else "rho"
            require_list(f"{where}.{fraction}", own[fraction] or [0.5], 0.001, 0.999)
        for part in ("networks", "convolution"):
            own = getattr(self, part)
            require_list(f"study.{part}.depth", own["depth"], 1)
            _among(f"study.{part}.method", own["method"], nets.METHODS)
        _among("study.networks.dist", self.networks["dist"], nets.DISTRIBUTIONS)
        require_int("study.networks.width", self.networks["width"], least=8)
        require_list("study.widths.width", self.widths["width"], 8)
        require_list("study.convolution.channels", self.convolution["channels"], 4)
        for p, v in _sizes(self.widths, self.convolution).items():
            require_int(f"study.{p}", v, least=1)
        if self.convolution["kernel"] > self.convolution["side"]:
            wanted = f"at most the {self.convolution['side']} pixels of a side"
            raise SettingError("study.convolution.kernel", self.convolution["kernel"], wanted)

    def points(self) -> list[Point]:
        """Every distribution, method and size of the active parts; a point has all fractions removed."""
        own, conv = self.networks, self.convolution
        found: list[Point] = [
            {"part": "networks", "dist": dist, "method": method, "depth": depth}
            for dist in own["dist"] for method in own["method"] for depth in own["depth"] if own["rho"]
        ]  # fmt: skip
        found += [
            {"part": "widths", "method": method, "width": width}
            for method in nets.METHODS for width in self.widths["width"] if self.widths["alpha"]
        ]  # fmt: skip
        found += [
            {"part": "convolution", "method": method, "depth": depth, "channels": channels}
            for method in conv["method"] for depth in conv["depth"] for channels in conv["channels"] if conv["rho"]
        ]  # fmt: skip
        return found

    def rows(self, point: Point, device: torch.device) -> Tables:
        """One row per fraction removed: the gap and the norms with their limits."""
        part = str(point["part"])
        own = {**getattr(self, part), **point}
        net, size = _architecture(own), math.prod(_architecture(own).shape)
        fractions = own["alpha"] if part == "widths" else own["rho"]
        exact = [size**-fraction if part == "widths" else fraction for fraction in fractions]
        removed = [min(max(round(size * rho), 1), size - 1) for rho in exact]
        rows = []
        for fraction, rho, measured in zip(
            fractions, exact, self._gaps(point, own, net, removed, device), strict=True
        ):
            eta = nets.lost_energy(net.dist, own["method"], rho)
            scale = (1 - eta) ** (own["depth"] / 2)  # rescaling layers rescales the output
            row = {
                **own, "alpha": fraction, "rho": rho, "removed_per_row": rho * size / net.shape[0], "eta": eta,
                **(found := measured(scale)), **_predicted(found, eta, own["depth"], net.energy),
            }  # fmt: skip
            rows.append({column: row[column] for column in self.tables[_TABLES.get(part, part)]})
        return {_TABLES.get(part, part): rows}

    def _gaps(
        self,
        point: Point,
        own: Mapping[str, Any],
        net: _Architecture,
        removed: Sequence[int],
        device: torch.device,
    ) -> list[Callable[[float], Row]]:
        """Gap and norms, given the scale of the pruned copies' outputs, of each number of weights removed."""
        # The same networks and inputs for all methods: only the pruning differs.
        draws = Draws(self.seed, {key: value for key, value in point.items() if key != "method"}, device)
        chance = Draws(self.seed, {**point, "for": "pruning"}, device)
        inputs = draws.normal(own["seeds"], own["inputs"], net.shape[1], *net.images)
        whole, copies = inputs, [inputs] * len(removed)
        some, bounded = slice(self._norms(own)), own["part"] != "widths"
        norms: list[list[list[list[float]]]] = [[] for _ in removed]  # [fraction][layer][network]
        for layer in range(own["depth"]):
            weights = nets.layers(draws, net.dist, net.energy, own["seeds"], *net.shape)
            scores = chance.uniform(*weights.shape) if own["method"] == "random" else weights.abs()
            of_whole = [net.norm(matrix) for matrix in weights[some]] if bounded else []
            whole = net.apply(weights, whole.relu() if layer else whole)
            for i, count in enumerate(removed):
                left = nets.pruned(weights, scores, count)
                copies[i] = net.apply(left, copies[i].relu() if layer else copies[i])
                gone = [net.norm(matrix) for matrix in (weights - left)[some]]
                kept = [net.norm(matrix) for matrix in left[some]] if bounded else []
                columns = (of_whole, kept, gone) if bounded else (gone,)
                norms[i].append([list(triple) for triple in zip(*columns, strict=True)])
        return [
            partial(_measured, inputs, whole, copy, torch.tensor(found).double())
            for copy, found in zip(copies, norms, strict=True)
        ]

    def _norms(self, own: Mapping[str, Any]) -> int:
        """Number of networks whose operator norms are computed: more if they are narrower."""
        more = max(self.widths["width"]) // own["width"] if own["part"] == "widths" else 1
        return min(int(own["norms"]) * more, int(own["seeds"]))

    def checks(self, tables: Tables) -> Iterable[Check]:
        """Gaps and norms compared with the wide limit, the norms' bound, and the exponents in the width."""
        for name, rows in tables.items():
            for row in rows:
                for kind in _compared(name, row):
                    theory, measured, error = _COLUMNS[kind]
                    title = f"{_TITLES[name]}{kind}"
                    yield close(title, _case(row), row[theory], row[measured], TOLERANCE, row[error])
                if name != "widths":
                    title = f"{_TITLES[name]}gap, by operator norms"
                    yield below(title, _case(row), row["product_bound"], row["mc_err"])
        yield from _exponents(tables["widths"])


_COLUMNS = {
    "gap": ("theory_err", "mc_err", "se_err"),
    "gap, rescaled": ("theory_err_rescaled", "mc_err_rescaled", "se_err_rescaled"),
    "operator norm of the removed weights": ("opnorm_theory", "opnorm_mc", "se_opnorm"),
}
_TABLES = {"networks": "random_network_pruning"}
_TITLES = {"random_network_pruning": "", "widths": "D^(1-alpha) removed: ", "convolution": "convolution: "}


def _case(row: Row) -> str:
    keys = ("dist", "method", "alpha", "depth", "width", "channels", "rho")
    return " ".join(
        f"{key}={row[key]}" for key in keys if key in row and not (key == "rho" and "alpha" in row)
    )


def _compared(table: str, row: Row) -> Sequence[str]:
    """The quantities of a row that are compared with their limits."""
    gap, rescaled, norm = _COLUMNS
    if table == "widths" and row["removed_per_row"] < LEAST_ENTRIES:
        return ()
    found = [gap] if table == "widths" else [gap, rescaled]
    alone = math.isnan(row["se_opnorm"])  # a single norm has no standard error
    return found if table == "convolution" or alone else [*found, norm]


@dataclass(frozen=True)
class _Architecture:
    """Layers of a part: (outputs, inputs, ...), their distribution, their images, and how they are pruned."""

    shape: tuple[int, ...]
    images: tuple[int, ...]
    dist: str
    energy: float
    apply: Callable[[Tensor, Tensor], Tensor]
    norm: Callable[[Tensor], float]


def _architecture(own: Mapping[str, Any]) -> _Architecture:
    if own["part"] == "convolution":
        shape = (own["channels"], own["channels"], own["kernel"], own["kernel"])
        norm = partial(nets.circular_norm, side=own["side"])
        return _Architecture(shape, (own["side"],) * 2, "gauss", 2.0, nets.circular, norm)
    dist, energy = ("uniform", 1 / 3) if own["part"] == "widths" else (own["dist"], 2.0)
    return _Architecture((own["width"], own["width"]), (), dist, energy, nets.dense, nets.dense_norm)


def _measured(inputs: Tensor, whole: Tensor, copy: Tensor, norms: Tensor, scale: float) -> Row:
    """Gap and norms with their errors.

    Args:
        inputs: (seeds, n, ...) inputs.
        whole: (seeds, n, ...) outputs of the network.
        copy: (seeds, n, ...) outputs of its pruned copy.
        norms: (layers, seeds, 3), or (layers, seeds, 1) of what was removed alone: no bound.
        scale: Scale of the copy's output in the limit.
    """
    energies, of_inputs = whole.square().flatten(1).sum(1), inputs.square().flatten(1).sum(1)
    error, se_error = nets.ratio((whole - copy).square().flatten(1).sum(1), energies)
    rescaled, se_rescaled = nets.ratio((whole - copy / scale).square().flatten(1).sum(1), energies)
    norm, se_norm = mean_and_error(norms[..., -1].flatten())
    bound = math.nan
    if norms.shape[2] == 3:
        squares = [nets.product_bound(norms[:, i]) ** 2 for i in range(norms.shape[1])]
        bound = sum(squares) / len(squares) * (of_inputs.mean() / energies.mean()).item()
    return {
        "mc_err": error, "se_err": se_error, "mc_err_rescaled": rescaled, "se_err_rescaled": se_rescaled,
        "opnorm_mc": norm, "se_opnorm": se_norm, "product_bound": bound, "seeds": len(inputs),
    }  # fmt: skip


def _exponents(rows: Sequence[Row]) -> Iterable[Check]:
    """Slopes of the operator norm against the width, if all its points are tested."""
    for method, alpha in dict.fromkeys((row["method"], row["alpha"]) for row in rows):
        own = [row for row in rows if (row["method"], row["alpha"]) == (method, alpha)]
        if len(own) > 1 and min(row["removed_per_row"] for row in own) >= LEAST_ENTRIES:
            widths, norms = np.log([row["width"] for row in own]), np.log([row["opnorm_mc"] for row in own])
            slope = float(np.polyfit(widths, norms, 1)[0])
            predicted = -(1 if method == "random" else 3) * alpha
            yield near("exponent of the operator norm", f"{method} alpha={alpha}", predicted, slope, 0.03)


def _predicted(measured: Row, eta: float, depth: int, energy: float) -> Row:
    """Limits of gap and norm, and the measured deviations from them."""
    error, rescaled = nets.gap(eta, depth)
    norm = nets.removed_norm(eta, energy)
    return {
        "theory_err": error, "rel_dev": relative(measured["mc_err"], error),
        "theory_err_rescaled": rescaled, "rel_dev_rescaled": relative(measured["mc_err_rescaled"], rescaled),
        "opnorm_theory": norm, "rel_dev_opnorm": relative(measured["opnorm_mc"], norm),
    }  # fmt: skip


def _among(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    for value in values or [""]:
        if value not in known:
            raise SettingError(name, value, f"a list of {', '.join(known)}")


def _sizes(widths: Mapping[str, Any], convolution: Mapping[str, Any]) -> dict[str, int]:
    return {"widths.depth": widths["depth"]} | {
        f"convolution.{key}": convolution[key] for key in ("kernel", "side")
    }
