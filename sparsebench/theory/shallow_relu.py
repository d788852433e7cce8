"""What small shallow ReLU networks converge to: minima of broken symmetry, and few linear regions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch

from sparsebench.errors import SettingError, require_int
from sparsebench.theory import linear_regions as regions
from sparsebench.theory import symmetry_breaking as symmetry
from sparsebench.theory.study import (
    Check,
    Draws,
    Point,
    Row,
    Study,
    Tables,
    below,
    close,
    near,
    require_list,
)

SPURIOUS = 1e-6
"""Loss above which training has not reached a global minimum."""

LIMITS = {"minimum": 0.5 - 2 / math.pi**2, "one block": 0.5 - 1 / math.pi}
"""Limits of k times the loss at the minimum of S_(k-1) x S_1, and of the loss at the critical point of S_k."""

LARGE = 100
"""Number of units from which losses are extrapolated."""

PLACES = 4001
"""Number of points on [-1, 1] at which a network is compared with affine pieces."""


@dataclass(frozen=True)
class ShallowRelu(Study):
    """What training of shallow ReLU networks converges to: minima of broken symmetry, and few linear regions.

    * ``symmetry``: a student of k units learns a teacher of k orthonormal ones by gradient descent on the exact loss
      over N(0, I) inputs. The teacher's symmetry is S_k, and spurious minima keep most of it: S_(k-m) x S_m with
      small m. There the loss is that of a problem of six numbers. L-BFGS refines the result of gradient descent.
    * ``reduced``: that problem's minimum with m = 1, and the critical point of all of S_k, up to large k: k times
      the loss tends to 1/2 - 2/pi², and the loss itself to 1/2 - 1/pi.
    * ``regions``: networks of one input learn labels that change sign r times. Kinks grow with the width, but the
      fewest affine pieces that are the network within 1 % or 3 % of its largest output are O(r). The theory
      gives no constant; the checks use the measured 2 r + 2.

    Args:
        seed: Seed of all random numbers.
        symmetry: ``k``, ``seeds``, ``steps`` (of gradient descent).
        reduced: ``k``.
        regions: ``changes`` (values of r), ``width``, ``samples``, ``seeds``, ``steps`` (to r = 3), ``more_steps``
            (beyond).

    References:
        Arjevani, Field: On the Principle of Least Symmetry Breaking in Shallow ReLU Models. 2019, arXiv 1912.11939.
        Safran, Vardi, Lee: On the Effective Number of Linear Regions in Shallow Univariate ReLU Networks: Convergence
        Guarantees and Implicit Bias. NeurIPS 2022, arXiv 2205.09072.
    """

    tables: ClassVar[Mapping[str, Sequence[str]]] = {
        "shallow_relu": ("k", "seed", "loss", "grad_max", "spurious", "blocks", "predicted_loss", "abs_dev"),
        "reduced": ("k", "point", "a", "b", "c", "d", "e", "loss", "k_loss", "limit"),
        "regions": (
            "changes", "width", "seed", "raw_regions", "eff_regions_1pct", "eff_regions_3pct", "normalised_margin",
            "log10_loss", "train_acc",
        ),
    }  # fmt: skip

    seed: int
    symmetry: Mapping[str, Any]
    reduced: Mapping[str, Any]
    regions: Mapping[str, Any]

    def __post_init__(self) -> None:
        require_list("study.symmetry.k", self.symmetry["k"] or [4], 4)
        require_list("study.reduced.k", self.reduced["k"] or [4], 4)
        for key in ("seeds", "steps"):
            require_int(f"study.symmetry.{key}", self.symmetry[key], least=1)
        own = self.regions
        require_list("study.regions.changes", own["changes"] or [1], 1)
        require_list("study.regions.width", own["width"], 2)
        for key in ("seeds", "steps", "more_steps"):
            require_int(f"study.regions.{key}", own[key], least=1)
        if own["samples"] < 4 * (max(own["changes"], default=0) + 1):
            wanted = f"at least {4 * (max(own['changes'], default=0) + 1)}: 4 samples of each sign's interval"
            raise SettingError("study.regions.samples", own["samples"], wanted)

    def points(self) -> list[Point]:
        """Every k, and every number of changes."""
        found: list[Point] = [{"part": "symmetry", "k": k} for k in self.symmetry["k"]]
        found += [{"part": "reduced", "k": k} for k in self.reduced["k"]]
        return found + [{"part": "regions", "changes": changes} for changes in self.regions["changes"]]

    def rows(self, point: Point, device: torch.device) -> Tables:
        """One row per seed; for the reduced problem one row per critical point."""
        draws = Draws(self.seed, point, device)
        if point["part"] == "symmetry":
            return {"shallow_relu": self._ends(point["k"], draws)}
        if point["part"] == "reduced":
            return {"reduced": _reduced(point["k"])}
        return {"regions": self._regions(point["changes"], draws)}

    def _ends(self, k: int, draws: Draws) -> list[Row]:
        starts = draws.normal(self.symmetry["seeds"], k, k) / math.sqrt(k)
        ends = symmetry.descended(starts, self.symmetry["steps"])
        losses = symmetry.loss(ends)[0].tolist()

        @cache
        def predicted(sizes: tuple[int, ...]) -> float:
            return symmetry.reduced(k, sizes[1], symmetry.MINIMUM)[0] if len(sizes) == 2 else math.nan

        rows = []
        for seed, (end, loss) in enumerate(zip(ends, losses, strict=True)):
            if loss > SPURIOUS / 100:  # otherwise it is still converging to 0
                loss, end = symmetry.settled(end)
            sizes, spurious = tuple(symmetry.blocks(end)), loss > SPURIOUS
            theory = predicted(sizes) if spurious else 0.0
            rows.append({
                "k": k, "seed": seed, "loss": loss, "grad_max": symmetry.loss(end)[1].abs().max().item(),
                "spurious": spurious, "blocks": " ".join(map(str, sizes)), "predicted_loss": theory,
                "abs_dev": abs(loss - theory),
            })  # fmt: skip
        return rows

    def _regions(self, changes: int, draws: Draws) -> list[Row]:
        own, widths = self.regions, self.regions["width"]
        x, y = regions.samples(draws, own["seeds"], own["samples"], changes)
        each = [regions.initial(draws, own["seeds"], width, max(widths)).parts for width in widths]
        start = regions.Networks(torch.cat(each, dim=1))  # all widths at once, on the same samples
        x, y = x.repeat(len(widths), 1), y.repeat(len(widths), 1)
        steps = own["steps"] if changes <= 3 else own["more_steps"]
        networks = regions.trained(start, x, y, steps)
        losses, margins = regions.slopes(networks, x, y)[0], networks(x) * y
        raw = 1 + regions.kinks(networks)
        places = np.linspace(-1, 1, PLACES)
        outputs = networks(torch.from_numpy(places).to(x.device)).cpu().numpy()
        normalised = margins.min(1).values / networks.norms() ** 2
        rows = []
        for i, values in enumerate(outputs):
            near_1, near_3 = (
                regions.affine_pieces(places, values, fraction * np.abs(values).max())
                for fraction in (0.01, 0.03)
            )
            rows.append({
                "changes": changes, "width": widths[i // own["seeds"]], "seed": i % own["seeds"],
                "raw_regions": int(raw[i]), "eff_regions_1pct": near_1, "eff_regions_3pct": near_3,
                "normalised_margin": normalised[i].item(), "log10_loss": math.log10(max(losses[i].item(), 1e-300)),
                "train_acc": (margins[i] > 0).double().mean().item(),
            })  # fmt: skip
        return rows

    def checks(self, tables: Tables) -> Iterable[Check]:
        """Symmetries and losses of the spurious minima, the limits for large k, and regions against the width."""
        yield from _of_minima(tables["shallow_relu"])
        for point, limit in LIMITS.items():
            own = [row for row in tables["reduced"] if row["point"] == point]
            column, name = ("k_loss", "k times the loss") if point == "minimum" else ("loss", "loss")
            for row in own:
                yield below(f"{name}, {point}", f"k={row['k']}", limit, row[column])
            own = [row for row in own if row["k"] >= LARGE]
            if len(own) >= 3:
                sizes = np.array([row["k"] for row in own[-3:]], dtype=float)
                powers = np.stack([sizes**0, sizes**-0.5, sizes**-1], axis=1)
                ends = np.linalg.solve(powers, [row[column] for row in own[-3:]])
                case = f"k={', '.join(str(row['k']) for row in own[-3:])}"
                yield close(f"{name} extrapolated, {point}", case, limit, float(ends[0]), 0.01)
        yield from _of_regions(tables["regions"])


def _reduced(k: int) -> list[Row]:
    """The minimum of S_(k-1) and the critical point of S_k."""
    found = {
        "minimum": symmetry.reduced(k, 1, symmetry.MINIMUM),
        "one block": symmetry.reduced(k, 0, symmetry.SADDLE),
    }
    return [
        {
            "k": k, "point": point, **dict(zip("abcde", entries[:5], strict=True)), "loss": loss, "k_loss": k * loss,
            "limit": LIMITS[point],
        }
        for point, (loss, entries) in found.items()
    ]  # fmt: skip


def _of_minima(rows: Sequence[Row]) -> Iterable[Check]:
    fractions: dict[int, list[bool]] = {}
    for row in rows:
        fractions.setdefault(row["k"], []).append(row["spurious"])
        if row["spurious"]:
            case = f"k={row['k']} seed={row['seed']} blocks {row['blocks']}"
            sizes = [int(size) for size in row["blocks"].split()]
            yield below("half of all units compared with the largest block", case, sizes[0], row["k"] / 2)
            if len(sizes) == 2:
                title = "loss of the reduced problem at a spurious minimum"
                yield near(title, case, row["predicted_loss"], row["loss"], 1e-5)
    order = sorted(fractions)
    for small, large in itertools.pairwise(order):
        few, many = (sum(fractions[k]) / len(fractions[k]) for k in (small, large))
        yield below("fraction of spurious minima, compared with the next k", f"k={small}, {large}", many, few)


def _of_regions(rows: Sequence[Row]) -> Iterable[Check]:
    """Checks of the regions of networks that have learned all labels."""
    trained = [row for row in rows if row["train_acc"] == 1]
    for changes in dict.fromkeys(row["changes"] for row in trained):
        own = [row for row in trained if row["changes"] == changes]
        for row in own:
            case = f"r={changes} width={row['width']} seed={row['seed']}"
            yield below("effective regions, 1 %", case, 2 * changes + 2, row["eff_regions_1pct"])
        widths = sorted({row["width"] for row in own})
        narrow, wide = (
            {row["seed"]: row for row in own if row["width"] == w} for w in (widths[0], widths[-1])
        )
        if len(widths) < 2:
            continue
        case = f"r={changes} widths {widths[0]}, {widths[-1]}"
        for seed in narrow.keys() & wide.keys():
            change = abs(narrow[seed]["eff_regions_1pct"] - wide[seed]["eff_regions_1pct"])
            yield below("change of the effective regions with the width", f"{case} seed={seed}", 2, change)
        ratio = _mean(wide) / _mean(narrow) * widths[0] / widths[-1]
        yield close("raw regions grow as the width", case, 1, ratio, 0.25)


def _mean(rows: Mapping[int, Row]) -> float:
    return sum(row["raw_regions"] for row in rows.values()) / len(rows)
