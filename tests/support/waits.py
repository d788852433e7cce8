"""What would wait for a GPU, found without one: tensors of the meta device stand for those on it.

A meta tensor has no values, so what reads one fails. What else waits, copies from the CPU above all, works on the meta
device as if nothing had happened; modes see these calls and refuse them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, ModuleType

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import swap_tensors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparsebench.pruning.scores import Score
from sparsebench.transfer import send_

aten = torch.ops.aten
COPIES = {aten.copy_, aten._foreach_copy_, aten._to_copy, aten.index_put_, aten.index_put, aten.where}
"""Operators that copy even a CPU tensor of one element; arithmetic hands it to the kernel by value."""
FROM_PYTHON = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
"""Functions that make a tensor of Python's numbers on the CPU, and copy it to the device."""


class Wait(RuntimeError):
    """A call that would wait for the device."""


class Operators(TorchDispatchMode):
    """Refuses operators that would wait; with ``answer``, reads are answered with ones instead, and counted."""

    def __init__(self, answer=False):
        super().__init__()
        self.answer, self.reads = answer, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_cpu = [tensor for tensor in tensors if not tensor.is_meta]
        target = torch.device(kwargs.get("device") or "meta")  # where the result of a copy lies
        if len(on_cpu) < len(tensors):
            if packet is aten._local_scalar_dense or (packet is aten._to_copy and target.type == "cpu"):
                return self.read(func, tensors[0])
            indices = args[1] if packet in (aten.index, aten.index_put, aten.index_put_) else ()
            if any(index is not None and index.dtype == torch.bool for index in indices):
                raise Wait(f"{func}: a boolean index waits for the number of its elements")
            by_value = packet not in COPIES and all(tensor.dim() == 0 for tensor in on_cpu)
            if on_cpu and not by_value and not sent():
                raise Wait(f"{func}: copies a tensor from the CPU")
        elif (
            on_cpu
            and packet is aten._to_copy
            and kwargs.get("device")
            and target.type == "meta"
            and not sent()
        ):
            raise Wait(f"{func}: copies a tensor from the CPU")
        try:
            return func(*args, **kwargs)
        except NotImplementedError as error:  # of operators whose result's shape depends on values
            raise Wait(f"{func}: {error}") from error

    def read(self, func, tensor):
        if not self.answer:
            raise Wait(f"{func}: reads a tensor's values")
        self.reads += 1
        return torch.ones(tensor.shape, dtype=tensor.dtype) if func is aten._to_copy.default else 1


class Functions(TorchFunctionMode):
    """Refuses functions whose copies operators do not show."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].is_meta:
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(index, list) for index in indices):
                raise Wait("a list as an index is copied from the CPU")
        result = func(*args, **(kwargs or {}))
        if func in FROM_PYTHON and result.is_meta and not any(isinstance(a, Tensor) for a in args[-1:]):
            raise Wait(f"{func.__name__} copies its numbers from the CPU")
        return result


def sent():
    """Whether the call comes from :func:`sparsebench.transfer.send_`, which copies without waiting."""
    frame = sys._getframe()
    while frame is not None and frame.f_code is not send_.__code__:
        frame = frame.f_back
    return frame is not None


@contextmanager
def refusing_waits(answer=False) -> Iterator[Operators]:
    """Inside the block, a call that would wait for the device of meta tensors raises :class:`Wait`."""
    with Functions(), Operators(answer) as operators:
        yield operators


def to_meta_(*roots) -> int:
    """Make every tensor that ``roots`` lead to a meta tensor, in place; returns their number.

    What a score has is left on the CPU until it is first used, and so are the steps that an optimiser counts there.
    """
    seen, found, left = {}, {}, list(roots)
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, (type, Score)):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, Tensor):
            found[id(thing)] = thing
        elif isinstance(thing, Mapping):
            left += [*thing.keys(), *(v for k, v in thing.items() if k != "step")]
        elif isinstance(thing, (list, tuple, set)):
            left += thing
        elif not isinstance(thing, (ModuleType, FunctionType)):
            left += vars(thing).values() if hasattr(thing, "__dict__") else ()
    for tensor in found.values():
        tensor.grad = None
        like = torch.empty_like(tensor, device="meta", requires_grad=False)
        swap_tensors(tensor, nn.Parameter(like) if isinstance(tensor, nn.Parameter) else like)
    return len(found)
