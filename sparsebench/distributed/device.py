"""Where and how precisely a run computes."""

from __future__ import annotations

import os
import random
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sparsebench.errors import SettingError, one_of

T = TypeVar("T")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BACKENDS = ("auto", "cpu", "cuda")


class Device:
    """One device with its precision: autocast, loss scaling, memory format, compilation.

    Where several processes train one model (:class:`sparsebench.distributed.ddp.DDP`), each is a rank; the hooks
    for that do nothing here.

    Args:
        name: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        precision: ``fp32``; ``tf32``, where a GPU multiplies with 10 bits of mantissa; ``bf16`` or ``fp16`` autocast
            the forward. Weights, gradients, masks and scores stay float32.
        channels_last: Keep images and convolution weights in NHWC order.
        compile: Compile the model with torch.compile.
        deterministic: Only deterministic kernels; on a GPU that is what makes a resumed run equal to the bit.

    Raises:
        SettingError: An unknown name or precision, a GPU is asked for where there is none, or torchrun started
            several processes that know nothing of each other.
    """

    joins_ranks: ClassVar[bool] = False
    """Whether processes that torchrun started together make up one run."""
    rank = 0
    world_size = 1

    def __init__(
        self,
        name: str = "auto",
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool = False,
        deterministic: bool = False,
    ) -> None:
        if (
            not self.joins_ranks
            and (world_size := int(os.environ.get("WORLD_SIZE") or 1)) > 1
            and "RANK" in os.environ
        ):
            allowed = f"ddp: torchrun started {world_size} processes, and each would do the same run"
            raise SettingError("device", name, allowed)
        if name not in BACKENDS:
            raise SettingError("device", name, one_of(BACKENDS, name))
        if precision not in DTYPES:
            raise SettingError("precision", precision, one_of(DTYPES, precision))
        if name == "cuda" and not torch.cuda.is_available():
            raise SettingError("device", name, "auto or cpu: this machine offers PyTorch no CUDA device")
        self.type = "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
        if precision == "tf32" and self.type == "cpu":
            raise SettingError("precision", precision, "fp32, bf16 or fp16 on a CPU")
        self.torch_device = torch.device(self.type)
        self.precision, self.channels_last, self.compile = precision, channels_last, compile
        self.skipped_steps = 0  # of fp16, whose gradients overflowed
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        self.scaler = torch.amp.GradScaler(self.type, enabled=precision == "fp16")
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic)
        # Deterministic algorithms would fill every new tensor first, 700 more kernels a step: nothing here reads
        # memory that it has not written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = self.type == "cuda" and not deterministic

    @property
    def label(self) -> str:
        """The device's own name, for example of the GPU; ``cpu`` otherwise."""
        return torch.cuda.get_device_name() if self.type == "cuda" else "cpu"

    def to_device(self, model: nn.Module) -> nn.Module:
        """The same model on the device, in its memory format."""
        model.to(self.torch_device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def callable(self, model: nn.Module) -> nn.Module:
        """What the loop calls: the model, compiled if asked; parameters and state_dict stay the model's."""
        return torch.compile(model) if self.compile else model  # type: ignore[return-value]

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        if DTYPES[self.precision] == torch.float32:
            return nullcontext()
        return torch.autocast(self.type, dtype=DTYPES[self.precision])

    def backward(self, loss: Tensor) -> None:
        """Backward pass, the loss scaled where the precision needs it."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients in their true scale from here on."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, stepping: bool = True) -> None:
        """The optimiser's step; with ``stepping`` false none, as some mask updates ask."""
        before = self.scaler.get_scale()
        if stepping:
            self.scaler.step(optimizer)  # itself skips a step whose gradients overflowed
        self.scaler.update()
        self.skipped_steps += stepping and self.scaler.get_scale() < before

    def summary(self) -> dict[str, Any]:
        """Column ``skipped_steps`` of fp16: steps without an update of the weights, their gradients were no numbers."""
        return {"skipped_steps": self.skipped_steps} if self.scaler.is_enabled() else {}

    def peak_memory_mb(self) -> float:
        """Peak memory in MiB: of the GPU's allocator, else of the process."""
        if self.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere

    def state_dict(self) -> dict[str, Any]:
        """The scaler and every random generator."""
        version, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
        return {
            "scaler": self.scaler.state_dict(),
            "skipped_steps": self.skipped_steps,
            "torch": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state()] if self.type == "cuda" else [],
            "python": random.getstate(),
            "numpy": (
                version,
                torch.from_numpy(np.asarray(keys).astype(np.int64)),
                position,
                has_gauss,
                gauss,
            ),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.scaler.load_state_dict(state["scaler"])
        self.skipped_steps = state.get("skipped_steps", 0)
        torch.set_rng_state(state["torch"])
        if self.type == "cuda" and state["cuda"]:
            torch.cuda.set_rng_state(state["cuda"][0])
        random.setstate(state["python"])
        version, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((version, keys.numpy().astype(np.uint32), position, has_gauss, gauss))

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def broadcast_from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on the first rank, on every rank; what it raises there is raised everywhere."""
        return make()

    def run_on_all_ranks(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on each rank; what it raises on any of them is raised on all."""
        return make()

    def main_rank_first(self, make: Callable[[], T]) -> T:
        """As :meth:`run_on_all_ranks`, in order: the main rank, one rank per machine, the others (for downloads)."""
        return make()

    def all_gather(self, value: T) -> list[T]:
        """The ``value`` of every rank, on every rank."""
        return [value]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each."""
        return tensor

    def all_reduce_max(self, numbers: Sequence[int], step: int) -> list[int]:
        """The largest of each number over all ranks; 0 at steps at which ranks do not ask each other."""
        return list(numbers)

    def check_equal_on_all_ranks(self, value: Callable[[], str], what: str, step: int) -> None:
        """Raise RunError on every rank if ``value`` is not the same on all; ``what`` names it."""

    def parallel(self, model: nn.Module, forward: nn.Module, example: Callable[[], Tensor]) -> nn.Module:
        """What a training step calls, with the gradients of all ranks.

        Args:
            model: The model.
            forward: :meth:`callable` of it.
            example: Gives some inputs.
        """
        return forward

    def split(self, inputs: Tensor, targets: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
        """A rank's share of a batch in at most so many parts, one backward each."""
        return list(zip(inputs.chunk(parts), targets.chunk(parts), strict=True))

    def micro_batch(self, step: int, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a part; at the ``last`` of a step, gradients of all ranks are summed."""
        return nullcontext()

    def broadcast_initial_state(self, pruner: Any, model: nn.Module, seed: int) -> None:
        """Masks and weights of the first rank on every rank; random numbers differ from here on."""

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Buffers (batch statistics) of the first rank on every rank."""

    def resume(self, states: list[dict[str, Any]], seed: int, step: int) -> None:
        """Go on from :meth:`state_dict` of all ranks.

        Args:
            states: Of each rank.
            seed: Of the run.
            step: Where it goes on. With another number of ranks than before, those after the first draw anew from it.
        """
        self.load_state_dict(states[0])


def seed_everything(seed: int) -> None:
    """Seed every generator that a model or method might draw from; call before the model is built."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
