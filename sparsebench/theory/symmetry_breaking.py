"""ReLU students of a teacher of orthonormal units: their loss, gradient descent, and the symmetries of its limits.

``L(W) = 1/2 E (sum_i relu(w_i.x) - sum_j relu(x_j))²``, x ~ N(0, I_k), W (k, k). Permuting rows and columns of W leaves
it as it is: the isotropy group of W are the permutations of both at once, up to one of rows, that leave W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits
from torch import Tensor

from sparsebench.theory.lbfgs import least
from sparsebench.theory.relu_kernel import energy

MINIMUM = (1.0, 0.0, 2.0, 1.2, -0.9, 0.0)
"""Starting point of the search for a minimum of two blocks: a, b, k c, k d, e, f of :func:`pattern`."""

SADDLE = (-0.7, 2.0)
"""Starting point of the search for the critical point of one block: a, k b."""


def loss(students: Tensor) -> tuple[Tensor, Tensor]:
    """Loss (...) of students (..., k, k), and its gradient (..., k, k)."""
    k = students.shape[-1]
    teacher = torch.eye(k, dtype=students.dtype, device=students.device)
    ones = students.new_ones(k)
    found, slope, _ = energy(students, ones.expand(students.shape[:-1]), teacher, ones)
    return (found + k / 2 + k * (k - 1) / (2 * math.pi)) / 2, slope / 2


def descended(students: Tensor, steps: int) -> Tensor:
    """Students (seeds, k, k) after gradient descent of rate 1 / k."""
    rate = 1 / students.shape[-1]
    with threadpool_limits(1), torch.inference_mode():
        for _ in range(steps):
            students = students - rate * loss(students)[1]
    return students.clone()  # outside inference mode


def settled(student: Tensor) -> tuple[float, Tensor]:
    """The local minimum (k, k) near a student, with its loss."""
    return least(loss, student, change=1e-17, slope=1e-11)


def pattern(k: int, m: int) -> Tensor:
    """Indicators (6, k, k) of the matrices that permutations of the first k - m and of the last m indices leave.

    Of the first block a diagonal, b beside it; c in its rows' last columns, d in the last rows' first; of the last
    block e diagonal, f beside it.
    """
    last = torch.arange(k) >= k - m
    rows, columns = last[:, None], last[None]
    diagonal = torch.eye(k, dtype=torch.bool)
    masks = (
        ~rows & ~columns & diagonal, ~rows & ~columns & ~diagonal, ~rows & columns, rows & ~columns,
        rows & columns & diagonal, rows & columns & ~diagonal,
    )  # fmt: skip
    return torch.stack(masks).double()


def reduced(k: int, m: int, start: Sequence[float]) -> tuple[float, list[float]]:
    """Local minimum of the loss among the matrices of :func:`pattern`.

    Args:
        k: Units.
        m: Units of the last block; 0 for one block.
        start: a, b, k c, k d, e, f; or a, k b for one block.

    Returns:
        The loss, and a to f; NaN for entries that do not exist.
    """
    masks = pattern(k, m)
    present = masks.flatten(1).any(1)
    scale = (1, 1, k, k, 1, 1) if m else (1, k)
    first = torch.tensor([value / by for value, by in zip(start, scale, strict=True)], dtype=torch.float64)
    masks, first = masks[present], first[present[: len(first)]]

    def value(numbers: Tensor) -> tuple[Tensor, Tensor]:
        found, slope = loss((numbers[:, None, None] * masks).sum(0))
        return found, (slope * masks).sum((1, 2))

    found, numbers = least(value, first, change=1e-17, slope=1e-11)
    entries = iter(numbers.tolist())
    return found, [next(entries) if there else math.nan for there in present]


def blocks(student: Tensor, tolerance: float = 1e-3) -> list[int]:
    """Sizes, largest first, of the sets of indices whose swaps leave a student (k, k), its rows put in order.

    Args:
        student: Near a critical point.
        tolerance: Tolerance of an entry.
    """
    matrix = student.cpu().numpy()
    _, columns = linear_sum_assignment(-np.abs(matrix))  # of W itself it takes negative diagonals for others
    ordered = np.empty_like(matrix)
    ordered[columns] = matrix
    found: list[list[int]] = []
    for i in range(len(ordered)):
        for group in found:
            swap = np.arange(len(ordered))
            swap[[i, group[0]]] = group[0], i
            if np.abs(ordered[swap][:, swap] - ordered).max() <= tolerance:
                group.append(i)
                break
        else:
            found.append([i])
    return sorted(map(len, found), reverse=True)
