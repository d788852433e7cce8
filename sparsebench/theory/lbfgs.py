"""L-BFGS of scipy on a function of torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor


def least(
    value: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    *,
    change: float = 1e-15,
    slope: float = 1e-9,
) -> tuple[float, Tensor]:
    """A local minimum.

    Args:
        value: Maps a float64 tensor of any shape to a number and its gradient.
        start: Starting point of the search.
        change: Change of a value of size 1 in a step at which the search stops.
        slope: Largest entry of the gradient at which the search stops.

    Returns:
        The value and its argument, shaped as ``start``.
    """

    def of_flat(flat: np.ndarray) -> tuple[float, np.ndarray]:
        number, gradient = value(torch.from_numpy(flat).to(start.device).view_as(start))
        return number.item(), gradient.flatten().cpu().numpy()

    options = {"maxiter": 5000, "maxfun": 10000, "maxcor": 20, "ftol": change, "gtol": slope}
    with threadpool_limits(1):  # with two threads, synchronisation takes far longer than these small products
        found = minimize(of_flat, start.flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
    return float(found.fun), torch.from_numpy(found.x).to(start.device).view_as(start)
