"""``weights_hash``: the final weights of a run."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sparsebench.runs.hashes.digest import digest, part


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Hash of every tensor of a ``state_dict``, buffers included, sorted by name: name, dtype, shape and bytes.

    Equal on any machine for equal tensors, whatever their device, memory format and file: that of the weights in
    ``model.safetensors`` is that of the model they were saved from.
    """
    return digest(part(name, state[name]) for name in sorted(state))
