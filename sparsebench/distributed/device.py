"""The device and precision of a run."""

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

from sparsebench.errors import SettingError, one_of, require_int

T = TypeVar("T")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BACKENDS = ("auto", "cpu", "cuda")


class Device:
    """One device and its precision: autocast, loss scaling, memory format, compilation.

    The collectives do nothing here; :class:`sparsebench.distributed.ddp.DDP` implements them for several ranks.

    Args:
        name: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        precision: ``fp32``; ``tf32`` (a GPU multiplies with 10 bits of mantissa); ``bf16`` or ``fp16`` autocast for
            the forward pass. Weights, gradients, masks and scores stay float32.
        channels_last: Keep images and convolution weights in NHWC order.
        compile: Compile the model with torch.compile.
        deterministic: Use only deterministic kernels; on a GPU, needed for bitwise reproducible resumed runs.
        threads: Threads of the CPU; ``None`` leaves PyTorch's number.
        graphs: Replay training steps as CUDA graphs: ``auto`` where the GPU, the method and the other settings allow
            it, ``True`` to insist on it, ``False`` never. Results are the same.

    Raises:
        SettingError: Unknown name or precision, no GPU available, or torchrun started several processes although
            this device does not connect them.
    """

    joins_ranks: ClassVar[bool] = False
    """Whether the processes that torchrun starts form one run."""
    rank = 0
    world_size = 1

    def __init__(
        self,
        name: str = "auto",
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool = False,
        deterministic: bool = False,
        threads: int | None = None,
        graphs: str | bool = "auto",
    ) -> None:
        require_int("device.threads", threads, least=1, optional=True)
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
            raise SettingError("device", name, "auto or cpu: PyTorch finds no CUDA device on this machine")
        self.type = "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
        if precision == "tf32" and self.type == "cpu":
            raise SettingError("precision", precision, "fp32, bf16 or fp16 on a CPU")
        if threads not in (None, torch.get_num_threads()):
            torch.set_num_threads(threads)
        if graphs not in ("auto", True, False):
            raise SettingError("device.graphs", graphs, "auto, true or false")
        if graphs is True and self.type == "cpu":
            raise SettingError("device.graphs", graphs, "auto or false on a CPU, because they are CUDA's")
        self.graphs = graphs
        self.records = self.type == "cuda"
        self.torch_device = torch.device(self.type)
        self.precision, self.channels_last, self.compile = precision, channels_last, compile
        # fp16 steps whose gradients overflowed; stays on the device, as the scaler's decisions do
        self._skipped = torch.zeros((), dtype=torch.int64, device=self.torch_device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        self.scaler = torch.amp.GradScaler(self.type, enabled=precision == "fp16")
        self._stream: torch.cuda.Stream | None = None
        self._graph_pool: Any = None
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if torch.are_deterministic_algorithms_enabled() != deterministic:  # the call imports torch._inductor
            torch.use_deterministic_algorithms(deterministic)
        # Otherwise deterministic mode fills every new tensor, 700 more kernels per step; nothing here reads
        # uninitialised memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = self.type == "cuda" and not deterministic

    @property
    def label(self) -> str:
        """The name of the GPU, or ``cpu``."""
        return torch.cuda.get_device_name() if self.type == "cuda" else "cpu"

    def to_device(self, model: nn.Module) -> nn.Module:
        """Move the model to the device, in its memory format."""
        model.to(self.torch_device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def callable(self, model: nn.Module) -> nn.Module:
        """The module that the loop calls: the model, compiled if requested; it shares the model's parameters."""
        return torch.compile(model) if self.compile else model  # type: ignore[return-value]

    def autocast(self) -> AbstractContextManager[Any]:
        """Context that sets the precision of forward passes."""
        if DTYPES[self.precision] == torch.float32:
            return nullcontext()
        # A graph must not use casts of weights that were cached outside it.
        return torch.autocast(self.type, dtype=DTYPES[self.precision], cache_enabled=not self.records)

    def backward(self, loss: Tensor) -> None:
        """Backward pass, with loss scaling if the precision needs it."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Unscale the gradients."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, stepping: bool = True) -> None:
        """Optimiser step; skipped if ``stepping`` is false, as some mask updates require."""
        if not self.scaler.is_enabled():
            if stepping:
                optimizer.step()
            return
        before = self._loss_scale()
        if stepping:
            self.scaler.step(optimizer)  # skips the step if gradients overflowed
        self.scaler.update()
        if stepping:
            self._skipped += self._loss_scale() < before

    def _loss_scale(self) -> Tensor:
        """The scale of fp16 as a tensor, because reading it would wait for the device."""
        return self.scaler.scale(torch.ones_like(self._skipped, dtype=torch.float32))

    @property
    def skipped_steps(self) -> int:
        """Number of fp16 steps without a weight update because gradients overflowed; waits for the device."""
        return int(self._skipped)

    @property
    def optimizer_options(self) -> dict[str, bool]:
        """Arguments of optimisers with which their step can be recorded, in one kernel; for those that have them."""
        return {"fused": True, "capturable": True} if self.records else {}

    def own_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Put what recorded steps find again into tensors on the device: learning rates, and with fp16 the momentum.

        A fused step leaves new momentum uninitialised if the first gradients overflow; zeros give the same momentum.
        """
        for group in optimizer.param_groups if self.records else ():
            group["lr"] = torch.tensor(float(group["lr"]), device=self.torch_device)
            if self.scaler.is_enabled() and group.get("momentum"):
                for parameter in group["params"]:
                    optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))

    def cannot_record(self, optimizer: torch.optim.Optimizer) -> str | None:
        """Why training steps cannot be recorded as CUDA graphs; ``None`` if they can."""
        if not self.records:
            return "they are CUDA's"
        if self.graphs is False:
            return "device.graphs=false"
        if self.world_size > 1:
            return "several ranks communicate in a step"
        if self.precision == "fp16":
            return "fp16 skips steps"
        if not all(group.get("fused") and group.get("capturable", True) for group in optimizer.param_groups):
            return f"{type(optimizer).__name__} has no fused step"
        return None

    def record(self, step: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Run ``step`` and record it as a CUDA graph: its result, and what runs it again on the same storage."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph,
            pool=self._graph_pool,
            stream=torch.cuda.current_stream(),
            capture_error_mode="thread_local",
        ):
            result = step()  # recorded, not executed
        self._graph_pool = graph.pool()  # shared, because one run's graphs never run at the same time
        graph.replay()
        return result, graph.replay

    def stream(self) -> AbstractContextManager[Any]:
        """Context of a training: on a GPU a stream of its own, without which no step can be recorded."""
        if self.type == "cpu":
            return nullcontext()
        if self._stream is None:
            self._stream = torch.cuda.Stream()
            self._stream.wait_stream(torch.cuda.current_stream())  # weights and images are there
        return torch.cuda.stream(self._stream)

    def summary(self) -> dict[str, Any]:
        """Column ``skipped_steps`` of fp16: steps without a weight update because gradients overflowed."""
        return {"skipped_steps": self.skipped_steps} if self.scaler.is_enabled() else {}

    def peak_memory_mb(self) -> float:
        """Peak memory in MiB, of the GPU's allocator or else of the process."""
        if self.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB elsewhere

    def state_dict(self) -> dict[str, Any]:
        """The state of the scaler and of every random generator."""
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
        """Resume from :meth:`state_dict`."""
        self.scaler.load_state_dict(state["scaler"])
        self._skipped.fill_(state.get("skipped_steps", 0))
        torch.set_rng_state(state["torch"])
        if self.type == "cuda" and state["cuda"]:
            torch.cuda.set_rng_state(state["cuda"][0])
        random.setstate(state["python"])
        version, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((version, keys.numpy().astype(np.uint32), position, has_gauss, gauss))

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def broadcast_from_main(self, make: Callable[[], T]) -> T:
        """Call ``make`` on the main rank; its result is returned, or its exception raised, on every rank."""
        return make()

    def run_on_all_ranks(self, make: Callable[[], T]) -> T:
        """Call ``make`` on every rank; an exception on any rank is raised on all of them."""
        return make()

    def main_rank_first(self, make: Callable[[], T]) -> T:
        """As :meth:`run_on_all_ranks`, in order: the main rank, one rank per machine, the others (for downloads)."""
        return make()

    def all_gather(self, value: T) -> list[T]:
        """The ``value`` of every rank, returned on every rank."""
        return [value]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, bitwise identical on each."""
        return tensor

    def all_reduce_max(self, numbers: Sequence[int], step: int) -> list[int]:
        """The maximum of each number over all ranks; 0 at steps at which ranks do not communicate."""
        return list(numbers)

    def check_equal_on_all_ranks(self, value: Callable[[], str], what: str, step: int) -> None:
        """Raise RunError on every rank if ``value()`` differs between ranks; ``what`` names it in the message."""

    def parallel(self, model: nn.Module, forward: nn.Module, example: Callable[[], Tensor]) -> nn.Module:
        """The module that a training step calls; its backward all-reduces gradients.

        Args:
            model: The model.
            forward: The result of :meth:`callable`.
            example: Returns example inputs.
        """
        return forward

    def split(self, inputs: Tensor, targets: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
        """Split a rank's slice of a batch into at most ``parts`` micro-batches."""
        return list(zip(inputs.chunk(parts), targets.chunk(parts), strict=True))

    def micro_batch(self, step: int, last: bool) -> AbstractContextManager[Any]:
        """Context of a micro-batch's forward and backward; gradients are all-reduced at the ``last`` one of a step."""
        return nullcontext()

    def broadcast_initial_state(self, pruner: Any, model: nn.Module, seed: int) -> None:
        """Broadcast masks and weights from the main rank; afterwards every rank draws its own random numbers."""

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Broadcast buffers (batch-norm statistics) from the main rank."""

    def resume(self, states: list[dict[str, Any]], seed: int, step: int) -> None:
        """Resume from the :meth:`state_dict` of all ranks.

        Args:
            states: One state per rank.
            seed: Seed of the run.
            step: Step to resume at; if the world size changed, ranks other than the main one are reseeded with it.
        """
        self.load_state_dict(states[0])


def seed_everything(seed: int) -> None:
    """Seed all generators that a model or method may use; call before the model is built."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
