"""Optimisers that do not import the compiler compute what PyTorch's do."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own, because without_compiler leaves everything as it is once the compiler is imported.
BOTH = """
import sys
import torch
from sparsebench.optim.uncompiled import without_compiler

make = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}[sys.argv[1]]

class Own(torch.optim.Optimizer):  # no decorated step
    def __init__(self, p):
        super().__init__(p, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad

if sys.argv[2] == "own":
    make = Own


def trained(build):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(3))]
    optimizer = build(lambda: make(weights))
    hooked = []
    optimizer.register_step_pre_hook(lambda *_: hooked.append("before"))
    optimizer.register_step_post_hook(lambda *_: hooked.append("after"))
    for step in range(6):
        optimizer.zero_grad()
        sum((w * w).sum() for w in weights).backward()
        optimizer.step()
        if step == 2:  # a resumed run goes on with loaded state
            state = optimizer.state_dict()
            optimizer = build(lambda: make(weights))
            optimizer.load_state_dict(state)
    assert hooked == ["before", "after"] * 3 and torch.is_grad_enabled()
    assert all(w.requires_grad and w.grad_fn is None for w in weights)
    return weights, optimizer.state_dict()


ours, state = trained(without_compiler)
assert "torch._dynamo" not in sys.modules
theirs, reference = trained(lambda make: make())
assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
assert repr(state) == repr(reference)
if sys.argv[2] == "torch":  # PyTorch's own have imported it: from now on nothing is changed
    assert "torch._dynamo" in sys.modules
    assert "step" not in vars(without_compiler(lambda: make([torch.nn.Parameter(torch.randn(2))])))
"""


@pytest.mark.parametrize(
    "which", [("SGD", "torch"), ("AdamW", "torch"), ("RMSprop", "torch"), ("SGD", "own")]
)
def test_steps_hooks_and_states_are_the_same_and_the_compiler_stays_unimported(which):
    done = subprocess.run([sys.executable, "-c", BOTH, *which], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
