"""Deep random features: the sharp asymptotic error of learning the last layer, and the effect of depth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsebench.errors import SettingError, one_of, require_int
from sparsebench.theory import deep_features as df
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
from sparsebench.theory.universality import LOSSES, compared


@dataclass(frozen=True)
class DeepRandomFeatures(Study):
    """The sharp test error of ridge regression on deep random features: depth regularises.

    ``phi_l = act(W_l phi_{l-1})`` with frozen Gaussian weights; the last layer is learnt from ``n`` samples by ridge
    regression. Predicted: the covariance of the features, the traces of the resolvent, training and test error, both
    for the weights that were drawn and without any. Targets: the student's own features (``shared``), or a layer of
    other units (``teacher``). For logistic and hinge losses, and labels, there is no closed form: real features are
    compared with Gaussian ones of the predicted covariance (universality).

    Args:
        seed: Seed of all random numbers.
        seeds: Draws of weights and data per grid point.
        test_samples: Number of test samples per seed.
        d: Number of inputs, standard normal.
        width_ratio: Features of every layer over ``d``.
        activation: A function of ``torch.nn.functional`` or ``torch``; its mean is subtracted.
        noise: Variance of the target's noise.
        depths: Numbers of layers of the simulated networks.
        alphas: Samples over features.
        lams: Ridge penalties, on features over the root of their number.
        curves: ``depths`` and number of ``alphas`` for which only the prediction is computed.
        teacher: ``depth``, ``lam``, ``width_ratio`` (units over ``d``) and ``alphas`` of a target of other units.
        linearisation: ``depths``, ``d`` (values), ``samples`` and ``seeds`` of the covariance's error.
        traces: ``depth``, ``alpha``, ``d`` (values), ``lams`` and ``seeds`` of traces at other sizes.
        universality: ``losses``, ``depth``, ``d``, ``lam``, ``alphas`` and ``seeds`` of labels.

    References:
        Schroeder, Cui, Dmitriev, Loureiro: Deterministic Equivalent and Error Universality of Deep Random Features
        Learning. ICML 2023, arXiv 2302.00401.
    """

    tables: ClassVar[Mapping[str, Sequence[str]]] = {
        "deep_random_features": (
            "target", "L", "d", "k", "act", "lam", "noise", "n", "alpha", "nu", "df1", "df2", "theory_det",
            "theory_cond", "mc_test", "se_test", "rel_dev_det", "rel_dev_cond", "theory_train", "mc_train", "se_train",
            "seeds",
        ),
        "resolvent": ("L", "d", "alpha", "lam", "theory_trace", "mc_trace", "se_trace", "rel_dev"),
        "curves": ("L", "alpha", "lam", "theory_test", "theory_train"),
        "linearisation": ("L", "d", "rel_frob_error", "samples", "seeds"),
        "universality": (
            "loss", "L", "alpha", "lam", "real_error", "se_real_error", "gaussian_error", "se_gaussian_error",
            "real_loss", "se_real_loss", "gaussian_loss", "se_gaussian_loss", "theory_loss", "seeds",
        ),
    }  # fmt: skip

    seed: int
    seeds: int
    test_samples: int
    d: int
    width_ratio: float
    activation: str
    noise: float
    depths: Sequence[int]
    alphas: Sequence[float]
    lams: Sequence[float]
    curves: Mapping[str, Any]
    teacher: Mapping[str, Any]
    linearisation: Mapping[str, Any]
    traces: Mapping[str, Any]
    universality: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("seeds", "d", "test_samples"):
            require_int(name, getattr(self, name), least=2)
        require_list("depths", self.depths, 1, 50)
        require_list("alphas", self.alphas, 2 / self.d)
        require_list("lams", self.lams, 1e-12)
        for loss in self.universality["losses"]:
            if loss not in LOSSES:
                raise SettingError("study.universality.losses", loss, one_of(LOSSES, loss))
        if df.layer(self.act, 1.0).kappa1 == 0:
            raise SettingError("activation", self.activation, "a function with a linear part, such as tanh")

    @property
    def act(self) -> df.Activation:
        """The activation function.

        Raises:
            SettingError: PyTorch has none of its name.
        """
        for place in (torch.nn.functional, torch):
            found = getattr(place, self.activation, None)
            try:
                if callable(found) and found(torch.zeros(3, dtype=torch.float64)).shape == (3,):
                    return found
            except (TypeError, RuntimeError, AttributeError):
                continue
        raise SettingError(
            "activation", self.activation, "a function of torch.nn.functional or torch, such as tanh"
        )

    def points(self) -> list[Point]:
        """Depths and numbers of samples, then the curves, the covariances and the losses."""
        lams = list(self.lams)
        found: list[Point] = [
            {"part": "shared", "L": L, "alpha": a, "lams": lams} for L in self.depths for a in self.alphas
        ]
        own = self.teacher
        found += [
            {"part": "teacher", "L": own["depth"], "alpha": a, "lams": [own["lam"]]} for a in own["alphas"]
        ]
        found += [{"part": "curves", "L": L, "lams": lams} for L in self.curves["depths"]]
        own = self.linearisation
        found += [{"part": "linearisation", "L": L, "d": d} for L in own["depths"] for d in own["d"]]
        own = self.traces
        found += [{"part": "traces", "d": d, "lam": lam} for d in own["d"] for lam in own["lams"]]
        own = self.universality
        return found + [
            {"part": "universality", "loss": loss, "alpha": a}
            for loss in own["losses"]
            for a in own["alphas"]
        ]

    def rows(self, point: Point, device: torch.device) -> Tables:
        """The rows of the point's part."""
        draws = Draws(self.seed, {k: v for k, v in point.items() if k not in ("lams", "lam", "loss")}, device)
        if point["part"] == "curves":
            return {"curves": list(self._curve(point))}
        if point["part"] == "linearisation":
            own, d = self.linearisation, point["d"]
            error = self._drawn(point["L"], d, own["seeds"], draws).linearisation_error(own["samples"], draws)
            row = {"L": point["L"], "d": d, "rel_frob_error": error}
            return {"linearisation": [{**row, "samples": 2 * own["samples"], "seeds": own["seeds"]}]}
        if point["part"] == "traces":
            return {"resolvent": [self._trace(point, draws)]}
        if point["part"] == "universality":
            own, given = self.universality, {"loss": point["loss"], "alpha": point["alpha"]}
            network = self._drawn(own["depth"], own["d"], own["seeds"], draws)
            samples = (max(int(point["alpha"] * len(network.weights[-1][0]) + 1e-9), 2), self.test_samples)
            found = compared(point["loss"], network, samples, float(own["lam"]), self.noise, draws)
            return {
                "universality": [
                    {**given, "L": own["depth"], "lam": own["lam"], "seeds": own["seeds"], **found}
                ]
            }
        return self._regression(point, draws)

    # --------------------------------------------------------------------------------------- regression

    def _drawn(self, depth: int, d: int, seeds: int, draws: Draws) -> df.Network:
        return df.Network.drawn(self.act, depth, d, round(self.width_ratio * d), seeds, draws)

    def _regression(self, point: Point, draws: Draws) -> Tables:
        depth, seeds, d = point["L"], self.seeds, self.d
        k = round(self.width_ratio * d)
        n = max(int(point["alpha"] * k + 1e-9), 1)
        network = self._drawn(depth, d, seeds, draws)
        inputs = draws.normal(seeds, n + self.test_samples, d)
        phi = network.features(inputs) / math.sqrt(k)
        if point["part"] == "shared":
            theta, missed = draws.normal(seeds, k), torch.zeros(seeds)
            signal = (phi @ theta[..., None]).squeeze(-1)
        else:
            units = round(self.teacher["width_ratio"] * d)
            signal, theta, missed = network.sign_teacher(inputs, units, draws)
        targets = signal + math.sqrt(self.noise) * draws.normal(*signal.shape)
        values, vectors = torch.linalg.eigh(network.covariance() / k)
        turned = (vectors.transpose(1, 2) @ theta[..., None]).squeeze(-1).cpu()
        values = values.cpu()  # roots are found on the CPU
        tables: Tables = {"deep_random_features": [], "resolvent": []}
        for lam in point["lams"]:
            each = zip(values, turned, missed, strict=True)
            limits = [df.conditional(v, t, self.noise + float(m), lam, n) for v, t, m in each]
            free = df.deterministic([d, *[k] * depth], network.layers, self.noise, lam, n)
            found = df.ridge(phi[:, :n], targets[:, :n], lam)
            errors = (targets - (phi @ found[..., None]).squeeze(-1)) ** 2
            tables["deep_random_features"].append({
                "target": point["part"], "L": depth, "d": d, "k": k, "act": self.activation, "lam": lam,
                "noise": self.noise, "n": n, "alpha": point["alpha"], "seeds": seeds,
                **_against(limits, free.test if point["part"] == "shared" else math.nan, errors, n),
            })  # fmt: skip
            if point["part"] == "shared":
                given = {"L": depth, "d": d, "alpha": point["alpha"], "lam": lam}
                tables["resolvent"].append({**given, **_traced(phi[:, :n], lam, limits)})
        return tables

    # ------------------------------------------------------------------- prediction alone, and covariance

    def _curve(self, point: Point) -> Iterator[Row]:
        k = 1000  # arbitrary: only ratios matter
        widths = [round(k / self.width_ratio), *[k] * point["L"]]
        layers = df.layers(self.act, point["L"])
        for lam in point["lams"]:
            for i in range(self.curves["alphas"]):
                alpha = 0.25 * 32 ** (i / max(self.curves["alphas"] - 1, 1))
                found = df.deterministic(widths, layers, self.noise, lam, max(round(alpha * k), 1))
                yield {
                    "L": point["L"],
                    "alpha": alpha,
                    "lam": lam,
                    "theory_test": found.test,
                    "theory_train": found.train,
                }

    def _trace(self, point: Point, draws: Draws) -> Row:
        """A trace only: its deviation from the limit at another size."""
        own, d, lam = self.traces, point["d"], point["lam"]
        network = self._drawn(own["depth"], d, own["seeds"], draws)
        omega = network.covariance()
        k = omega.shape[-1]
        n = int(own["alpha"] * k + 1e-9)
        phi = network.features(draws.normal(own["seeds"], n, d)) / math.sqrt(k)
        values = torch.linalg.eigvalsh(omega / k).cpu()
        limits = [df.conditional(v, torch.zeros_like(v), self.noise, lam, n) for v in values]
        return {"L": own["depth"], "d": d, "alpha": own["alpha"], "lam": lam, **_traced(phi, lam, limits)}

    # ------------------------------------------------------------------------------------------- checks

    def checks(self, tables: Tables) -> Iterable[Check]:
        """Errors and traces compared with predictions; real and Gaussian features; the effect of depth."""
        for row in tables["deep_random_features"]:
            case = f"{row['target']} L={row['L']} alpha={row['alpha']:g} lam={row['lam']:g}"
            tolerance = 0.015 if row["alpha"] >= 2 else 0.03
            if not math.isnan(row["theory_det"]):
                yield close("test error", case, row["theory_det"], row["mc_test"], tolerance, row["se_test"])
            yield close(
                "test error, given the weights",
                case,
                row["theory_cond"],
                row["mc_test"],
                tolerance,
                row["se_test"],
            )
            if row["lam"] >= 1e-2 and row["alpha"] >= 1:
                yield close(
                    "training error", case, row["theory_train"], row["mc_train"], 0.06, row["se_train"]
                )
        for row in (row for row in tables["resolvent"] if row["d"] == self.d):
            case = f"L={row['L']} d={row['d']} alpha={row['alpha']:g} lam={row['lam']:g}"
            yield close(
                "trace of the resolvent", case, row["theory_trace"], row["mc_trace"], 0.02, row["se_trace"]
            )
        for row in tables["universality"]:
            case = f"{row['loss']} L={row['L']} alpha={row['alpha']:g}"
            for what in ("error", "loss"):
                error = math.hypot(row[f"se_real_{what}"], row[f"se_gaussian_{what}"])
                yield close(
                    f"{what} of labels, real against Gaussian",
                    case,
                    row[f"gaussian_{what}"],
                    row[f"real_{what}"],
                    0.03,
                    error,
                )
            if not math.isnan(row["theory_loss"]):
                yield close(
                    "squared loss of labels",
                    case,
                    row["theory_loss"],
                    row["real_loss"],
                    0.03,
                    row["se_real_loss"],
                )
        yield from self._of_shapes(tables)

    def _of_shapes(self, tables: Tables) -> Iterator[Check]:
        linear = tables["linearisation"]
        for depth in dict.fromkeys(row["L"] for row in linear):
            own = sorted((row["d"], row["rel_frob_error"]) for row in linear if row["L"] == depth)
            if len(own) > 1 and min(error for _, error in own) > 0:
                slope = math.log(own[-1][1] / own[0][1]) / math.log(own[-1][0] / own[0][0])
                yield near("exponent in d of the linearisation's error", f"L={depth}", -0.5, slope, 0.15)
        for lam in self.traces["lams"]:
            same = (self.traces["depth"], self.traces["alpha"], lam)
            of_size = {
                row["d"]: abs(row["rel_dev"])
                for row in tables["resolvent"]
                if (row["L"], row["alpha"], row["lam"]) == same
            }
            if len(of_size) > 1:
                small, large = min(of_size), max(of_size)
                case = f"d={large} against {small}, lam={lam:g}"
                yield below("deviation of the trace falls with d", case, of_size[small], of_size[large])
        shared = {
            (r["lam"], r["alpha"], r["L"]): r["mc_test"]
            for r in tables["deep_random_features"]
            if r["target"] == "shared"
        }
        shallow, deep = min(self.depths), max(self.depths)
        for lam in self.lams:
            if deep > shallow and 1 in self.alphas:
                name = f"error at alpha=1 with {deep} layers, against {shallow}"
                yield below(name, f"lam={lam:g}", shared[lam, 1, shallow], shared[lam, 1, deep])


def _traced(phi: Tensor, lam: float, limits: Sequence[df.Ridge]) -> Row:
    """The trace of the resolvent and its prediction, of features (seeds, n, k) over the root of k."""
    k = phi.shape[-1]
    trace, error = mean_and_error(df.resolvent(phi, lam))
    theory = sum(k - limit.df1 for limit in limits) / len(limits) / (k * lam)
    return {"theory_trace": theory, "mc_trace": trace, "se_trace": error, "rel_dev": relative(trace, theory)}


def _against(limits: Sequence[df.Ridge], free: float, errors: Tensor, n: int) -> Row:
    """Test and training errors of all seeds with their predictions.

    Args:
        limits: Limits given each seed's weights.
        free: Predicted test error without weights, if there is a prediction.
        errors: (seeds, n + test samples) squared.
        n: Training samples.
    """
    test, error = mean_and_error(errors[:, n:].mean(1))
    train, train_error = mean_and_error(errors[:, :n].mean(1))
    means = {
        name: sum(getattr(limit, name) for limit in limits) / len(limits)
        for name in ("nu", "df1", "df2", "test", "train")
    }
    return {
        "nu": means["nu"], "df1": means["df1"], "df2": means["df2"], "theory_det": free, "theory_cond": means["test"],
        "mc_test": test, "se_test": error,
        "rel_dev_det": relative(test, free), "rel_dev_cond": relative(test, means["test"]),
        "theory_train": means["train"], "mc_train": train, "se_train": train_error,
    }  # fmt: skip
