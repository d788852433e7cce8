"""Launchers: processes of this machine, or a Slurm cluster. Each run is a separate command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from sparsebench.config.compose import STUDY
from sparsebench.config.identity import known_id, study_id
from sparsebench.config.resolve import resolve
from sparsebench.distributed.threads import available_cores, threads_of_jobs
from sparsebench.errors import RunError, SettingError, printable, require_int
from sparsebench.files import make_shared, open_for_append
from sparsebench.paths import expanded
from sparsebench.records.states import ResultsFolder
from sparsebench.training.signals import StopSignals

POLL = 0.2
"""Seconds between checks of local processes."""

ENDED = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
}
"""Slurm's states of jobs that have ended."""


LAUNCH_FAILED = "launch failed requeued held"
"""Slurm's reason for holding a job that it failed to restart."""


@dataclass
class Outcome(JobReturn):
    """Result of a launched run, read from its results folder."""

    look: Callable[[], float] | None = None

    @property
    def return_value(self) -> Any:
        """The validation accuracy, in percent.

        Raises:
            RunError: The run is not finished.
        """
        assert self.look is not None
        return self.look()

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


class CommandLauncher(Launcher):
    """Runs ``sparsebench train OVERRIDES`` (or ``theory``) for every job, and reads the result from disk."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra with its context."""
        self.hydra_context, self.config = hydra_context, config
        self.folder = expanded(config.hydra.sweep.dir, "results_dir").absolute()
        self.command = str(config.hydra.job.config_name)  # train or theory, named like their configs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; returns when all have ended, successful or not."""
        for made in (self.folder.parent, self.folder):
            make_shared(made)
        more = ["wait=false"] if self.command == "theory" else []  # for runs, the sweep adds it
        jobs = [[*self._config_dirs(), *overrides, *more] for overrides in job_overrides]
        self.run(jobs, initial_job_idx)
        return [self._outcome(overrides) for overrides in job_overrides]

    def run(self, jobs: Sequence[Sequence[str]], first: int) -> None:
        """Start the jobs, and wait for all of them.

        Args:
            jobs: Overrides of each job.
            first: Number of the first job.
        """
        raise TypeError(f"{type(self).__name__} does not implement run()")

    def _config_dirs(self) -> list[str]:
        sources = self.config.hydra.runtime.config_sources
        return [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]

    def _composed(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str | None]]:
        """The config of a job, and the chosen options."""
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        choices: dict[str, str | None] = dict(cfg.hydra.runtime.choices)
        OmegaConf.set_readonly(cfg, False)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        return cfg, choices

    def _outcome(self, overrides: Sequence[str]) -> Outcome:
        def look() -> float:
            cfg, choices = self._composed(overrides)
            if self.command == "train":
                resolve(cfg)
                name = known_id(cfg, choices, ranks_of_jobs(self.config, choices))
            else:
                name = study_id(cfg, choices)
            found = ResultsFolder(expanded(cfg.results_dir, "results_dir")).state(name)
            if found.state != "finished":
                typed = " ".join(overrides).replace(f"{STUDY}=", "study=")
                raise RunError(f"{typed}: {found.error or found.state}")
            return float(found.row["val_top1"]) if self.command == "train" else 0.0

        return Outcome(overrides=list(overrides), status=JobStatus.COMPLETED, look=look)


def ranks_of_jobs(config: DictConfig, choices: Mapping[str, str | None]) -> int | None:
    """The number of ranks of a sweep's jobs, which is part of their ids; ``None`` if they are those of this process.

    Args:
        config: The sweep's config, with Hydra's; a launcher of cluster jobs says ``nodes`` and ``tasks_per_node``.
        choices: Config group -> chosen option, of a job.
    """
    launcher = config.hydra.launcher
    if choices.get("device") != "ddp" or launcher.get("tasks_per_node") is None:
        return None
    return int(launcher.get("nodes") or 1) * int(launcher.tasks_per_node)


class LocalLauncher(CommandLauncher):
    """Runs several local processes in parallel; each gets its own GPU, or an equal part of the free cores.

    The output of a job goes to a file next to the sweep's plan. Stop signals are forwarded to the jobs.

    Args:
        n_jobs: Parallel jobs; by default one per GPU, or else one per core.
        gpus: GPU numbers as in ``CUDA_VISIBLE_DEVICES``, assigned round-robin; by default all visible ones.
        threads: CPU threads per job; by default ``OMP_NUM_THREADS``, or else an equal part of the free cores. Chosen
            once for all jobs.
    """

    def __init__(
        self, n_jobs: int | None = None, gpus: Sequence[Any] | None = None, threads: int | None = None
    ) -> None:
        for name, value in (("n_jobs", n_jobs), ("threads", threads)):
            require_int(f"launcher.{name}", value, least=1, optional=True)
        self.gpus = [str(gpu) for gpu in (gpus if gpus is not None else _visible_gpus())]
        self.n_jobs = n_jobs or len(self.gpus) or available_cores()
        self.threads = threads or threads_of_jobs(self.n_jobs)

    def run(self, jobs: Sequence[Sequence[str]], first: int) -> None:
        """See :class:`CommandLauncher`."""
        waiting = [(first + number, overrides) for number, overrides in enumerate(jobs)][::-1]
        working: dict[int, subprocess.Popen[bytes]] = {}  # by slot
        with StopSignals() as signals, tqdm(total=len(jobs), desc="runs", unit="run", disable=None) as bar:
            while (waiting and not signals.pending) or working:
                for slot in set(range(self.n_jobs)) - set(working):
                    if waiting and not signals.pending:
                        working[slot] = self._start(slot, *waiting.pop())
                if signals.pending:
                    for process in working.values():
                        with suppress(ProcessLookupError):
                            process.send_signal(signal.SIGTERM)  # once is enough: the job saves and stops
                    for process in working.values():
                        process.wait()
                for slot, process in list(working.items()):
                    if process.poll() is not None:
                        del working[slot]
                        bar.update()
                time.sleep(POLL)
            if signals.pending:
                signals.act()

    def _start(self, slot: int, number: int, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        command = [sys.executable, "-m", "sparsebench", self.command, *overrides]
        with open_for_append(self.folder / f"{number}.log") as log:
            # In its own session, so that it receives Ctrl-C only once, from here.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )


class SlurmLauncher(CommandLauncher):
    """Runs a Slurm array through submitit; a job that reaches its time limit is requeued and resumes.

    The end of jobs is read from ``squeue``, so no accounting is needed, and an unreachable controller does no harm.
    After Ctrl-C the jobs keep running.

    Args:
        submitit_folder: Folder for scripts and logs of the jobs.
        max_num_timeout: How often a job is requeued at its time limit.
        poll_s: Seconds between queries of the queue.
        parameters: Parameters of submitit's ``update_parameters``, the Slurm-specific ones without ``slurm_``.

    Raises:
        SettingError: submitit or Slurm is not available.
    """

    COMMON = (
        "timeout_min",
        "cpus_per_task",
        "gpus_per_node",
        "tasks_per_node",
        "mem_gb",
        "nodes",
        "name",
        "stderr_to_stdout",
    )

    subcommand: Callable[[str], Callable[[Sequence[str]], int]]
    """``train`` or ``theory`` -> its ``main``; set by the plugin."""

    def __init__(
        self, submitit_folder: str, max_num_timeout: int, poll_s: float = 5.0, **parameters: Any
    ) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError:
            allowed = "another launcher, or submitit: pip install 'sparsebench[slurm]'"
            raise SettingError("hydra/launcher", "slurm", allowed) from None
        self.logs, self.max_num_timeout, self.poll = submitit_folder, max_num_timeout, float(poll_s)
        known = {
            name: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for name, v in parameters.items()
        }
        self.parameters = {
            name if name in self.COMMON else f"slurm_{name}": value
            for name, value in known.items()
            if value is not None
        }

    def run(self, jobs: Sequence[Sequence[str]], first: int) -> None:
        """See :class:`CommandLauncher`."""
        import submitit
        from submitit.core.utils import FailedJobError

        folder = expanded(self.logs, "results_dir").absolute()
        try:
            executor = submitit.AutoExecutor(
                folder=folder, cluster="slurm", slurm_max_num_timeout=self.max_num_timeout
            )
            executor.update_parameters(**self.parameters)
            command = Job(self.subcommand(self.command))
            ids = [job.job_id for job in executor.map_array(command, [list(overrides) for overrides in jobs])]
        except (FailedJobError, RuntimeError, FileNotFoundError) as error:
            reason = " ".join(str(error).split())
            raise SettingError(
                "hydra/launcher", "slurm", f"a request that sbatch accepts: {reason}"
            ) from error
        for job, overrides in zip(ids, jobs, strict=True):
            print(printable(f"Slurm job {job}: {' '.join(overrides)}"))
        print(f"logs: {folder}", flush=True)
        try:
            self._wait(ids)
        except KeyboardInterrupt:
            print(
                f"the Slurm jobs keep running; scancel {ids[0].partition('_')[0]} cancels them",
                file=sys.stderr,
            )
            raise

    def _wait(self, ids: Sequence[str]) -> None:
        """Wait until all jobs have ended in two queries in a row, because a requeued job ends for a moment."""
        over = 0
        with tqdm(total=len(ids), desc="Slurm jobs ended", unit="job", disable=None) as bar:
            while over < 2:
                states = queue(ids)
                if states is not None:
                    release(states)
                    left = [job for job in ids if states.get(job, ("COMPLETED", ""))[0] not in ENDED]
                    over = 0 if left else over + 1
                    bar.n = len(ids) - len(left)
                    bar.refresh()
                if over < 2:
                    time.sleep(self.poll)


@dataclass(frozen=True)
class Job:
    """Callable of a Slurm job; submitit calls it again when the job is requeued.

    Args:
        main: ``main`` of the subcommand, a module-level function because submitit pickles it.
    """

    main: Callable[[Sequence[str]], int]

    def __call__(self, overrides: Sequence[str]) -> int:
        """The exit status of ``sparsebench SUBCOMMAND OVERRIDES``."""
        try:
            return self.main(overrides)
        except (SettingError, RunError) as error:
            print(f"sparsebench: error: {error}", file=sys.stderr)
            return 1

    def checkpoint(self, overrides: Sequence[str]) -> Any:
        """Resubmit the same call: the run resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, overrides)


def queue(ids: Sequence[str]) -> Mapping[str, tuple[str, str]] | None:
    """Job -> (state, reason) of the jobs that Slurm still knows; ``None`` if Slurm does not answer."""
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        "--format=%i|%T|%r",
        "--user",
        str(os.getuid()),  # not the name: in a container there may be none
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    found = {
        job: (state, why) for job, state, why in (line.split("|", 2) for line in done.stdout.splitlines())
    }
    return {job: found[job] for job in ids if job in found}


def release(states: Mapping[str, tuple[str, str]]) -> None:
    """Release jobs that Slurm holds after it failed to restart them, as when its controller was killed."""
    held = [job for job, (state, why) in states.items() if state == "PENDING" and why == LAUNCH_FAILED]
    for job in held:
        print(f"Slurm holds job {job} ({LAUNCH_FAILED}): released", file=sys.stderr, flush=True)
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["scontrol", "release", job], capture_output=True, timeout=60)


def _visible_gpus() -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [gpu for gpu in given.split(",") if gpu.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
