"""One training on many GPUs, one process per GPU, started by torchrun or as Slurm tasks."""

from __future__ import annotations

import atexit
import inspect
import io
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from sparsebench.distributed.collectives import (
    Stateful,
    allreduce_sum_hook,
    broadcast_state,
    is_communication_error,
    short_message,
    to_bytes,
    to_picklable_exception,
)
from sparsebench.distributed.device import Device, seed_everything
from sparsebench.distributed.rank_env import RankInfo, rank_info_from_env
from sparsebench.distributed.sync_bn import with_sync_batch_norm
from sparsebench.errors import RunError, SettingError

T = TypeVar("T")


class DDP(Device):
    """One of several ranks that train one model: one process per GPU, or CPU processes over gloo.

    ``batch_size`` is the global batch size: each rank processes its slice of a batch, ``DistributedDataParallel`` sums
    the gradients, and every rank takes the same step with the same masks, which are compared at every evaluation.
    Evaluation batches are distributed round-robin, and the sums are all-reduced. Only the main rank reads, writes and
    prints. A single process is a plain device.

    With fp16, the loss scale is the same on every rank: gradients are summed before they are checked, so an overflow
    on one rank is an overflow on all.

    Args:
        name: See :class:`Device`; ``auto`` uses GPUs if there are any.
        precision: See :class:`Device`.
        channels_last: See :class:`Device`.
        compile: See :class:`Device`.
        deterministic: See :class:`Device`.
        threads: See :class:`Device`; of each rank.
        sync_bn: Normalise over the global batch; otherwise each rank normalises over its own slice, and the running
            statistics are those of the main rank.
        timeout: Minutes to wait for a rank that does not answer. A rank whose process has ended is detected at once.

    Raises:
        SettingError: See :class:`Device`; also if ``srun`` is missing, or several ranks use one GPU.
        RunError: The ranks cannot connect.
    """

    joins_ranks = True
    _gradient_group: ClassVar[Any] = (
        None  # process group for gradients (nccl on GPUs); the default group is gloo
    )
    _rank_lost: ClassVar[bool] = False

    def __init__(
        self,
        name: str = "auto",
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool = False,
        deterministic: bool = False,
        threads: int | None = None,
        sync_bn: bool = False,
        timeout: float = 30.0,
    ) -> None:
        info = rank_info_from_env(os.environ)
        self.rank, self.world_size, self.local_rank = info.rank, info.world_size, info.local_rank
        self.sync_bn, self.current_step = sync_bn, -1
        self._ddp_model: DistributedDataParallel | None = None
        if not timeout > 0:
            raise SettingError("device.timeout", timeout, "minutes, more than 0")
        if sync_bn and compile:
            raise SettingError("sync_bn", True, "false with compile=true")
        if self.world_size > 1:
            _init_process_group(info, timedelta(minutes=timeout))
        self.run_on_all_ranks(
            lambda: super(DDP, self).__init__(name, precision, channels_last, compile, deterministic, threads)
        )
        if self.world_size > 1 and self.type == "cuda":
            self._assign_gpu(timedelta(minutes=timeout))

    @property
    def label(self) -> str:
        """The world size and the device of the main rank, such as ``8 x NVIDIA H200``."""
        return f"{self.world_size} x {super().label}" if self.world_size > 1 else super().label

    def peak_memory_mb(self) -> float:
        """The maximum over all ranks."""
        return max(self.all_gather(super().peak_memory_mb()))

    # ------------------------------------------------------------------------------------- collectives

    def broadcast_from_main(self, make: Callable[[], T]) -> T:
        """Call ``make`` on the main rank; its result is returned, or its exception raised, on every rank."""
        if self.world_size == 1:
            return make()
        value, error, message = None, None, [b""]
        if self.is_main_process:
            try:
                value = make()
            except Exception as raised:  # the other ranks receive it before it is raised here
                error = raised
            message = [to_bytes((None if error else value, to_picklable_exception(error, 0)))]
        with self._detecting_lost_ranks():
            dist.broadcast_object_list(message, src=0)
        if error is not None:
            raise error
        if not self.is_main_process:
            value, passed = torch.load(io.BytesIO(message[0]), map_location="cpu", weights_only=False)
            if passed is not None:
                raise passed
        return value  # type: ignore[return-value]

    def run_on_all_ranks(self, make: Callable[[], T]) -> T:
        """Call ``make`` on every rank; an exception on any rank is raised on all of them."""
        if self.world_size == 1:
            return make()
        error: Exception | None = None
        try:
            value = make()
        except Exception as raised:  # the other ranks receive it before it is raised here
            error = raised
        errors = self.all_gather(to_picklable_exception(error, self.rank))
        if first := next((passed for passed in errors if passed is not None), None):
            if error is not None and first.rank == self.rank:  # type: ignore[attr-defined]
                error.rank = self.rank  # type: ignore[attr-defined]
                raise error
            raise first
        return value

    def main_rank_first(self, make: Callable[[], T]) -> T:
        """As :meth:`run_on_all_ranks`, in order: the main rank, one rank per machine, the others (for downloads)."""
        own_turn, results = 0 if self.is_main_process else 1 if self.local_rank == 0 else 2, []
        for turn in range(3):
            self.run_on_all_ranks(lambda turn=turn: results.append(make()) if turn == own_turn else None)  # type: ignore[misc]
        return results[0]

    def all_gather(self, value: T) -> list[T]:
        """The ``value`` of every rank, returned on every rank."""
        values: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            with self._detecting_lost_ranks():
                dist.all_gather_object(values, value)
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, bitwise identical on each."""
        if self.world_size > 1:
            tensor = tensor.clone()
            with self._detecting_lost_ranks():
                dist.all_reduce(tensor, group=DDP._gradient_group if tensor.is_cuda else None)
        return tensor

    def all_reduce_max(self, numbers: Sequence[int], step: int) -> list[int]:
        """The maximum of each number over all ranks, on the CPU, at every 16th step; 0 at other steps."""
        if self.world_size == 1:
            return list(numbers)
        if step % 16:
            return [0] * len(numbers)
        largest = torch.tensor(list(numbers))
        with self._detecting_lost_ranks():
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return [int(number) for number in largest]

    def check_equal_on_all_ranks(self, value: Callable[[], str], what: str, step: int) -> None:
        """Raise RunError on every rank if ``value()`` differs between ranks; ``what`` names it in the message."""
        if self.world_size == 1:
            return
        found = self.all_gather(value())
        if odd := [str(rank) for rank, other in enumerate(found) if other != found[0]]:
            ranks = f"rank{'s' * (len(odd) > 1)} {', '.join(odd)}"
            raise RunError(f"at step {step} the {what} of {ranks} differ from those of rank 0")

    # ------------------------------------------------------------------------------------- training

    def parallel(self, model: nn.Module, forward: nn.Module, example: Callable[[], Tensor]) -> nn.Module:
        """Wrap the model, with the same parameters, in ``DistributedDataParallel``.

        Buffers are not broadcast at every forward, only from the main rank before evaluations. DDP rebuilds its buckets
        after the first backward, and the order within a bucket is the order of summation; two passes here complete
        that, so that a resumed run sums in the same order as an uninterrupted one.
        """
        if self.world_size == 1:
            return forward
        if self.sync_bn:
            forward = with_sync_batch_norm(model, DDP._gradient_group)
        accepted = inspect.signature(DistributedDataParallel).parameters
        # broadcast_buffers is the name before PyTorch 2.15.
        option = "forward_sync_buffers" if "forward_sync_buffers" in accepted else "broadcast_buffers"
        options: dict[str, Any] = {"process_group": DDP._gradient_group, option: False}
        with self._detecting_lost_ranks():
            self._ddp_model = DistributedDataParallel(forward, **options)
        self._ddp_model.register_comm_hook(
            DDP._gradient_group, lambda group, bucket: allreduce_sum_hook(group, bucket)
        )
        with self._detecting_lost_ranks(), torch.compiler.set_stance("force_eager"):
            self._ddp_model.eval()
            for _ in range(2):
                self._ddp_model(example()).sum().backward()
        self._ddp_model.train().zero_grad(set_to_none=True)
        return self._ddp_model

    def split(self, inputs: Tensor, targets: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
        """Split a rank's slice of a batch; sync_bn needs equally many parts on every rank, even empty ones."""
        found = super().split(inputs, targets, parts)
        missing = parts - len(found) if self.sync_bn else 0
        return found + [(inputs[:0], targets[:0])] * missing

    @contextmanager
    def micro_batch(self, step: int, last: bool) -> Iterator[None]:
        """Context of a micro-batch's forward and backward; gradients are all-reduced at the ``last`` one of a step."""
        self.current_step = step
        wrapped = self._ddp_model
        with self._detecting_lost_ranks(), nullcontext() if last or wrapped is None else wrapped.no_sync():
            yield

    def broadcast_initial_state(self, pruner: Stateful, model: nn.Module, seed: int) -> None:
        """Broadcast masks and weights from the main rank; afterwards every rank draws its own random numbers."""
        if self.world_size > 1:
            with self._detecting_lost_ranks():
                broadcast_state(pruner, model, DDP._gradient_group)
            self._reseed(seed, 0)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Broadcast buffers (batch-norm statistics) from the main rank."""
        if self.world_size > 1:
            with self._detecting_lost_ranks():
                for buffer in model.buffers():
                    dist.broadcast(buffer, src=0, group=DDP._gradient_group)

    def resume(self, states: list[dict[str, Any]], seed: int, step: int) -> None:
        """Resume from the :meth:`state_dict` of all ranks; if the world size changed, other ranks are reseeded."""
        self.current_step = step
        same = len(states) == self.world_size
        self.load_state_dict(states[self.rank if same else 0])
        if not same:
            self._reseed(seed, step)

    # ------------------------------------------------------------------------------------- internals

    def _reseed(self, seed: int, step: int) -> None:
        if not self.is_main_process:
            seed_everything(int(np.random.SeedSequence((seed, self.rank, step)).generate_state(1)[0]))

    def _assign_gpu(self, timeout: timedelta) -> None:
        """Assign one GPU per rank: the one its launcher left visible, or the one with its local rank."""
        count = torch.cuda.device_count()
        index = self.local_rank if count > 1 else 0
        taken = None
        if index < count:
            torch.cuda.set_device(index)
            taken = f"{socket.gethostname()} {torch.cuda.get_device_properties(index).uuid}"
        gpus = self.all_gather(taken)
        if None in gpus or len(set(gpus)) < self.world_size:
            available = f"{self.world_size} ranks on {len(set(gpus) - {None})} GPUs"
            raise SettingError("device", "ddp", f"one GPU per rank, but there are {available}")
        if DDP._gradient_group is None:
            with self._detecting_lost_ranks():
                DDP._gradient_group = dist.new_group(backend="nccl", timeout=timeout)

    @contextmanager
    def _detecting_lost_ranks(self) -> Iterator[None]:
        """Report a failed collective inside the block as a lost rank."""
        try:
            yield
        except RuntimeError as error:
            if not is_communication_error(error):
                raise
            DDP._rank_lost = True
            when = f"at step {self.current_step}" if self.current_step >= 0 else "before the first step"
            lost = RunError(
                f"rank {self.rank} lost another rank {when} ({short_message(error)}); "
                "the same command resumes from the last checkpoint"
            )
            lost.rank = self.rank  # type: ignore[attr-defined]
            raise lost from error


def broadcast_from_main(make: Callable[[], T]) -> T:
    """Like :meth:`DDP.broadcast_from_main`, without a device; calls ``make`` if there is one process."""
    if not dist.is_initialized():
        return make()
    device = DDP.__new__(DDP)
    device.rank, device.world_size, device.current_step = dist.get_rank(), dist.get_world_size(), -1
    return device.broadcast_from_main(make)


def _init_process_group(info: RankInfo, timeout: timedelta) -> None:
    """Initialise the process group, once per process."""
    if dist.is_initialized():
        return
    where = f"{info.address}:{info.port}"
    try:
        if info.launcher == "torchrun":  # its store may exist already
            dist.init_process_group("gloo", timeout=timeout)
        else:
            init_method = f"tcp://{where}"
            dist.init_process_group(
                "gloo", init_method, rank=info.rank, world_size=info.world_size, timeout=timeout
            )
    except (RuntimeError, ValueError) as error:
        allowed = f"not all of {info.world_size} ranks connected to {where} ({short_message(error)})"
        missed = RunError(f"rank {info.rank}: {allowed}")
        missed.rank = info.rank  # type: ignore[attr-defined]
        raise missed from error
    atexit.register(_destroy_process_group)


def _destroy_process_group() -> None:
    """Destroy the process group, unless a rank was lost."""
    if dist.is_initialized() and not DDP._rank_lost:
        dist.destroy_process_group()
