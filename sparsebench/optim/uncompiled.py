"""Optimisers that do not import PyTorch's compiler, for runs that compile nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import optimizer as internals


def without_compiler(make: Callable[[], Optimizer]) -> Optimizer:
    """The optimiser that ``make`` returns, which computes the same without importing ``torch._dynamo``.

    PyTorch's optimisers tell its compiler, in their constructor and in every step, not to trace them. To say so they
    import it, with sympy and a thousand other modules, which takes as long as importing PyTorch itself; in a process
    that compiles nothing it has no effect. These marks are recognised exactly, and left alone where PyTorch's
    internals differ: then only the start is slower.

    Args:
        make: Constructs the optimiser.
    """
    if "torch._dynamo" in sys.modules:
        return make()
    for function in vars(Optimizer).values():
        if (plain := _behind(function, getattr(torch, "_disable_dynamo", None))) is not None:
            plain.__dict__.setdefault(
                "__dynamo_disable", plain
            )  # what the mark calls; otherwise it imports first
    optimizer = make()
    hooked = type(
        optimizer
    ).step  # the first instance of a class wraps its step in hooks and a profiler's record
    plain = _behind(
        getattr(hooked, "__wrapped__", None), getattr(internals, "_use_grad_for_differentiable", None)
    )
    if plain is not None and hasattr(hooked, "hooked"):
        step = Optimizer.profile_hook_step(_with_grad_as_asked(plain))
        optimizer.step = MethodType(step, optimizer)  # type: ignore[method-assign]
    return optimizer


def _behind(function: Any, decorator: Callable[..., Any] | None) -> Any:
    """What ``function`` was before it was decorated; ``None`` if this is not what ``decorator`` returns."""
    if decorator is None or not hasattr(function, "__wrapped__"):
        return None
    same = (
        getattr(function, "__code__", None) is decorator(print).__code__
    )  # one inner function, one code object
    return function.__wrapped__ if same else None


def _with_grad_as_asked(step: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's decorator of ``step``, without its breaks in the compiler's graph."""

    def with_grad_as_asked(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return with_grad_as_asked
