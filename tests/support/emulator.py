"""CUDA graphs without a GPU: a step's operators are recorded as they run, and run again on the same storage.

That is what the replay of a graph does: nothing of Python happens, and every tensor and number is the recorded one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from sparsebench.distributed.device import Device

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique")
"""Operators whose result the host waits for."""


class Tape(TorchDispatchMode):
    """Records the operators that run inside, below autograd and autocast."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if operator.namespace != "profiler":  # marks for a profiler, not tensors
            self.calls.append((operator, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        """Run everything again: in-place operators as they are; new results are copied into the recorded tensors."""
        for operator, args, kwargs, before in self.calls:
            if is_view(operator):
                continue
            result = operator(*args, **kwargs)
            for new, old in zip(tree_flatten(result)[0], tree_flatten(before)[0], strict=True):
                if isinstance(new, Tensor) and new is not old:
                    old.copy_(new)

    def signature(self):
        """What equal programs have in common: operators, shapes, numbers, and the storages that were there before."""
        made: dict[int, int] = {}  # storage -> number of the call that made it
        lines = []

        def told(value):
            if not isinstance(value, Tensor):
                return id(value) if isinstance(value, torch.Generator) else repr(value)
            storage = value.untyped_storage()._cdata
            where = ("made", made[storage]) if storage in made else ("at", storage)
            return where, value.storage_offset(), tuple(value.shape), value.stride(), value.dtype

        for number, (operator, args, kwargs, result) in enumerate(self.calls):
            given = tree_flatten((args, kwargs))[0]
            lines.append((str(operator), tuple(told(value) for value in given)))
            known = {value.untyped_storage()._cdata for value in given if isinstance(value, Tensor)}
            for value in tree_flatten(result)[0]:
                if isinstance(value, Tensor) and value.untyped_storage()._cdata not in known:
                    made[value.untyped_storage()._cdata] = number
        return lines

    def reads(self):
        """The operators that wait for the device."""
        return [str(call[0]) for call in self.calls if call[0].__name__.split(".")[0] in READS]


def is_view(operator):
    """Whether the operator's results share their storage with an argument, and nothing is written."""
    aliases = [returned.alias_info for returned in operator._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


class Emulating(Device):
    """A CPU that is used as a GPU is: fused steps, learning rates in tensors, and recorded steps."""

    def __init__(self, *args, graphs="auto", **kwargs):
        super().__init__(*args, **kwargs)
        self.graphs, self.records = graphs, True

    def record(self, step):
        """The step is executed while it is recorded."""
        with Tape() as tape:
            result = step()
        assert not tape.reads(), "a recorded step reads values"
        return result, tape.replay
