"""Random matrices: the largest eigenvalue, estimators of a covariance, and the spectra of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparsebench.report.style import COLORS, Drawing, legend

NAMES = {
    "sample": "sample", "clipped": "clipped", "true": "true eigenvalues", "lw_linear": "linear (Ledoit, Wolf)",
    "oas": "linear (OAS)", "rie_raw": "rotationally invariant, raw", "rie": "rotationally invariant",
    "lw_nonlinear": "nonlinear (Ledoit, Wolf)", "ae_true": "network, true targets",
    "ae_oracle": "network, oracle targets", "oracle": "oracle",
}  # fmt: skip
SPECTRA = {"uniform": "uniform on [1, 3]", "halves": "halves of 1 and 3", "geometric": "geometric on [1, 10]"}
MOST = 6
"""Layers of a source whose spectra are drawn: those of the most eigenvalues."""


def drawings(tables: Mapping[str, pd.DataFrame]) -> list[Drawing]:
    """The figures of the parts that have rows."""
    top, found = tables["random_matrix"], []
    spiked = top[top["spectrum"] == "spiked"]
    if len(spiked):
        found += [_spikes(spiked), _overlaps(spiked)]
    predicted = top[~top["spectrum"].isin(["spiked", "small"])]
    if len(predicted):
        found.append(_largest(predicted))
    small = top[top["spectrum"] == "small"]
    if len(small):
        found.append(_over(small))
    if len(tables["cleaning"]):
        found += [_prials(tables["cleaning"]), _shrinkage(tables["shrinkage"])]
    if len(tables["autoencoder"]):
        found.append(_autoencoder(tables["autoencoder"]))
    for source, rows in tables["weights"].groupby("source", sort=False):
        values = tables["spectrum"][tables["spectrum"]["source"] == source]
        name = "planted" if source == "planted" else "run"
        found += [_spectra(name, str(source), rows, values), _ranks(name, str(source), rows)]
    return found


def _panels(count: int, height: float = 3.0, width: float = 7.5) -> tuple[Figure, list[Axes]]:
    columns = 2 if count == 4 else min(count, 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(width, height * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def _sizes(rows: pd.DataFrame) -> dict[tuple[int, int], str]:
    sizes = rows[["n", "p"]].drop_duplicates().itertuples(index=False)
    return {(n, p): color for (n, p), color in zip(sizes, COLORS * 9, strict=False)}


# ------------------------------------------------------------------------------- the largest eigenvalue


def _spikes(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for (n, p), color in _sizes(rows).items():
        own, q = rows[(rows["n"] == n) & (rows["p"] == p)], p / n
        spikes = np.linspace(1, max(own["spike"].max(), 2), 400)
        above = np.maximum(spikes, 1 + math.sqrt(q))
        axes.plot(spikes, above * (1 + q / (above - 1)), color=color, label=f"n={n}, p={p}: limit")
        axes.errorbar(
            own["spike"],
            own["mc_mean"],
            own["mc_sd"],
            color=color,
            fmt="o",
            label=f"n={n}, p={p}: simulation",
        )
        axes.axvline(1 + math.sqrt(q), color=color, linewidth=0.7, linestyle=":")
    axes.plot([1, rows["spike"].max()], [1, rows["spike"].max()], color="grey", label="unbiased")
    axes.set(xlabel="true largest eigenvalue (variance)", ylabel="of the sample (variance)")
    legend(figure)
    caption = (
        "Dots: mean, bars: standard deviation of a draw. Dotted: the spike that starts to leave the bulk."
    )
    return Drawing("largest_spiked", "Largest eigenvalue of a sample: one spike", caption, figure, rows)


def _overlaps(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for (n, p), color in _sizes(rows).items():
        own, q = rows[(rows["n"] == n) & (rows["p"] == p)], p / n
        spikes = np.linspace(1.001, max(own["spike"].max(), 2), 400)
        ratio = q / (spikes - 1) ** 2
        axes.plot(
            spikes,
            np.maximum((1 - ratio) / (1 + q / (spikes - 1)), 0),
            color=color,
            label=f"n={n}, p={p}: limit",
        )
        axes.errorbar(
            own["spike"],
            own["overlap_mc"],
            own["overlap_se"],
            color=color,
            fmt="o",
            label=f"n={n}, p={p}: simulation",
        )
    axes.set(
        xlabel="true largest eigenvalue (variance)", ylabel="squared cosine of the eigenvectors", ylim=(0, 1)
    )
    legend(figure)
    caption = (
        "How much of the sample's first eigenvector is the true one. Dots: means with one standard error."
    )
    return Drawing("overlap", "First eigenvector of a sample: one spike", caption, figure, rows)


def _largest(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 0.24 * len(rows) + 1), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(rows))[::-1]
    axes.scatter(rows["true_max"], places, marker="|", s=70, color="grey", label="true")
    axes.scatter(rows["edge"], places, marker="|", s=70, color=COLORS[1], label="limit: edge of the bulk")
    axes.scatter(rows["tw_mean"], places, marker="D", s=16, color=COLORS[2], label="prediction at this size")
    axes.errorbar(
        rows["mc_mean"],
        places,
        xerr=rows["mc_sd"],
        color=COLORS[0],
        fmt="o",
        markersize=3,
        label="simulation",
    )
    names = [
        f"{SPECTRA.get(spectrum, spectrum)}, n={n}, p={p}"
        for spectrum, n, p in zip(rows["spectrum"], rows["n"], rows["p"], strict=True)
    ]
    axes.set_yticks(places, names)
    axes.set_xlabel("largest eigenvalue (variance)")
    legend(figure)
    caption = (
        "Blue bars: standard deviation of a draw. The prediction is the edge with the Tracy-Widom law's mean."
    )
    return Drawing("largest", "Largest eigenvalue of a sample: no spike", caption, figure, rows)


def _over(rows: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for (centred, own), color in zip(rows.groupby("centred"), COLORS, strict=False):
        name = "mean subtracted" if centred else "known mean"
        error = np.sqrt(own["p_over_mc"] * (1 - own["p_over_mc"]) / own["seeds"])
        axes.errorbar(own["p"], own["p_over_mc"], error, color=color, fmt="o", label=f"{name}: simulation")
        axes.plot(own["p"], own["p_over_bound"], color=color, label=f"{name}: lower bound")
    axes.set(xscale="log", xlabel="variables p, with n = max(4, 2p)", ylabel="probability", ylim=(0, 1.02))
    axes.set_xticks(rows["p"].unique(), [str(p) for p in rows["p"].unique()])
    axes.minorticks_off()
    legend(figure)
    caption = (
        "Probability that the largest eigenvalue of a sample exceeds the true one. Bars: one standard error."
    )
    return Drawing("over_estimation", "Over-estimation of the largest eigenvalue", caption, figure, rows)


# ------------------------------------------------------------------------------------------- cleaning


def _prials(rows: pd.DataFrame) -> Drawing:
    names = [
        name
        for name in NAMES
        if name in set(rows["estimator"]) and name not in ("sample", "oracle", "clipped")
    ]
    own = rows[rows["estimator"].isin(names)]
    priors = list(own.groupby("prior", sort=False))
    figure = Figure(figsize=(7.5, 3.4 * len(priors)), layout="constrained")
    for axes, (prior, part) in zip(figure.subplots(len(priors), 1, squeeze=False)[:, 0], priors, strict=True):
        sizes = list(part.groupby(["N", "T"], sort=False))
        for i, ((_, cell), color) in enumerate(zip(sizes, COLORS * 9, strict=False)):
            cell = cell.set_index("estimator").loc[names]
            places = np.arange(len(names)) + (i - (len(sizes) - 1) / 2) * 0.8 / len(sizes)
            n, t = cell["N"].iloc[0], cell["T"].iloc[0]
            label = f"N={n}, T={t}" if axes is figure.axes[0] else None
            axes.bar(places, cell["prial"], 0.75 / len(sizes), color=color, label=label)
            axes.scatter(places, cell["prial_theory"], marker="_", s=60, color="black", zorder=3)
        axes.set_xticks(
            range(len(names)),
            [NAMES[name].replace(" (", "\n(").replace("rotationally ", "rotationally\n") for name in names],
        )
        axes.set(title=str(prior).replace("_", " "), ylabel="improvement over the sample (%)", ylim=(0, 105))
        axes.grid(axis="x", visible=False)
    legend(figure)
    caption = "Loss below the sample's: 100 % is the oracle's. Black strokes: the limit of many variables."
    return Drawing("prial", "Estimators of a covariance", caption, figure, rows)


def _shrinkage(rows: pd.DataFrame) -> Drawing:
    last = rows.groupby("prior", sort=False).tail(1)[["prior", "N", "T"]]
    own = rows.merge(last, on=["prior", "N", "T"])
    cases = list(own.groupby("prior", sort=False))
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    for axes, (prior, part) in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        part = part.sort_values("sample")
        first = axes is figure.axes[0]
        axes.scatter(part["sample"], part["oracle"], s=5, color="grey", label="oracle" if first else None)
        for name, color in zip(("lw_linear", "lw_nonlinear", "rie"), COLORS, strict=False):
            axes.plot(part["sample"], part[name], color=color, label=NAMES[name] if first else None)
        most = part["sample"].max()
        axes.plot([0, most], [0, most], color="black", linewidth=0.6, label="unchanged" if first else None)
        n, t = part["N"].iloc[0], part["T"].iloc[0]
        axes.set(
            title=f"{prior}, N={n}, T={t}".replace("_", " "), xlabel="eigenvalue of the sample (variance)"
        )
        axes.set_ylim(0, 1.15 * part["oracle"].max())
    figure.axes[0].set_ylabel("cleaned eigenvalue (variance)")
    legend(figure)
    caption = "Estimates from the eigenvalues of one draw."
    return Drawing("shrinkage", "Cleaned eigenvalues", caption, figure, own)


def _autoencoder(rows: pd.DataFrame) -> Drawing:
    first = rows[(rows["seed"] == 0) & rows["estimator"].ne("clipped")]
    cases = list(first.groupby(["N", "T"], sort=False))
    figure = Figure(figsize=(7.5, 2.8 * len(cases)), layout="constrained")
    metrics = (("eig_mse", "se_eig", "error of the eigenvalues"), ("frob", "se_frob", "loss |E - C|² / N"))
    for line, ((n, t), own) in zip(figure.subplots(len(cases), 2, squeeze=False), cases, strict=True):
        names = [name for name in NAMES if name in set(own["estimator"])][::-1]
        own = own.set_index("estimator").loc[names]
        colors = [
            COLORS[1] if name.startswith("ae_") else "black" if name == "oracle" else COLORS[0]
            for name in names
        ]
        for axes, (metric, error, title) in zip(line, metrics, strict=True):
            axes.barh(
                range(len(names)), own[metric], xerr=own[error], color=colors, error_kw={"linewidth": 0.8}
            )
            axes.set_yticks(range(len(names)), [NAMES[name] for name in names] if axes is line[0] else [])
            axes.set(title=f"N={n}, T={t}", xlabel=f"{title} (mean eigenvalue 1)")
            axes.grid(axis="y", visible=False)
    caption = "Means over the test spectra with one standard error: each network is best at its own training objective."
    return Drawing("autoencoder", "A network that cleans eigenvalues", caption, figure, rows)


# -------------------------------------------------------------------------------------------- weights


def _spectra(name: str, source: str, rows: pd.DataFrame, values: pd.DataFrame) -> Drawing:
    """Histograms with the fitted law, of the layers with the most eigenvalues."""
    first = rows[(rows["seed"] == 0) & rows["variance"].notna()]
    largest = values["layer"].value_counts()
    shown = first.assign(many=first["layer"].map(largest)).nlargest(MOST, "many").sort_index()
    figure, panels = _panels(max(len(shown), 1), 2.6)
    for axes, (_, row) in zip(panels, shown.iterrows(), strict=False):
        own = values.loc[values["layer"] == row["layer"], "eigenvalue"]
        short, long = sorted((row["live_outputs"], row["live_inputs"]))
        end = row["threshold"] + max(row["edge_shift"], 0)
        bins = np.linspace(0, max(own.max(), end) * 1.02, min(60, max(15, len(own) // 4)))
        axes.hist(own, bins.tolist(), density=True, color="lightgrey")
        x = np.linspace(*_edges(row["variance"], short / long), 400)
        label = {"law": "noise: Marchenko-Pastur", "edge": "edge, kurtosis corrected", "spike": "spikes"}
        axes.plot(x, _density(x, row["variance"], short / long), color=COLORS[0], label=label["law"])
        axes.axvline(end, color=COLORS[1], linestyle="--", linewidth=0.8, label=label["edge"])
        spikes = own[own > end]
        axes.plot(spikes, np.zeros(len(spikes)), "v", color=COLORS[1], clip_on=False, label=label["spike"])
        axes.set_title(f"{row['layer']}: rank {row['rank']:.0f}", fontsize=7)
        high = np.histogram(own, bins, density=True)[0][2:].max()
        law = _density(x, row["variance"], short / long).max()
        axes.set_ylim(0, 1.1 * max(high, min(law, 1.3 * high)))  # of square matrices the law is infinite at 0
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("eigenvalue of W W' / n (variance of a weight)", fontsize=6)
    figure.supylabel("density", fontsize=8)
    if panels[0].lines:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3)
    caption = f"{source}: eigenvalues of weight matrices, and the law of noise fitted to their bulk."
    return Drawing(f"spectra_{name}", f"Spectra of weight matrices: {source}", caption, figure, values)


def _edges(variance: float, q: float) -> tuple[float, float]:
    return variance * (1 - math.sqrt(q)) ** 2, variance * (1 + math.sqrt(q)) ** 2


def _density(x: np.ndarray, variance: float, q: float) -> np.ndarray:
    low, high = _edges(variance, q)
    return np.sqrt(np.maximum((high - x) * (x - low), 0)) / (
        2 * math.pi * q * variance * np.maximum(x, 1e-300)
    )


def _ranks(name: str, source: str, rows: pd.DataFrame) -> Drawing:
    """Ranks and sparsities of the layers in order; of planted matrices the means over the seeds."""
    columns = ["true_rank", "rank", "uncorrected_rank", "rank_sparsity", "noise_sparsity", "sparsity"]
    own = rows.groupby("layer", sort=False)[columns].mean()
    figure = Figure(figsize=(7.5, 0.2 * len(own) + 1.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(own))[::-1]
    ranks = {"uncorrected_rank": "rank, kurtosis ignored", "true_rank": "rank planted", "rank": "rank"}
    fractions = {
        "rank_sparsity": "saved by the rank",
        "noise_sparsity": "within the noise",
        "sparsity": "sparsity it has",
    }
    looks = zip(COLORS, "s|oDvP", (40, 90, 9, 22, 22, 22), strict=True)
    for (column, label), (color, marker, size) in zip(
        [*ranks.items(), *fractions.items()], looks, strict=True
    ):
        if own[column].notna().any():
            axes = left if column in ranks else right
            axes.scatter(own[column], places, marker=marker, color=color, s=size, label=label)
    left.set_yticks(places, own.index)
    left.set(xlabel="eigenvalues beyond the noise", xlim=(-0.5, None))
    right.set(xlabel="fraction of the weights", xlim=(-0.03, 1.03))
    legend(figure)
    caption = f"{source}: rank that the law of noise leaves, and the sparsities that it suggests, with the actual one."
    return Drawing(f"ranks_{name}", f"Ranks of weight matrices: {source}", caption, figure, rows)
