"""Several runs of a sweep in one process, step by step in turn, so that they share a GPU that none of them fills."""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from sparsebench.config.identity import known_id
from sparsebench.config.resolve import resolve
from sparsebench.distributed.threads import default_threads
from sparsebench.errors import RunError, SettingError, printable, require_int
from sparsebench.paths import expanded
from sparsebench.records.states import ResultsFolder
from sparsebench.sweeps.launchers import CommandLauncher
from sparsebench.training.signals import Interrupted, StopSignals

if TYPE_CHECKING:
    from sparsebench.training.progress import Progress

WINDOW = 2.0
"""Seconds of a measurement of images per second."""

GAIN = 1.05
"""Twice as many runs at once have to make this many times the images per second."""


@dataclass(frozen=True)
class Job:
    """A run that waits for its turn: its number in the sweep, its config, and its overrides."""

    number: int
    cfg: DictConfig
    choices: Mapping[str, str | None]
    overrides: list[str]

    def __str__(self) -> str:
        return " ".join(self.overrides)


class PackedLauncher(CommandLauncher):
    """Trains several runs at once in this process, each step by step in turn, on one GPU (or CPU).

    Each run has its own stream, recorded steps, random generators, lease, folder, checkpoint and tables, and its result
    is that of the run alone, to the bit. Runs that differ in numerics (precision, threads, kernels), which are settings
    of a process, follow one another. The output of a run goes to a file next to the sweep's plan.

    Args:
        runs: Runs at once. By default their number is doubled as long as that raises the images per second.
    """

    def __init__(self, runs: int | None = None) -> None:
        require_int("launcher.runs", runs, least=1, optional=True)
        self.runs = runs

    def run(self, jobs: Sequence[Sequence[str]], first: int) -> None:
        """See :class:`CommandLauncher`."""
        if self.command != "train":
            raise SettingError(
                "hydra/launcher", "packed", "local or slurm: a study fills its processor alone"
            )
        from sparsebench.runs.numerics import settle, stored_numerics  # imported here: they import torch

        packs: dict[str, list[Job]] = {}
        for number, overrides in enumerate(jobs, first):
            cfg, choices = self._composed([word for word in overrides if not word.startswith("--")])
            refuse_unsuitable(cfg, choices)
            resolve(cfg)
            kept = stored_numerics(
                ResultsFolder(expanded(cfg.results_dir, "results_dir")).begun(known_id(cfg, choices))
            )
            settled = settle(cfg, {} if cfg.overwrite else kept, default_threads())
            numerics = json.dumps(OmegaConf.to_container(settled.device, resolve=True), sort_keys=True)
            packs.setdefault(numerics, []).append(Job(number, cfg, choices, list(overrides)))
        for pack in packs.values():
            Pack(pack, self.runs, self.folder).train()


def refuse_unsuitable(cfg: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Raise SettingError for a run that cannot share a process."""
    from hydra.utils import get_object

    from sparsebench.data.arrays import ImageDataset

    if choices["device"] == "ddp":
        raise SettingError(
            "device", "ddp", "auto, cpu or cuda with launcher=packed: its runs share one process"
        )
    target = get_object(str(cfg.dataset._target_))
    if not (isinstance(target, type) and issubclass(target, ImageDataset)):
        allowed = (
            f"a data set in memory with launcher=packed; {choices['dataset']} is read from disk as it trains"
        )
        raise SettingError("dataset", choices["dataset"], allowed)


class Member:
    """One run of a pack: what it has of its own in a process that it shares."""

    def __init__(self, job: Job, folder: Path) -> None:
        from sparsebench.distributed.generators import Generators
        from sparsebench.runs.run import advance
        from sparsebench.runs.tune_to_target import search

        self.job, self.signals, self.generators = job, StopSignals(), Generators()
        self.log = open(folder / f"{job.number}.log", "a", encoding="utf-8")  # noqa: SIM115 # closed by close()
        todo = search if job.cfg.tune_to_target is True else advance
        self.steps = todo(job.cfg, job.choices, job.overrides, self.signals)
        self.progress: Progress | None = None

    def advance(self) -> bool:
        """Do one step; whether there may be another. A run that fails has said so in its log and to its sweep.

        Raises:
            torch.OutOfMemoryError: The step needs more memory than the GPU has left.
        """
        import torch

        from sparsebench.runs.run_lock import note_failure

        with self.generators.in_use(), redirect_stdout(self.log), redirect_stderr(self.log):
            try:
                self.progress = next(self.steps)  # type: ignore[assignment]
                return True
            except StopIteration:
                return False
            except Interrupted as stop:
                print(f"sparsebench: stopped by {stop}", file=sys.stderr)
            except torch.OutOfMemoryError:
                raise
            except (SettingError, RunError, OSError) as error:
                note_failure(self.job.cfg, lambda: known_id(self.job.cfg, self.job.choices), error)
                print(printable(f"sparsebench: error: {error}"), file=sys.stderr)
            except Exception as error:  # such as a bug in another package's method
                note_failure(self.job.cfg, lambda: known_id(self.job.cfg, self.job.choices), error)
                traceback.print_exc()
            return False

    def close(self) -> None:
        """Give up what it holds; unfinished, it resumes from its last checkpoint."""
        with self.generators.in_use(), redirect_stdout(self.log), redirect_stderr(self.log):
            self.steps.close()
        self.log.close()


class Pack:
    """Trains runs in turn, a number of them at once.

    Args:
        jobs: The runs, of equal numerics.
        runs: How many at once; ``None`` finds it by measurement.
        folder: For the runs' output.
    """

    def __init__(self, jobs: Sequence[Job], runs: int | None, folder: Path) -> None:
        self.waiting, self.folder = deque(jobs), folder
        self.limit, self.growing = runs or 1, runs is None
        self.members: list[Member] = []
        self.rate = 0.0  # images per second in the last window
        self._done = 0  # images of runs that have left
        self._window = time.monotonic(), 0

    def train(self) -> None:
        """Train all; stop signals reach every run, which saves and stops.

        Raises:
            Interrupted: A signal has stopped them.
        """
        from sparsebench.distributed.generators import kept

        with ExitStack() as stack:
            stack.enter_context(kept())
            signals = stack.enter_context(StopSignals())
            bars = stack.enter_context(Bars())
            stack.callback(self._close)  # after an error
            while self.members or (self.waiting and not signals.pending):
                while len(self.members) < self.limit and self.waiting and not signals.pending:
                    self.members.append(Member(self.waiting.popleft(), self.folder))
                for member in tuple(self.members):
                    member.signals.pending = member.signals.pending or signals.pending
                    self._advance(member)
                self._grow()
                bars.show(self.members)
            if signals.pending:
                signals.act()

    def _close(self) -> None:
        for member in self.members:
            member.close()

    def _advance(self, member: Member) -> None:
        import torch

        try:
            if member.advance():
                return
        except torch.OutOfMemoryError:
            self._shrink(member)
        self._done += member.progress.samples if member.progress is not None else 0
        self.members.remove(member)
        member.close()
        gc.collect()  # its graphs and tensors, before another takes their place

    def _shrink(self, member: Member) -> None:
        """A run found no memory: it waits until another has ended, or has failed if it was alone."""
        import torch

        torch.cuda.empty_cache()
        others = len(self.members) - 1
        if not others:
            print(printable(f"sparsebench: {member.job}: out of memory, alone"), file=sys.stderr)
            return
        self.limit, self.growing = others, False
        self.waiting.appendleft(member.job)
        print(f"sparsebench: out of memory: {others} runs at once from here on", file=sys.stderr)

    def _grow(self) -> None:
        """Double the number of runs at once, if the last doubling has paid."""
        (since, images), now = self._window, time.monotonic()
        settled = [member.progress is not None and member.progress.steps > 10 for member in self.members]
        if not self.growing or not all(settled) or len(self.members) < self.limit:
            self._window = now, self._images()
            return
        if now - since < WINDOW:
            return
        _synchronize()
        rate = (self._images() - images) / (time.monotonic() - since)
        if rate < self.rate * GAIN:
            self.growing = False
            gain = f"{self.limit} at once make {rate:,.0f} images/s, {self.limit // 2} made {self.rate:,.0f}"
            print(f"sparsebench: no more runs at once: {gain}", file=sys.stderr)
        else:
            self.rate, self.limit = rate, 2 * self.limit

    def _images(self) -> int:
        return self._done + sum(
            member.progress.samples for member in self.members if member.progress is not None
        )


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Bars:
    """A progress bar for every run of a pack, on a terminal."""

    REFRESH = 1.0

    def __init__(self) -> None:
        self._bars: dict[Member, Any] = {}
        self._last = 0.0

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *error: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def show(self, members: Sequence[Member]) -> None:
        """Show how far the runs are, once a second."""
        if not sys.stderr.isatty() or time.monotonic() - self._last < self.REFRESH:
            return
        self._last = time.monotonic()
        for gone in set(self._bars) - set(members):
            self._bars.pop(gone).close()
        for member in members:
            progress = member.progress
            if progress is None:
                continue
            if member not in self._bars:
                self._bars[member] = tqdm(desc=progress.label, unit="step", leave=False, dynamic_ncols=True)
            bar, now = self._bars[member], progress.snapshot()
            bar.total, bar.n = now["steps"], now["step"]
            shown = {"img/s": f"{now['images_per_second']:,.0f}"}
            if now["val_top1"] is not None:
                shown |= {"val": f"{now['val_top1']:.2f}%", "sparsity": f"{now['sparsity']:.3f}"}
            bar.set_postfix(shown)
