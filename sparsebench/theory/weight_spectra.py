"""Rank and sparsity of weight matrices by the Marchenko-Pastur law: a part of the study of random matrices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sparsebench.errors import SettingError
from sparsebench.files import read_csv
from sparsebench.paths import expanded
from sparsebench.theory import bema
from sparsebench.theory.study import Check, Draws, Point, Row, Tables, close, mean_and_error

MODEL, LAYERS = "model.safetensors", "layers.csv"
PLANTED = "planted"


def points(own: Mapping[str, Any]) -> Iterator[Point]:
    """Planted matrices of every size and sparsity of the noise; then the run, if there is one."""
    for outputs, inputs in own["sizes"]:
        yield from (
            {"outputs": outputs, "inputs": inputs, "noise": fraction} for fraction in own["noise_sparsities"]
        )
    if own["run"] is not None:
        yield {"run": str(own["run"])}


def require_run(setting: str, run: object) -> None:
    """Check that ``run`` is the folder of a finished run.

    Raises:
        SettingError: Its model or its list of layers is missing.
    """
    if not all((expanded(run) / name).is_file() for name in (MODEL, LAYERS)):
        raise SettingError(setting, run, f"null, or the folder of a finished run, with {MODEL} and {LAYERS}")


def rows(own: Mapping[str, Any], point: Point, draws: Draws) -> Tables:
    """One row per matrix; the eigenvalues of the run's layers, and of the first planted matrix of each kind."""
    if "run" in point:
        return _of_run(own, expanded(point["run"]), draws.device)
    outputs, inputs, strengths = point["outputs"], point["inputs"], own["strengths"]
    matrices = planted(outputs, inputs, point["noise"], strengths, own["seeds"], draws)
    kind = f"{100 * point['noise']:g}% sparse" if point["noise"] else "dense"
    layer = f"{kind} noise {outputs}x{inputs}"
    found = [analysed(matrix, own["alpha"], own["beta"]) for matrix in matrices]
    base_row = {"source": PLANTED, "layer": layer, "noise": point["noise"], "true_variance": 1.0}
    base_row["true_rank"] = sum(strength > 1 for strength in strengths)
    return {
        "weights": [{**base_row, "seed": seed, **row} for seed, (row, _) in enumerate(found)],
        "spectrum": _spectrum(PLANTED, layer, found[0][1]),
    }


def _of_run(own: Mapping[str, Any], run: Path, device: torch.device) -> Tables:
    tensors, tables = load_file(run / MODEL), Tables(weights=[], spectrum=[])
    for layer in (row["layer"] for row in read_csv(run / LAYERS) if row["prunable"] == "True"):
        row, values = analysed(tensors[layer].to(device).double().flatten(1), own["alpha"], own["beta"])
        base_row = {
            "source": run.name,
            "layer": layer,
            "noise": math.nan,
            "true_variance": math.nan,
            "seed": 0,
        }
        base_row["true_rank"] = math.nan
        tables["weights"].append({**base_row, **row})
        tables["spectrum"] += _spectrum(run.name, layer, values)
    return tables


def _spectrum(source: str, layer: str, values: Tensor) -> list[Row]:
    return [{"source": source, "layer": layer, "eigenvalue": value} for value in values.tolist()]


def planted(
    outputs: int, inputs: int, sparsity: float, strengths: Iterable[float], seeds: int, draws: Draws
) -> Tensor:
    """Noise of variance 1 with spikes of random directions.

    Args:
        outputs: Rows.
        inputs: Columns.
        sparsity: Fraction of the noise's entries that are 0; the others have the greater variance.
        strengths: One spike each; 1 is the detection threshold.
        seeds: Number of matrices.
        draws: Random numbers for the noise and the directions.

    Returns:
        (seeds, outputs, inputs).
    """
    small, large = sorted((outputs, inputs))
    kept = draws.uniform(seeds, outputs, inputs) >= sparsity
    noise = draws.normal(seeds, outputs, inputs) * kept / math.sqrt(1 - sparsity)
    sizes = torch.tensor(list(strengths), dtype=noise.dtype, device=noise.device)
    singular = (sizes * math.sqrt(small / large) * large).sqrt()
    left, right = (_directions(draws.normal(seeds, side, len(singular))) for side in (outputs, inputs))
    return noise + (left * singular) @ right.mT


def _directions(drawn: Tensor) -> Tensor:
    """Orthonormal columns (seeds, side, number), uniform of columns of independent normal numbers.

    A QR decomposition leaves their signs open; of a positive diagonal there is one alone.
    """
    basis, triangle = torch.linalg.qr(drawn)
    return basis * triangle.diagonal(dim1=1, dim2=2).sign()[:, None]


def analysed(weight: Tensor, alpha: float, beta: float) -> tuple[Row, Tensor]:
    """Fit the Marchenko-Pastur law to a weight matrix; also returns its eigenvalues.

    Rows and columns that are all zero are excluded from the spectrum: their eigenvalues are not noise.

    Args:
        weight: (outputs, inputs).
        alpha: Fraction of the eigenvalues excluded at each end when estimating the variance.
        beta: Probability that the largest noise eigenvalue is counted as a spike.

    Returns:
        The row, with NaN if fewer than 4 eigenvalues remain; the eigenvalues of ``W W' / n``, with ``n`` the
        longer side, ascending.
    """
    outputs, inputs = weight.shape
    live = weight[(weight != 0).any(1)][:, (weight != 0).any(0)]
    live = live if live.shape[0] <= live.shape[1] else live.T
    small, large = live.shape
    values = torch.linalg.eigvalsh(live @ live.T / max(large, 1)).clamp(min=0)
    row: Row = {
        "outputs": outputs, "inputs": inputs, "live_outputs": int((weight != 0).any(1).sum()),
        "live_inputs": int((weight != 0).any(0).sum()), "variance": math.nan, "bulk_edge": math.nan,
        "edge_shift": math.nan, "threshold": math.nan, "largest": values[-1].item() if small else math.nan,
        "rank": math.nan, "uncorrected_rank": math.nan,
        "spike_share": math.nan, "ks_distance": math.nan, "rank_sparsity": math.nan, "noise_sparsity": math.nan,
        "sparsity": (weight == 0).double().mean().item(),
    }  # fmt: skip
    if small < bema.FEWEST:
        return row, values
    cumulant = (live**4).mean() - 3 * (live**2).mean() ** 2
    found = bema.fit(values.cpu().numpy(), large, alpha, beta, cumulant.item())
    universal = math.sqrt(found.variance * 2 * math.log(outputs * inputs))
    spikes = values[small - found.spikes :]
    row.update(
        variance=found.variance, bulk_edge=found.edge, edge_shift=found.shift, threshold=found.threshold,
        rank=found.spikes, uncorrected_rank=found.uncorrected,
        spike_share=(spikes.sum() / values.sum()).item(), ks_distance=found.distance,
        rank_sparsity=max(1 - found.spikes * (outputs + inputs) / (outputs * inputs), 0.0),
        noise_sparsity=(weight.abs() <= universal).double().mean().item(),
    )  # fmt: skip
    return row, values


def checks(rows: Iterable[Row]) -> Iterator[Check]:
    """Checks of planted matrices: the variance of the noise, and the number of detectable spikes."""
    cases: dict[str, list[Row]] = {}
    for row in rows:
        if row["source"] == PLANTED:
            cases.setdefault(row["layer"], []).append(row)
    for case, found in cases.items():
        variances = torch.tensor([row["variance"] for row in found], dtype=torch.float64)
        mean, error = mean_and_error(variances)
        yield close("variance of the noise", case, found[0]["true_variance"], mean, 0.02, error)
        true = found[0]["true_rank"]
        yield close("rank, median", case, true, median(row["rank"] for row in found), 0)
        if found[0]["noise"] == 0:
            rank = median(row["uncorrected_rank"] for row in found)
            yield close("rank without correction for kurtosis, median", case, true, rank, 0)
