"""``init_hash``: what a training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from torch import Tensor

from sparsebench.runs.hashes.digest import digest, part


def init_hash(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> str:
    """Hash of the weights and masks before the first step.

    Hashed are every tensor of the ``state_dict``, buffers included, and then every mask, both sorted by name: name,
    dtype, shape and bytes. A method that prunes before training has done so; the later trainings of one with several
    start from what the earlier ones handed over.
    """
    weights = (part(name, state[name]) for name in sorted(state))
    return digest(chain(weights, (part(f"mask {name}", masks[name]) for name in sorted(masks))))
