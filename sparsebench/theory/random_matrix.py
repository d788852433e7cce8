"""Random matrices: the bias of sample eigenvalues, their correction, and the rank of weights beyond noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from sparsebench.errors import SettingError, one_of, require_int
from sparsebench.theory import cleaning, spectral_autoencoder, top_eigenvalue, weight_spectra
from sparsebench.theory.study import Check, Draws, Point, Study, Tables, require_list


@dataclass(frozen=True)
class RandomMatrix(Study):
    """Eigenvalues of random matrices: their bias, its correction, and the rank of weights beyond noise.

    Four parts; a part with empty lists is switched off.

    * ``top_eigenvalue``: the largest eigenvalue of a sample covariance of ``n`` Gaussian rows of ``p`` variables
      exceeds the true one: for white data, with one spike (seen only above ``1 + sqrt(p/n)``), and for general
      spectra, at finite size with the Tracy-Widom law's mean. Small cases have a bound only: by the Rayleigh quotient
      it is exceeded with at least the probability that chi² with n degrees of freedom (n - 1 if centred) exceeds n.
    * ``cleaning``: estimators that keep the eigenvectors of a sample of ``T`` rows of ``N`` variables, with the loss
      ``|E - C|² / N``: rotationally invariant (rie, and rie_raw without its correction of small eigenvalues),
      analytical nonlinear (lw_nonlinear) and linear (lw_linear, oas) shrinkage, clipping, the true eigenvalues, and
      the oracle's, ``v'Cv``, which are optimal. Predictions are limits of N to infinity.
    * ``autoencoder``: a network from sample to true eigenvalues (ae_true), or to the oracle's (ae_oracle); errors of
      the eigenvalues and of the matrix. Its training spectra have the law of the test spectra; its architecture is
      this study's own.
    * ``weights``: the Marchenko-Pastur law fitted to the spectrum of each weight matrix (outputs, inputs x kernel), of
      planted spikes in noise, and of a trained run. ``rank`` counts the eigenvalues beyond the edge of the noise, with
      the edge's shift by the entries' kurtosis, without which sparse noise seems to have spikes
      (``uncorrected_rank``). ``rank_sparsity``: the fraction of the m n weights that factors of that rank r save,
      ``1 - r (m + n) / (m n)``, at least 0. ``noise_sparsity``: the fraction of the weights with
      ``|w| <= sigma sqrt(2 ln(m n))``, explained by noise of the fitted deviation. ``sparsity``: the fraction of zeros.

    Args:
        seed: Seed of all random numbers.
        top_eigenvalue: ``sizes`` ([n, p] of white data), ``spiked_sizes`` and ``spikes``, ``spectra`` (uniform on
            [1, 3], halves of 1 and 3, geometric on [1, 10]) with ``ratios`` (p / n) and ``variables`` (p), ``small``
            (p of the small cases), ``seeds`` (draws), ``large_seeds`` (with more than 100 variables),
            ``small_seeds``.
        cleaning: ``sizes`` ([N, T]), ``priors`` (inverse_wishart, atoms), ``q_prior`` (ratio of the inverse Wishart
            matrix), ``atoms`` ([variance, fraction]), ``seeds``.
        autoencoder: ``sizes`` ([N, T]), ``repeats``, ``train_spectra``, ``test_spectra``, ``epochs``.
        weights: ``sizes`` ([outputs, inputs] of planted matrices), ``noise_sparsities``, ``strengths`` (of the spikes;
            1 is the threshold), ``seeds`` (matrices), ``alpha`` (fraction of eigenvalues excluded at each end when
            estimating the variance), ``beta`` (probability that noise gives a spike), ``run`` (folder of a finished
            run, or null).

    References:
        Hayou: On the overestimation of the largest eigenvalue of a covariance matrix. 2017, arXiv 1708.03551.
        Hayou: Cleaning the correlation matrix with a denoising autoencoder. 2017, arXiv 1708.02985.
        Bun, Bouchaud, Potters: Cleaning large correlation matrices: tools from random matrix theory. Physics Reports
        2017, arXiv 1610.08104.
        Ledoit, Wolf: Analytical nonlinear shrinkage of large-dimensional covariance matrices. Annals of Statistics
        2020.
        Ke, Ma, Lin: Estimation of the number of spiked eigenvalues in a covariance matrix by bulk eigenvalue matching
        analysis. JASA 2021, arXiv 2006.00436.
    """

    tables: ClassVar[Mapping[str, Sequence[str]]] = {
        "random_matrix": (
            "spectrum", "n", "p", "q", "spike", "centred", "true_max", "edge", "tw_mean", "tw_sd", "mc_mean", "se",
            "mc_sd", "rel_dev", "overlap_theory", "overlap_mc", "overlap_se", "p_over_theory", "p_over_mc",
            "p_over_bound", "true_min", "lower_edge", "mc_min", "seeds",
        ),
        "cleaning": (
            "prior", "N", "T", "q", "estimator", "theory_loss", "mc_loss", "se", "rel_dev", "prial", "prial_theory",
            "shrink_theory", "shrink_mc", "seeds",
        ),
        "shrinkage": ("prior", "N", "T", "sample", *cleaning.SHOWN),
        "autoencoder": (
            "N", "T", "seed", "estimator", "eig_mse", "se_eig", "frob", "se_frob", "train_spectra", "epochs", "prior",
        ),
        "weights": (
            "source", "layer", "seed", "outputs", "inputs", "live_outputs", "live_inputs", "noise", "true_variance",
            "variance", "bulk_edge", "edge_shift", "threshold", "largest", "true_rank", "rank", "uncorrected_rank",
            "spike_share", "ks_distance", "rank_sparsity", "noise_sparsity", "sparsity",
        ),
        "spectrum": ("source", "layer", "eigenvalue"),
    }  # fmt: skip

    seed: int
    top_eigenvalue: Mapping[str, Any]
    cleaning: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    weights: Mapping[str, Any]

    def __post_init__(self) -> None:
        self._require_pairs("top_eigenvalue", "sizes", 2)
        self._require_pairs("top_eigenvalue", "spiked_sizes", 2)
        for part in ("cleaning", "autoencoder"):
            self._require_pairs(part, "sizes", 2)
        self._require_pairs("weights", "sizes", 4)
        self._require_top()
        for part in ("cleaning", "autoencoder"):
            for variables, samples in getattr(self, part)["sizes"]:
                if variables >= samples:
                    raise SettingError(
                        f"study.{part}.sizes", [variables, samples], "fewer variables than samples"
                    )
        self._require_cleaning()
        for key, least in (("train_spectra", 2), ("test_spectra", 2), ("repeats", 1), ("epochs", 1)):
            require_int(f"study.autoencoder.{key}", self.autoencoder[key], least)
        self._require_weights()

    def _require_pairs(self, part: str, name: str, least: int) -> None:
        for pair in getattr(self, part)[name]:
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise SettingError(f"study.{part}.{name}", pair, "a list of pairs of integers")
            require_int(f"study.{part}.{name}", min(pair), least=least)

    def _require_top(self) -> None:
        own, name = self.top_eigenvalue, "study.top_eigenvalue"
        for key in ("sizes", "spiked_sizes"):
            for n, p in own[key]:
                if p >= n:
                    raise SettingError(f"{name}.{key}", [n, p], "more samples than variables")
        require_list(f"{name}.spikes", own["spikes"] or [1], 1)
        require_list(f"{name}.ratios", own["ratios"] or [0.5], 0.01, 0.99)
        require_list(f"{name}.small", own["small"] or [1], 1)
        for spectrum in own["spectra"]:
            if spectrum not in top_eigenvalue.SPECTRA:
                raise SettingError(f"{name}.spectra", spectrum, one_of(top_eigenvalue.SPECTRA, spectrum))
        for p in own["variables"]:
            require_int(f"{name}.variables", p, least=2)
            if p > 100 and p % 100:
                raise SettingError(f"{name}.variables", p, "at most 100, or a multiple of it")
        for key in ("seeds", "large_seeds", "small_seeds"):
            require_int(f"{name}.{key}", own[key], least=2)

    def _require_cleaning(self) -> None:
        own, name = self.cleaning, "study.cleaning"
        for prior in own["priors"]:
            if prior not in cleaning.PRIORS:
                raise SettingError(f"{name}.priors", prior, one_of(cleaning.PRIORS, prior))
        require_list(f"{name}.q_prior", [own["q_prior"]], 0.01, 0.99)
        require_list(f"{name}.atoms", [variance for variance, _ in own["atoms"]], 1e-6)
        if abs(sum(fraction for _, fraction in own["atoms"]) - 1) > 1e-9:
            raise SettingError(
                f"{name}.atoms", own["atoms"], "pairs of a variance and a fraction; the fractions sum to 1"
            )
        require_int(f"{name}.seeds", own["seeds"], least=2)

    def _require_weights(self) -> None:
        own, name = self.weights, "study.weights"
        require_int(f"{name}.seeds", own["seeds"], least=2)
        require_list(f"{name}.noise_sparsities", own["noise_sparsities"] or [0], 0, 0.999)
        require_list(f"{name}.strengths", own["strengths"] or [1], 0)
        require_list(f"{name}.alpha", [own["alpha"]], 0.01, 0.4)
        require_list(f"{name}.beta", [own["beta"]], 1e-4, 0.9)
        for pair in own["sizes"]:
            if len(own["strengths"]) >= min(pair):
                raise SettingError(
                    f"{name}.strengths", len(own["strengths"]), f"fewer spikes than {min(pair)}"
                )
        if own["run"] is not None:
            weight_spectra.require_run(f"{name}.run", own["run"])

    def points(self) -> list[Point]:
        """The grid points of the four parts."""
        return [
            {"part": name, **point}
            for name, part in (
                ("top_eigenvalue", top_eigenvalue), ("cleaning", cleaning), ("autoencoder", spectral_autoencoder),
                ("weights", weight_spectra),
            )
            for point in part.points(getattr(self, name))
        ]  # fmt: skip

    def rows(self, point: Point, device: torch.device) -> Tables:
        """The rows of the point's part."""
        draws, part = Draws(self.seed, point, device), point["part"]
        own, point = getattr(self, part), {key: value for key, value in point.items() if key != "part"}
        if part == "top_eigenvalue":
            return {"random_matrix": [top_eigenvalue.row(own, point, draws)]}
        if part == "cleaning":
            return cleaning.rows(own, point, draws)
        if part == "autoencoder":
            return {"autoencoder": spectral_autoencoder.rows(own, point, draws)}
        return weight_spectra.rows(own, point, draws)

    def checks(self, tables: Tables) -> Iterable[Check]:
        """Eigenvalues and losses compared with predictions, the order of estimators, and planted ranks."""
        yield from top_eigenvalue.checks(tables["random_matrix"])
        yield from cleaning.checks(tables["cleaning"])
        yield from spectral_autoencoder.checks(tables["autoencoder"])
        yield from weight_spectra.checks(tables["weights"])
