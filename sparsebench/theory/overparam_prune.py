"""Pruning an over-parameterised linear model: train a small one, or prune a large one?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsebench.errors import SettingError, require_int
from sparsebench.theory import least_squares as ls
from sparsebench.theory.pruned_estimates import (
    Problem,
    against,
    estimates,
    gaussianity,
    supports,
)
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

METHODS = ("none", "magnitude", "hessian", "oracle", "random")
TOLERANCE = {"diag": 0.02, "general": 0.03, "rf": 0.04, "latent": 0.03}


@dataclass(frozen=True)
class OverparamPrune(Study):
    """Pruned least squares in the over-parameterised regime: the double descent of sparse models.

    ``n`` samples ``y = <x, beta> + noise``; the learner sees the first ``p`` features and takes the least-squares
    solution of least norm. It then keeps ``s`` coordinates: the largest ``|b|`` (magnitude), the largest
    ``b² H_ii`` (hessian, OBD's saliency), those of the largest true contribution (oracle), or random ones; with or
    without least squares on what is left (retrain). Risk is ``E (y - <x, b>)²``. Designs:

    * ``diag``: diagonal covariance, features in the order of their variance; those unseen are noise.
    * ``general``: ``Sigma_ij = correlation^|i-j|``.
    * ``rf``: random ReLU features of Gaussian inputs, with the linear problem that they are equivalent to.
    * ``latent``: one factor behind all features, where retraining is what helps.

    There is no closed form for retraining on a support that depends on the data: those rows have no prediction.

    Args:
        seed: Seed of all random numbers.
        seeds: Draws of the data per grid point of ``diag``; the other designs have their own.
        diag: ``n``, ``informative`` and ``weak`` (numbers of features), ``noise`` (variance), ``features`` (values of
            p), ``keep`` (further values of s, for the largest p).
        general: ``n``, ``noise``, ``correlation``, ``keep``, ``features``, ``seeds``, ``draws`` (of g for the
            prediction).
        rf: ``n``, ``d`` (inputs), ``noise``, ``keep``, ``features``, ``seeds``, ``draws``.
        latent: ``n``, ``p``, ``noise``, ``bulk`` (variance besides the factor's), ``keep``, ``seeds``, ``draws``.

    References:
        Chang, Li, Oymak, Thrampoulidis: Provable Benefits of Overparameterization in Model Compression: From Double
        Descent to Pruning Neural Networks. AAAI 2021, arXiv 2012.08749.
    """

    tables: ClassVar[Mapping[str, Sequence[str]]] = {
        "overparam_prune": (
            "design",
            "n",
            "d",
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
        "residuals": ("p", "block", "pooled_mean", "pooled_std", "ks_distance"),
    }

    seed: int
    seeds: int
    diag: Mapping[str, Any]
    general: Mapping[str, Any]
    rf: Mapping[str, Any]
    latent: Mapping[str, Any]

    def __post_init__(self) -> None:
        require_int("seeds", self.seeds, least=2)
        for name in ("diag", "general", "rf"):
            own = getattr(self, name)
            require_list(f"study.{name}.features", own["features"], 2)
            if own["n"] in own["features"]:
                raise SettingError(
                    f"study.{name}.features", own["n"], f"no {own['n']}: there are as many samples"
                )
        for name in ("general", "rf", "latent"):
            own = getattr(self, name)
            for key in ("seeds", "draws", "keep"):
                require_int(f"study.{name}.{key}", own[key], least=2)
        for name in ("diag", "general", "rf", "latent"):
            n, keep = getattr(self, name)["n"], self._keep(name)
            if keep + 1 >= n:
                raise SettingError(
                    f"study.{name}.n", n, f"more than {keep + 1} samples, for {keep} features are kept"
                )
        if max(self.diag["features"]) > self.diag["informative"] + self.diag["weak"]:
            most = self.diag["informative"] + self.diag["weak"]
            raise SettingError(
                "study.diag.features", max(self.diag["features"]), f"at most {most}: there are no more"
            )
        require_list("study.diag.keep", self.diag["keep"] or [1], 1, max(self.diag["features"]))

    def _keep(self, design: str) -> int:
        return int(self.diag["informative"] if design == "diag" else getattr(self, design)["keep"])

    def points(self) -> list[Point]:
        """Every number of features of every design; for ``diag`` also every number kept, with the most features."""
        most = max(self.diag["features"])
        found = [{"design": "diag", "p": p, "keep": self._keep("diag")} for p in self.diag["features"]]
        found += [{"design": "diag", "p": most, "keep": keep} for keep in self.diag["keep"]]
        for name in ("general", "rf"):
            found += [
                {"design": name, "p": p, "keep": self._keep(name)} for p in getattr(self, name)["features"]
            ]
        return [*found, {"design": "latent", "p": self.latent["p"], "keep": self.latent["keep"]}]

    def rows(self, point: Point, device: torch.device) -> Tables:
        """One row per method, with and without retraining."""
        draws = Draws(self.seed, {key: point[key] for key in ("design", "p")}, device)
        if point["design"] == "diag":
            return self._diagonal(point, draws)
        return {"overparam_prune": list(self._correlated(point, draws))}

    # ------------------------------------------------------------------------------- diagonal covariance

    def _diagonal(self, point: Point, draws: Draws) -> Tables:
        own, p, keep = self.diag, point["p"], min(point["keep"], point["p"])
        strong = torch.arange(own["informative"] + own["weak"], device=draws.device) < own["informative"]
        variances = torch.where(strong, 25.0, 1.0).double()
        fractions = torch.where(strong, 0.8 / own["informative"], 0.2 / max(own["weak"], 1)).double()
        unseen = own["noise"] + fractions[p:].sum().item()
        variances, target = variances[:p], (fractions / variances).sqrt()[:p]
        features = draws.normal(self.seeds, own["n"], p) * variances.sqrt()
        targets = features @ target + math.sqrt(unseen) * draws.normal(self.seeds, own["n"])
        found = ls.estimate(features, targets)
        limit = ls.limit(variances, target, unseen, own["n"])
        contribution = (variances * target**2).expand(self.seeds, p)
        kept = supports(found, (features**2).mean(1), contribution, draws.uniform(self.seeds, p), keep)
        oracle = kept["oracle"][0]
        chosen = torch.zeros_like(variances).index_fill(0, oracle, 1.0)
        predicted = {
            ("none", False): limit.risk,
            ("magnitude", False): ls.thresholded(
                variances, target, limit, unseen, keep, torch.ones_like(variances)
            ),
            ("hessian", False): ls.thresholded(variances, target, limit, unseen, keep, variances.sqrt()),
            ("oracle", False): ls.on_support(variances, target, limit, unseen, chosen),
            ("random", False): ls.on_support(
                variances, target, limit, unseen, torch.full_like(chosen, keep / p)
            ),
        }
        if keep < own["n"] - 1:
            predicted["oracle", True] = ls.retrained(variances.diag(), target, unseen, oracle, own["n"])

        def risk(coefficients: Tensor) -> Tensor:
            return unseen + ((target - coefficients) ** 2 * variances).sum(-1)

        rows = []
        for (method, retrain), coefficients in estimates(features, targets, found, kept, own["n"]):
            theory = predicted.get((method, retrain), math.nan)
            rows.append(
                {
                    **point,
                    "keep": p if method == "none" else keep,
                    "n": own["n"],
                    "d": len(strong),
                    "method": method,
                    "retrain": retrain,
                    "sigma2_eff": unseen,
                    "xi": limit.xi,
                    "gamma": limit.gamma,
                    **against(risk(coefficients), torch.full((1, 1), theory, dtype=torch.float64)),
                }
            )
        residuals = (found - limit.mean) / limit.deviation
        blocks = {
            "informative": residuals[:, strong[:p]],
            "weak": residuals[:, ~strong[:p]],
            "all": residuals,
        }
        first = point["keep"] == self._keep("diag")
        return {
            "overparam_prune": rows if first else [row for row in rows if row["method"] != "none"],
            "residuals": [
                {"p": p, "block": b, **gaussianity(r)} for b, r in blocks.items() if r.numel() and first
            ],
        }

    # -------------------------------------------------------------- correlated features and random features

    def _correlated(self, point: Point, draws: Draws) -> Iterator[Row]:
        own, name, p = getattr(self, point["design"]), point["design"], point["p"]
        if name == "rf":
            problem = self._random_features(p, draws)
        else:
            covariance, target = self._general(p, draws) if name == "general" else self._latent(draws)
            features = draws.normal(own["seeds"], own["n"], p) @ torch.linalg.cholesky(covariance).T
            targets = features @ target + math.sqrt(own["noise"]) * draws.normal(own["seeds"], own["n"])
            unseen = target.new_full((1,), float(own["noise"]))
            problem = Problem(covariance[None], target[None], unseen, features, targets)
        for row in problem.rows(min(point["keep"], p), own["draws"], draws):
            yield {**point, "n": own["n"], "d": own.get("d", p), **row}

    def _general(self, p: int, draws: Draws) -> tuple[Tensor, Tensor]:
        places = torch.arange(p, dtype=torch.float64, device=draws.device)
        target = torch.where(places < self.general["keep"], 1 / math.sqrt(self.general["keep"]), 0.0)
        return float(self.general["correlation"]) ** (places[:, None] - places).abs(), target.double()

    def _latent(self, draws: Draws) -> tuple[Tensor, Tensor]:
        p = self.latent["p"]
        loading = torch.linspace(1.5, 0.5, p, dtype=torch.float64, device=draws.device)
        bulk = self.latent["bulk"] * torch.eye(p, dtype=torch.float64, device=draws.device)
        return torch.outer(loading, loading) + bulk, loading / loading.square().sum()

    def _random_features(self, p: int, draws: Draws) -> Problem:
        """The linear problem that centred ReLU features of N(0, I) are equivalent to, and real such features."""
        own, seeds = self.rf, self.rf["seeds"]
        directions = draws.normal(seeds, p, own["d"])
        directions = directions / directions.norm(dim=2, keepdim=True)
        teacher = draws.normal(own["d"])
        teacher = teacher / teacher.norm()
        inputs = draws.normal(seeds, own["n"], own["d"])
        features = (inputs @ directions.transpose(1, 2)).relu() - 1 / math.sqrt(2 * math.pi)
        targets = inputs @ teacher + math.sqrt(own["noise"]) * draws.normal(seeds, own["n"])
        cosines = (directions @ directions.transpose(1, 2)).clamp(-1, 1)
        cosines.diagonal(dim1=1, dim2=2).fill_(1)
        moment = (1 - cosines**2).sqrt() + cosines * (math.pi - cosines.arccos())
        covariance = moment / (2 * math.pi) - 1 / (2 * math.pi)
        cross = directions @ teacher / 2
        target = torch.linalg.solve(covariance, cross)
        unseen = 1 + own["noise"] - (cross * target).sum(-1)
        return Problem(covariance, target, unseen, features, targets)

    # ------------------------------------------------------------------------------------------- checks

    def checks(self, tables: Tables) -> Iterable[Check]:
        """Risks compared with predictions, the peak, the order of methods, and the distribution of the estimate."""
        rows = tables["overparam_prune"]
        for row in rows:
            if not math.isnan(row["theory_risk"]):
                tolerance = TOLERANCE[row["design"]]
                yield close(
                    _named("risk", row),
                    _case(row),
                    row["theory_risk"],
                    row["mc_risk"],
                    tolerance,
                    row["se_risk"],
                )
        main = [
            row for row in rows if row["design"] == "diag" and row["keep"] in (self._keep("diag"), row["p"])
        ]
        grid, n = sorted({row["p"] for row in main}), self.diag["n"]
        beside = {*[p for p in grid if p < n][-1:], *[p for p in grid if p > n][:1]}
        for method in METHODS[:3]:
            curve = {
                row["p"]: row["mc_risk"] for row in main if row["method"] == method and not row["retrain"]
            }
            peak = max(curve, key=lambda p: curve[p])
            nearest = min(beside, key=lambda p: abs(p - peak))
            yield below(
                f"{method}: distance of the peak from p = n, in features",
                f"n={n}",
                abs(nearest - n),
                abs(peak - n),
            )
        measured = {(row["p"], row["method"], row["retrain"]): row["mc_risk"] for row in main}
        most, small = grid[-1], self.diag["informative"]
        if small in grid and most > n:
            start = measured[small, "none", False]
            for method in ("oracle", "hessian"):
                yield below(
                    f"{method}: large and pruned beats small from the start",
                    f"p={most}",
                    start,
                    measured[most, method, False],
                )
            yield below(
                "hessian: retraining does not help",
                f"p={most}",
                measured[most, "hessian", True],
                measured[most, "hessian", False],
            )
        latent = {(r["method"], r["retrain"]): r["mc_risk"] for r in rows if r["design"] == "latent"}
        yield below(
            "magnitude: retraining helps", "latent", latent["magnitude", False], latent["magnitude", True]
        )
        for row in tables["residuals"]:
            if row["block"] == "all" and abs(row["p"] / n - 1) >= 0.25:
                # 3.5 of them: the 99.6 % quantile of Kolmogorov's law
                error = 0.5 / math.sqrt(self.seeds * row["p"])
                yield near(
                    "Kolmogorov distance of the estimate's law",
                    f"p={row['p']}",
                    0,
                    row["ks_distance"],
                    0.02,
                    error,
                )


def _named(check: str, row: Row) -> str:
    return f"{check}, {row['method']}{' and retraining' if row['retrain'] else ''}"


def _case(row: Row) -> str:
    return f"{row['design']} p={row['p']} keep={row['keep']}"
