"""One training on many GPUs: a process each, started by torchrun or as Slurm tasks."""

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
    added_up,
    copy_from_first,
    of_communication,
    packed,
    portable,
    reason,
)
from sparsebench.distributed.device import Device, seed_everything
from sparsebench.distributed.rank_env import Launch, launched
from sparsebench.distributed.sync_bn import with_joint_statistics
from sparsebench.errors import RunError, SettingError

T = TypeVar("T")


class DDP(Device):
    """One of the ranks that train one model together, a process and a GPU each (or CPU processes, over gloo).

    ``batch_size`` is that of all ranks: each computes its share of a batch, ``DistributedDataParallel`` sums the
    gradients, and every rank then takes the same step with the same masks, which are compared at every evaluation.
    Evaluation batches are taken in turn, and sums added up. Only the first rank reads, writes and prints. Started
    alone, it is a plain device.

    With fp16, the loss scale is the same on every rank: gradients are summed before they are looked at, so an overflow
    on one rank is one on all.

    Args:
        name: As of :class:`Device`; ``auto`` for the GPUs where there are any.
        precision: As of :class:`Device`.
        channels_last: As of :class:`Device`.
        compile: As of :class:`Device`.
        deterministic: As of :class:`Device`.
        sync_bn: Normalise by the batches of all ranks together; else each rank by its own, and batch statistics are
            those of the first rank.
        timeout: Minutes after which a rank that does not answer is given up. One whose process has ended is noticed at
            once.

    Raises:
        SettingError: As of :class:`Device`; ``srun`` was forgotten; several ranks on one GPU.
        RunError: The ranks do not find each other.
    """

    joins = True
    _gradients: ClassVar[Any] = (
        None  # the process group of the gradients; the default one is gloo's, for the rest
    )
    _lost: ClassVar[bool] = False

    def __init__(
        self,
        name: str = "auto",
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool = False,
        deterministic: bool = False,
        sync_bn: bool = False,
        timeout: float = 30.0,
    ) -> None:
        here = launched(os.environ)
        self.rank, self.ranks, self.local_rank = here.rank, here.ranks, here.local_rank
        self.sync_bn, self.step_now = sync_bn, -1
        self._wrapped: DistributedDataParallel | None = None
        if not timeout > 0:
            raise SettingError("device.timeout", timeout, "minutes, more than 0")
        if sync_bn and compile:
            raise SettingError("sync_bn", True, "false with compile=true")
        if self.ranks > 1:
            _meet(here, timedelta(minutes=timeout))
        self.together(
            lambda: super(DDP, self).__init__(name, precision, channels_last, compile, deterministic)
        )
        if self.ranks > 1 and self.type == "cuda":
            self._take_gpu(timedelta(minutes=timeout))

    @property
    def label(self) -> str:
        """The number of ranks and the device of the first, such as ``8 x NVIDIA H200``."""
        return f"{self.ranks} x {super().label}" if self.ranks > 1 else super().label

    def peak_memory_mb(self) -> float:
        """The largest of all ranks."""
        return max(self.gathered(super().peak_memory_mb()))

    # ------------------------------------------------------------------------------------- agreeing

    def shared(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on the first rank, on every rank; what it raises there is raised everywhere."""
        if self.ranks == 1:
            return make()
        value, error, message = None, None, [b""]
        if self.first:
            try:
                value = make()
            except Exception as raised:  # the others are told before it goes on its way
                error = raised
            message = [packed((None if error else value, portable(error, 0)))]
        with self._watched():
            dist.broadcast_object_list(message, src=0)
        if error is not None:
            raise error
        if not self.first:
            value, passed = torch.load(io.BytesIO(message[0]), map_location="cpu", weights_only=False)
            if passed is not None:
                raise passed
        return value  # type: ignore[return-value]

    def together(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on each rank; what it raises on any of them is raised on all."""
        if self.ranks == 1:
            return make()
        error: Exception | None = None
        try:
            value = make()
        except Exception as raised:  # the others are told before it goes on its way
            error = raised
        errors = self.gathered(portable(error, self.rank))
        if first := next((passed for passed in errors if passed is not None), None):
            if error is not None and first.rank == self.rank:  # type: ignore[attr-defined]
                error.rank = self.rank  # type: ignore[attr-defined]
                raise error
            raise first
        return value

    def in_turn(self, make: Callable[[], T]) -> T:
        """As :meth:`together`, the first rank first, then one on each machine, then the others: for downloads."""
        mine, made = 0 if self.first else 1 if self.local_rank == 0 else 2, []
        for turn in range(3):
            self.together(lambda turn=turn: made.append(make()) if turn == mine else None)  # type: ignore[misc]
        return made[0]

    def gathered(self, value: T) -> list[T]:
        """The ``value`` of every rank, on every rank."""
        values: list[Any] = [value] * self.ranks
        if self.ranks > 1:
            with self._watched():
                dist.all_gather_object(values, value)
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each."""
        if self.ranks > 1:
            tensor = tensor.clone()
            with self._watched():
                dist.all_reduce(tensor, group=DDP._gradients if tensor.is_cuda else None)
        return tensor

    def agreed(self, numbers: Sequence[int], step: int) -> list[int]:
        """The largest of each number over all ranks, by processor, at one step of 16; 0 at others."""
        if self.ranks == 1:
            return list(numbers)
        if step % 16:
            return [0] * len(numbers)
        largest = torch.tensor(list(numbers))
        with self._watched():
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return [int(number) for number in largest]

    def refuse_different(self, value: Callable[[], str], what: str, step: int) -> None:
        """Raise RunError on every rank if ``value`` is not the same on all; ``what`` names it."""
        if self.ranks == 1:
            return
        found = self.gathered(value())
        if odd := [str(rank) for rank, other in enumerate(found) if other != found[0]]:
            ranks = f"rank{'s' * (len(odd) > 1)} {', '.join(odd)}"
            raise RunError(f"at step {step} the {what} of {ranks} differ from those of rank 0")

    # ------------------------------------------------------------------------------------- training

    def parallel(self, model: nn.Module, forward: nn.Module, example: Callable[[], Tensor]) -> nn.Module:
        """The model in ``DistributedDataParallel``, under the same parameters.

        Buffers are not sent at every forward: those of the first rank are its own, and are sent before evaluation.
        Gradients are put into buckets anew after the first backward; two passes here get that behind, for the order
        within a bucket is the order of sums, and a run that goes on after a kill would start in the other one.
        """
        if self.ranks == 1:
            return forward
        if self.sync_bn:
            forward = with_joint_statistics(model, DDP._gradients)
        told = inspect.signature(DistributedDataParallel).parameters
        option = (
            "forward_sync_buffers" if "forward_sync_buffers" in told else "broadcast_buffers"
        )  # before 2.15
        options: dict[str, Any] = {"process_group": DDP._gradients, option: False}
        with self._watched():
            self._wrapped = DistributedDataParallel(forward, **options)
        self._wrapped.register_comm_hook(DDP._gradients, lambda group, bucket: added_up(group, bucket))
        with self._watched(), torch.compiler.set_stance("force_eager"):
            self._wrapped.eval()
            for _ in range(2):
                self._wrapped(example()).sum().backward()
        self._wrapped.train().zero_grad(set_to_none=True)
        return self._wrapped

    def split(self, inputs: Tensor, targets: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
        """A rank's share of a batch in parts; joint batch statistics need as many on every rank, be they empty."""
        found = super().split(inputs, targets, parts)
        missing = parts - len(found) if self.sync_bn else 0
        return found + [(inputs[:0], targets[:0])] * missing

    @contextmanager
    def micro_batch(self, step: int, last: bool) -> Iterator[None]:
        """Around forward and backward of a part; at the ``last`` of a step, gradients of all ranks are summed."""
        self.step_now = step
        wrapped = self._wrapped
        with self._watched(), nullcontext() if last or wrapped is None else wrapped.no_sync():
            yield

    def same_start(self, pruner: Stateful, model: nn.Module, seed: int) -> None:
        """Masks and weights of the first rank on every rank; random numbers differ from here on."""
        if self.ranks > 1:
            with self._watched():
                copy_from_first(pruner, model, DDP._gradients)
            self._draw_anew(seed, 0)

    def same_buffers(self, model: nn.Module) -> None:
        """Buffers (batch statistics) of the first rank on every rank."""
        if self.ranks > 1:
            with self._watched():
                for buffer in model.buffers():
                    dist.broadcast(buffer, src=0, group=DDP._gradients)

    def resume(self, states: list[dict[str, Any]], seed: int, step: int) -> None:
        """Go on from :meth:`state_dict` of all ranks; with another number of them, those after the first draw anew."""
        self.step_now = step
        same = len(states) == self.ranks
        self.load_state_dict(states[self.rank if same else 0])
        if not same:
            self._draw_anew(seed, step)

    # ------------------------------------------------------------------------------------- within

    def _draw_anew(self, seed: int, step: int) -> None:
        if not self.first:
            seed_everything(int(np.random.SeedSequence((seed, self.rank, step)).generate_state(1)[0]))

    def _take_gpu(self, timeout: timedelta) -> None:
        """One GPU a rank: the one that its launcher left visible, or that of its number on the machine."""
        count = torch.cuda.device_count()
        index = self.local_rank if count > 1 else 0
        taken = None
        if index < count:
            torch.cuda.set_device(index)
            taken = f"{socket.gethostname()} {torch.cuda.get_device_properties(index).uuid}"
        places = self.gathered(taken)
        if None in places or len(set(places)) < self.ranks:
            ranks = f"{self.ranks} ranks on {len(set(places) - {None})} GPUs"
            raise SettingError("device", "ddp", f"a GPU for every rank, but these are {ranks}")
        if DDP._gradients is None:
            with self._watched():
                DDP._gradients = dist.new_group(backend="nccl", timeout=timeout)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Communication that fails inside is a rank that is gone."""
        try:
            yield
        except RuntimeError as error:
            if not of_communication(error):
                raise
            DDP._lost = True
            when = f"at step {self.step_now}" if self.step_now >= 0 else "before the first step"
            lost = RunError(
                f"rank {self.rank} lost another rank {when} ({reason(error)}); "
                "the same command goes on from the last checkpoint"
            )
            lost.rank = self.rank  # type: ignore[attr-defined]
            raise lost from error


def shared(make: Callable[[], T]) -> T:
    """As :meth:`DDP.shared`, where no device is at hand; with one process, what ``make`` returns."""
    if not dist.is_initialized():
        return make()
    device = DDP.__new__(DDP)
    device.rank, device.ranks, device.step_now = dist.get_rank(), dist.get_world_size(), -1
    return device.shared(make)


def _meet(here: Launch, timeout: timedelta) -> None:
    """Join the others, once a process."""
    if dist.is_initialized():
        return
    where = f"{here.address}:{here.port}"
    try:
        if here.by == "torchrun":  # whose own store may be there already
            dist.init_process_group("gloo", timeout=timeout)
        else:
            place = f"tcp://{where}"
            dist.init_process_group("gloo", place, rank=here.rank, world_size=here.ranks, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        allowed = f"not all of {here.ranks} ranks came to {where} ({reason(error)})"
        missed = RunError(f"rank {here.rank}: {allowed}")
        missed.rank = here.rank  # type: ignore[attr-defined]
        raise missed from error
    atexit.register(_part)


def _part() -> None:
    """Leave the others in order; after one of them is lost there is no order."""
    if dist.is_initialized() and not DDP._lost:
        dist.destroy_process_group()
