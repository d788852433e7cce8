"""One run: find it finished, or begin or resume it, and do all its trainings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sparsebench.config.build import build, require_targets
from sparsebench.config.compose import defaults
from sparsebench.config.identity import id_of, identity_in
from sparsebench.config.open import validate
from sparsebench.config.resolve import resolve
from sparsebench.distributed.ddp import broadcast_from_main
from sparsebench.distributed.device import Device
from sparsebench.distributed.precision import AUTO
from sparsebench.distributed.threads import default_threads
from sparsebench.errors import SettingError, printable
from sparsebench.paths import expanded, file_name
from sparsebench.records.lease import Lease
from sparsebench.records.run_folder import RunFolder
from sparsebench.records.states import ResultsFolder
from sparsebench.runs.build import RunComponents, build_run, eval_batch_size
from sparsebench.runs.earlier import made_anew
from sparsebench.runs.evaluations import FOLDER as EVALUATION
from sparsebench.runs.evaluations import apply, build_evaluations, dense_run
from sparsebench.runs.memory_format import channels_last_is_faster
from sparsebench.runs.numerics import (
    Numerics,
    check_numerics,
    settle,
    stored_numerics,
    unused_settings,
    with_numerics,
)
from sparsebench.runs.result import check
from sparsebench.runs.run_lock import Make, find_or_make, say_finished
from sparsebench.runs.training import Training
from sparsebench.trackers.tracker import Tracker
from sparsebench.training.checkpoint import Checkpoint
from sparsebench.training.signals import StopSignals
from sparsebench.training.steps import Steps, finish


def run(cfg: DictConfig, choices: Mapping[str, str | None], overrides: list[str]) -> float:
    """Like :func:`complete`; returns the validation accuracy in percent, as the objective of a search."""
    return float((broadcast_from_main(complete(cfg, choices, overrides).summary) or {})["val_top1"])


def complete(cfg: DictConfig, choices: Mapping[str, str | None], overrides: list[str]) -> RunFolder:
    """:func:`advance` to the end."""
    return finish(advance(cfg, choices, overrides))


def advance(
    cfg: DictConfig,
    choices: Mapping[str, str | None],
    overrides: list[str],
    signals: StopSignals | None = None,
) -> Steps[RunFolder]:
    """Run or resume the run that ``cfg`` describes unless it is finished; for multi-round methods, all trainings.

    Stops after every training step until it is advanced again, and yields its :class:`Progress`.

    Args:
        cfg: The composed config.
        choices: Config group -> chosen option.
        overrides: Overrides of the command line, to record the command that reproduces the run.
        signals: Stop signals that the process already listens to; by default they are listened to here.

    Returns:
        The run folder; with several trainings, that of the last.

    Raises:
        SettingError: A setting is wrong; nothing has been written.
        RunError: The run diverged, or its number of zeros is not the requested one.
    """
    validate(cfg, choices)
    require_targets(cfg, defaults(choices))
    overrides = resolve(cfg, overrides)
    chosen, results = build_evaluations(cfg), expanded(cfg.results_dir, "results_dir")
    tracker: Tracker = build(cfg.tracker, "tracker")
    device: Device = build(cfg.device)
    ranks = device.world_size
    found = device.broadcast_from_main(lambda: identity_in(ResultsFolder(results), cfg, choices, ranks))
    cfg.overwrite = device.broadcast_from_main(
        lambda: cfg.overwrite or made_anew(ResultsFolder(results).begun(id_of(found)), cfg, device.label)
    )
    dense = device.broadcast_from_main(lambda: dense_run(chosen, cfg, choices, results, ranks))

    def find() -> RunFolder | None:
        return _finished(ResultsFolder(results).trainings(id_of(found)), chosen)

    def prepared() -> tuple[Numerics, RunComponents, list[Training]]:
        kept = kept_numerics()
        settled = settle(cfg, kept, device.broadcast_from_main(default_threads))
        for line in unused_settings(cfg, settled, overrides) if kept and device.is_main_process else ():
            print(f"sparsebench: {line}", file=sys.stderr)
        if settled.channels_last == AUTO:
            settled.channels_last = device.broadcast_from_main(lambda: channels_last_is_faster(settled))
        typed = with_numerics(overrides, settled)
        components = build_run(settled)
        _check_length(components, choices)
        numbers = range(components.pruner.trainings)
        return kept, components, [Training(settled, choices, typed, components, found, n) for n in numbers]

    def kept_numerics() -> Numerics:
        if cfg.overwrite:
            return {}
        return device.broadcast_from_main(lambda: stored_numerics(ResultsFolder(results).begun(id_of(found))))

    def prepare() -> Make[RunFolder]:
        ready = prepared()
        images = eval_batch_size(cfg, ready[1].dataset)
        evaluate = partial(apply, chosen, batch_size=cfg.batch_size, eval_batch_size=images, dense=dense)

        def make(lease: Lease | None, signals: StopSignals) -> Steps[RunFolder]:
            kept, components, trainings = ready
            if kept_numerics() != kept:  # another process has begun the run since
                kept, components, trainings = prepared()
            folders = [training.folder.path for training in trainings]
            device.broadcast_from_main(lambda: check_numerics(kept, trainings[0].numerics, folders, cfg))
            yield from _train(trainings, components, evaluate, tracker, lease, signals)
            return trainings[-1].folder

        return make

    return (yield from find_or_make(id_of(found), cfg, device, find, prepare, signals))


def _check_length(components: RunComponents, choices: Mapping[str, str | None]) -> None:
    """Refuse a training that is too short for its method; with ``scale=smoke``, which is meant to be, only say so."""
    try:
        components.pruner.check_length(components.clock.total_steps)
    except SettingError as error:
        if choices.get("scale") != "smoke":
            raise
        if components.device.is_main_process:
            print(f"sparsebench: note: {error}", file=sys.stderr)


def _train(
    trainings: list[Training],
    components: RunComponents,
    evaluate: Callable[..., dict[str, Any]],
    tracker: Tracker,
    lease: Lease | None,
    signals: StopSignals,
) -> Steps[None]:
    """Run the remaining trainings."""
    cfg, device, ids = trainings[0].cfg, components.device, [training.row["run_id"] for training in trainings]
    start, before = device.broadcast_from_main(lambda: (0, {}) if cfg.overwrite else _resume_point(trainings))
    for training in trainings[start:]:
        if training is not trainings[start]:
            components = build_run(cfg, components.dataset)
        row, before = yield from training.run(components, before, evaluate, tracker, lease, signals, ids)
        check({key: str(value) for key, value in row.items()})
        (stop,) = device.all_reduce_max((signals.pending,), step=0)
        if stop:
            signals.act(stop)
    device.broadcast_from_main(lambda: _remove_checkpoints(training.folder.path for training in trainings))


def _resume_point(trainings: list[Training]) -> tuple[int, dict[str, Any]]:
    """Number of the next training to run, and the state handed over by the one before it."""
    left = [training.handover.load(_misfit) for training in trainings]
    start = max((n + 1 for n, state in enumerate(left) if state and trainings[n].folder.summary()), default=0)
    return start, left[start - 1] or {} if start else {}


def _misfit(state: Mapping[str, Any]) -> str:
    return "" if "flops" in state else "not what a training hands over"


def _finished(folders: Sequence[Path], chosen: Collection[str]) -> RunFolder | None:
    """The last of the trainings' folders, if it is finished; prints that, cleans up, and raises if the run failed."""
    last = RunFolder(folders[-1].parent, folders[-1].name) if folders else None
    if last is None or (summary := last.summary()) is None:
        return None
    _remove_checkpoints(folders)
    say_finished(last.path)
    if missing := [
        extra for extra in chosen if not (last.path / EVALUATION / file_name(f"{extra}.csv")).exists()
    ]:
        print(printable(f"sparsebench evaluate {last.path} evaluate=[{','.join(missing)}] evaluates it"))
    check(summary)
    return last


def _remove_checkpoints(folders: Iterable[Path]) -> None:
    """Remove checkpoints of finished trainings, which a kill right after the last row may have left."""
    for folder in folders:
        for name in ("handover", "checkpoint"):
            Checkpoint(folder, print, name).remove()
