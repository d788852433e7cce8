"""Every study: its numbers are the same whichever eigenvectors, singular vectors or signs a library chooses."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
import yaml
from hydra.utils import get_object
from torch import Tensor

from sparsebench.paths import config_dir
from sparsebench.theory import pruned_networks
from sparsebench.theory.study import Point, Row, Study
from tests.support.configs import options

CPU = torch.device("cpu")
CHEAP = {
    "seeds": 3, "small_seeds": 3, "large_seeds": 3, "draws": 3, "restarts": 1, "worst": 2, "norms": 1, "repeats": 1,
    "inputs": 5, "test_samples": 50, "train_spectra": 100, "test_spectra": 10, "epochs": 1, "steps": 20,
    "more_steps": 20,
}  # fmt: skip
"""Settings of any study that say how much is computed, and not what: their values here where they are larger."""


# ------------------------------------------------------------------------------ other choices of a library


def turns(values: Tensor) -> Tensor:
    """Orthogonal matrices (..., n, n) that turn the vectors of equal ``values`` (..., n) into each other."""
    generator, found = torch.Generator().manual_seed(1), []
    for own in values.reshape(-1, values.shape[-1]):
        apart = own.diff().abs() > 1e-9 * own.abs().max()
        ends = [0, *(apart.nonzero().flatten() + 1).tolist(), len(own)]
        sizes = [after - before for before, after in pairwise(ends)]
        drawn = [torch.randn(size, size, dtype=own.dtype, generator=generator) for size in sizes]
        found.append(torch.block_diag(*[REAL["qr"](block).Q for block in drawn]))
    return torch.stack(found).view(*values.shape, values.shape[-1])


def signs(vectors: Tensor) -> Tensor:
    """Those (..., 1, n) that make no column's sum negative: on half of all vectors -1, and not the same half twice."""
    return 1 - 2 * (vectors.sum(-2, keepdim=True) < 0).to(vectors)


def other_eigh(matrix: Tensor, **options: Any) -> Any:
    """Other eigenvectors of the same matrices (..., n, n)."""
    values, vectors = REAL["eigh"](matrix, **options)
    vectors = vectors @ turns(values)
    return torch.return_types.linalg_eigh((values, vectors * signs(vectors)))


def other_svd(matrix: Tensor, **options: Any) -> Any:
    """Other singular vectors of the same matrices (..., m, n)."""
    left, values, right = (found.clone() for found in REAL["svd"](matrix, **options))
    number, turn = values.shape[-1], turns(values)
    turn = turn * signs(left[..., :number] @ turn)
    left[..., :number] = left[..., :number] @ turn
    right[..., :number, :] = turn.mT @ right[..., :number, :]
    return torch.return_types.linalg_svd((left, values, right))


def other_qr(matrix: Tensor) -> Any:
    """Other signs of the same matrices' (..., m, n) columns, m >= n."""
    basis, triangle = REAL["qr"](matrix)
    return torch.return_types.linalg_qr((basis * signs(basis), signs(basis).mT * triangle))


def other_svds(matrix: Any, *, v0: Any, **options: Any) -> Any:
    """Another place to start from."""
    return scipy.sparse.linalg.svds(matrix, v0=v0 * np.cos(np.arange(len(v0))), **options)


REAL = {name: getattr(torch.linalg, name) for name in ("eigh", "svd", "qr")}
OTHERS = {"eigh": other_eigh, "svd": other_svd, "qr": other_qr}


def exchange(monkeypatch: pytest.MonkeyPatch, chosen: list[str]) -> None:
    """Other decompositions from here on; ``chosen`` gets the name of each that is called."""

    def told(name: str, other: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            chosen.append(name)
            return other(*arguments, **options)

        return call

    for name, other in OTHERS.items():
        monkeypatch.setattr(torch.linalg, name, told(name, other))
    monkeypatch.setattr(pruned_networks, "svds", told("svds", other_svds))


def test_the_other_decompositions_are_decompositions_too_and_others():
    drawn = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    line = torch.linspace(1, 2, 6, dtype=torch.float64)
    matrix = torch.stack([torch.eye(6, dtype=torch.float64) + torch.outer(line, line), drawn[0] @ drawn[0].T])
    values, vectors = other_eigh(matrix)
    assert torch.allclose(vectors * values[:, None] @ vectors.mT, matrix)
    assert not torch.allclose(vectors.abs(), torch.linalg.eigh(matrix)[1].abs()), (
        "also in a space of more than one"
    )
    left, values, right = other_svd(drawn, full_matrices=False)
    assert torch.allclose(left * values[:, None] @ right, drawn)
    assert not torch.allclose(right, torch.linalg.svd(drawn, full_matrices=False)[2])
    basis, triangle = other_qr(drawn)
    assert torch.allclose(basis @ triangle, drawn) and torch.equal(triangle, triangle.triu())
    assert not torch.allclose(basis, torch.linalg.qr(drawn)[0])


# -------------------------------------------------------------------------------------------- the studies


def cheap(settings: Any) -> Any:
    """The settings with less of what :data:`CHEAP` names, at every depth."""
    if not isinstance(settings, dict):
        return settings
    return {
        key: min(value, CHEAP[key]) if key in CHEAP and isinstance(value, int) else cheap(value)
        for key, value in settings.items()
    }


def kinds(points: list[Point]) -> list[Point]:
    """The first and the last of a grid, and the first of each kind, told by its texts."""
    first: dict[tuple[str, ...], Point] = {}
    for point in points:
        first.setdefault(tuple(value for value in point.values() if isinstance(value, str)), point)
    return [*first.values(), *([] if points[-1] in first.values() else points[-1:])]


def numbers(row: Row) -> tuple[dict[str, float], dict[str, Any]]:
    """The numbers of a row, and the rest."""
    found = {key: value for key, value in row.items() if isinstance(value, float)}
    return found, {key: value for key, value in row.items() if key not in found}


@pytest.mark.parametrize("name", options("theory"))
def test_no_number_depends_on_the_vectors_that_a_library_chooses(name, monkeypatch):
    content = yaml.safe_load((config_dir() / f"theory/{name}.yaml").read_text())
    study: Study = get_object(content.pop("_target_"))(**cheap(content))
    for point in kinds(study.points()):
        chosen: list[str] = []
        with monkeypatch.context() as patched:
            exchange(patched, chosen)
            there = study.rows(point, CPU)
        if not chosen:
            continue  # and there was nothing to choose
        for table, rows in study.rows(point, CPU).items():
            for row, other in zip(rows, there[table], strict=True):
                (found, rest), (other_found, other_rest) = numbers(row), numbers(other)
                assert other_found == pytest.approx(found, rel=1e-6, abs=1e-9, nan_ok=True), (point, table)
                assert other_rest == rest, (point, table)
