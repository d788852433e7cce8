"""How well few ReLU nodes approximate many random ones, and which: an equiangular frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.linalg import helmert
from torch import Tensor

from sparsebench.errors import SettingError, require_int
from sparsebench.theory import equiangular as frames
from sparsebench.theory.relu_kernel import kernel, row_moment
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

MANY = 3200
"""Number of nodes from which the best student is compared with that of infinitely many."""


@dataclass(frozen=True)
class TwoLayerCompression(Study):
    """Compressing a wide two-layer ReLU network to few nodes: the best student's units form a simplex.

    The target is ``(1/N) sum_i relu(w_i.x)`` with ``w_i ~ N(0, I/d)``, the student ``sum_j a_j relu(u_j.x)`` has ``M``
    units, a_j > 0, inputs are N(0, I); the squared error over them is known in closed form. The excess is the error
    without the target's own energy. Problems:

    * ``simplified``: infinitely many nodes. The best student is a simplex, M <= d + 1; beyond, its value is a bound.
    * ``tilt``: infinitely many nodes of mean ``m``, many inputs: all units have one angle to ``m``, and off it they
      form a simplex.
    * ``full``: N nodes as drawn, with and without a mean.
    * ``rate``: how far the error of a given student is from that of infinitely many nodes: rms over the nodes'
      draws ~ 1/sqrt(d N), to leading order in d, worst direction ~ 1/sqrt(N).

    Args:
        seed: Seed of all random numbers.
        simplified: ``pairs`` ([M, d]), ``restarts``.
        tilt: ``mean`` (lengths of m), ``units``, ``d``, ``restarts``.
        full: ``d``, ``units``, ``nodes``, ``mean`` (lengths of m), ``seeds``, ``restarts``.
        rate: ``d``, ``nodes``, ``units``, ``seeds``, ``worst`` (seeds whose worst direction is sought).

    References:
        Amani, Bombari, Mondelli, Pukdee, Rini: Sharp Asymptotics on the Compression of Two-Layer Neural Networks. ITW
        2022, arXiv 2205.08199. The error's form is ours: Cho, Saul: Kernel Methods for Deep Learning. NeurIPS 2009.
    """

    tables: ClassVar[Mapping[str, Sequence[str]]] = {
        "two_layer_compression": (
            "problem", "units", "d", "nodes", "mean", "seed", "best_excess", "etf_excess", "rel_dev", "residual",
            "gram_offdiag_mean", "gram_offdiag_theory", "gram_offdiag_maxdev", "gram_rms_dev", "alpha_mean",
            "alpha_theory", "alpha_spread", "cos_mean", "cos_theory", "hits", "restarts",
        ),
        "rate": ("d", "nodes", "student", "error", "se_error", "theory_error", "rel_dev", "scaled_error", "seeds"),
    }  # fmt: skip

    seed: int
    simplified: Mapping[str, Any]
    tilt: Mapping[str, Any]
    full: Mapping[str, Any]
    rate: Mapping[str, Any]

    def __post_init__(self) -> None:
        for part in ("simplified", "tilt", "full"):
            require_int(f"study.{part}.restarts", getattr(self, part)["restarts"], least=1)
        for part in ("full", "rate"):
            own = getattr(self, part)
            require_int(f"study.{part}.seeds", own["seeds"], least=2)
            require_list(f"study.{part}.nodes", own["nodes"] or [1], 1)
        for pair in self.simplified["pairs"]:
            if len(pair) != 2 or not 2 <= pair[0] <= 4 * pair[1]:
                wanted = "pairs [M, d] of 2 <= M <= 4 d"
                raise SettingError("study.simplified.pairs", list(pair), wanted)
        require_list("study.tilt.mean", self.tilt["mean"] or [1], 1e-3)
        require_list("study.tilt.units", self.tilt["units"], 2, self.tilt["d"])
        require_list("study.full.mean", self.full["mean"], 0)
        require_list("study.full.units", [self.full["units"]], 2, self.full["d"])
        require_list("study.rate.d", self.rate["d"] or [10], max(self.rate["units"] - 1, 2))
        require_int("study.rate.units", self.rate["units"], least=2)
        require_list("study.rate.worst", [self.rate["worst"]], 2, self.rate["seeds"])

    def points(self) -> list[Point]:
        """Every problem of the active parts."""
        found: list[Point] = [
            {"problem": "simplified", "units": units, "d": d} for units, d in self.simplified["pairs"]
        ]
        found += [
            {"problem": "tilt", "mean": mean, "units": units}
            for mean in self.tilt["mean"] for units in self.tilt["units"]
        ]  # fmt: skip
        found += [
            {"problem": "full", "mean": mean, "nodes": nodes}
            for mean in self.full["mean"] for nodes in self.full["nodes"]
        ]  # fmt: skip
        return found + [{"problem": "rate", "d": d} for d in self.rate["d"] if self.rate["nodes"]]

    def rows(self, point: Point, device: torch.device) -> Tables:
        """The best student of a problem, one row per target; or the error rates at a number of inputs."""
        draws, problem = Draws(self.seed, point, device), point["problem"]
        if problem == "rate":
            return {"rate": list(self._rates(point["d"], draws))}
        own = {"mean": 0.0, "d": 0, "seeds": 1, **getattr(self, problem), **point}
        units, d, mean = int(own["units"]), int(own["d"]), float(own["mean"])
        pull = row_moment(d)
        theory = frames.tilted(units, mean) if mean else frames.simplex(units, pull)
        rows = []
        for seed in range(own["seeds"]):
            targets, outputs = (part.to(device) for part in frames.mean_target(d, mean))
            if problem == "full":
                targets = draws.normal(own["nodes"], d) / math.sqrt(d)
                targets[:, 0] += mean
                outputs = targets.new_full((own["nodes"],), 1 / own["nodes"])
            starts = draws.normal(own["restarts"], units, d)
            starts = starts / starts.norm(dim=2, keepdim=True)
            change, same = (1e-12, 1e-6) if problem == "full" else (1e-15, 1e-8)
            found = [frames.best_student(start, targets, outputs, change) for start in starts]
            best = min(found, key=lambda student: student[0])
            hits = sum(excess <= best[0] + same * abs(best[0]) for excess, _ in found)
            rows.append({
                "problem": problem, "units": units, "d": d, "nodes": own.get("nodes", math.inf), "mean": mean,
                "seed": seed, **_described(*best, theory), "hits": hits, "restarts": len(found),
            })  # fmt: skip
            if problem != "full":
                rows[-1]["residual"] = 1 + best[0] / frames.target_energy(mean)
            if units > d + 1:
                rows[-1]["alpha_theory"] = math.nan  # no such frame exists
        return {"two_layer_compression": rows}

    def _rates(self, d: int, draws: Draws) -> Iterator[Row]:
        """Errors of simplices, of random students, and in the worst direction, against the number of nodes."""
        own, units = self.rate, int(self.rate["units"])
        seeds, most = int(own["seeds"]), max(own["nodes"])
        nodes = draws.normal(seeds, most, d) / math.sqrt(d)
        simplex = torch.zeros(1, units, d, dtype=torch.float64, device=draws.device)
        # A basis written down: one that a decomposition gives is another one with every library.
        simplex[0, :, : units - 1] = torch.from_numpy(helmert(units).T)
        random = draws.normal(seeds, units, d)
        for name, students in (("simplex", simplex.expand(seeds, -1, -1)), ("random", random)):
            students = students / students.norm(dim=2, keepdim=True)
            each = kernel(nodes, students).mean(2) - row_moment(d)  # (seeds, nodes), alpha = 1 / units
            lengths = students.mean(1).square().sum(1)
            theory = 2 * math.sqrt(1 / (8 * math.pi**2) + lengths.mean().item() / 16)
            for count in own["nodes"]:
                groups = each[:, : most // count * count].reshape(-1, count)
                mean, error = mean_and_error((2 * groups.mean(1)).square())
                rms = math.sqrt(mean)
                yield _rate(
                    d, count, name, rms, error / (2 * rms), theory / math.sqrt(d * count), len(groups)
                )
        spread = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))  # E |N(0, I)|
        for count in own["nodes"]:
            worst = [frames.worst_direction(some[:count]) for some in nodes[: own["worst"]]]
            mean, error = mean_and_error(torch.tensor(worst, dtype=torch.float64))
            yield _rate(d, count, "worst", mean, error, spread / 2 / math.sqrt(d * count), len(worst))

    def checks(self, tables: Tables) -> Iterable[Check]:
        """Best students compared with the frames, and errors with their rates."""
        rows = tables["two_layer_compression"]
        for row in rows:
            case = f"M={row['units']} d={row['d']}" + (f" mean={row['mean']:g}" if row["mean"] else "")
            if row["problem"] == "simplified" and row["units"] > row["d"] + 1:
                yield below(
                    "bound by the simplex that does not fit", case, row["best_excess"], row["etf_excess"]
                )
            elif row["problem"] != "full":
                tolerance = 1e-8 if row["problem"] == "simplified" else 1e-7
                title = f"{row['problem']}: "
                yield close(f"{title}excess", case, row["etf_excess"], row["best_excess"], tolerance)
                yield near(f"{title}worst cosine of two units", case, 0, row["gram_offdiag_maxdev"], 1e-4)
                if row["problem"] == "tilt":
                    yield near(f"{title}cosine with the mean", case, row["cos_theory"], row["cos_mean"], 1e-4)
        yield from _full_checks(rows)
        for row in tables["rate"]:
            if row["student"] != "worst":
                case = f"d={row['d']} N={row['nodes']}"
                yield close(
                    f"rms error of a {row['student']} student, within 1/d", case, row["theory_error"], row["error"],
                    1 / row["d"], row["se_error"],
                )  # fmt: skip


def _full_checks(rows: Sequence[Row]) -> Iterable[Check]:
    """Means over targets with many, but finitely many, nodes."""
    full = [row for row in rows if row["problem"] == "full" and row["nodes"] >= MANY]
    for mean, nodes in dict.fromkeys((row["mean"], row["nodes"]) for row in full):
        own = [row for row in full if (row["mean"], row["nodes"]) == (mean, nodes)]
        case = f"M={own[0]['units']} d={own[0]['d']} N={nodes} mean={mean:g}"
        excess = float(np.mean([row["best_excess"] for row in own]))
        yield close("full: excess", case, own[0]["etf_excess"], excess, 0.02)
        rms = float(np.mean([row["gram_rms_dev"] for row in own]))
        yield near("full: rms deviation of the cosines", case, 0, rms, 0.02)


def _described(excess: float, units: Tensor, theory: frames.Frame) -> Row:
    """A student compared with the predicted frame."""
    directions = units / units.norm(dim=1, keepdim=True)
    off = (directions @ directions.T)[~torch.eye(len(units), dtype=torch.bool)]
    alpha = units.norm(dim=1) / len(units)
    tilted = not math.isnan(theory.axis)
    return {
        "best_excess": excess, "etf_excess": theory.excess, "rel_dev": relative(excess, theory.excess),
        "residual": math.nan, "gram_offdiag_mean": off.mean().item(), "gram_offdiag_theory": theory.cosine,
        "gram_offdiag_maxdev": (off - theory.cosine).abs().max().item(),
        "gram_rms_dev": (off - theory.cosine).square().mean().sqrt().item(), "alpha_mean": alpha.mean().item(),
        "alpha_theory": theory.alpha, "alpha_spread": (alpha.max() - alpha.min()).item(),
        "cos_mean": directions[:, 0].mean().item() if tilted else math.nan, "cos_theory": theory.axis,
    }  # fmt: skip


def _rate(d: int, nodes: int, student: str, error: float, spread: float, theory: float, seeds: int) -> Row:
    return {
        "d": d, "nodes": nodes, "student": student, "error": error, "se_error": spread, "theory_error": theory,
        "rel_dev": relative(error, theory), "scaled_error": error * math.sqrt(d * nodes), "seeds": seeds,
    }  # fmt: skip
