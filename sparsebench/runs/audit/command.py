"""The command that reproduces a run: composed again, and compared with its config."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sparsebench.config import renamed
from sparsebench.config.compose import leaves
from sparsebench.config.open import reopen_config
from sparsebench.config.stored_command import StoredCommand, read_command
from sparsebench.errors import SettingError
from sparsebench.records import schema
from sparsebench.records.run_folder import run_id_of
from sparsebench.records.settings import NUMERICS
from sparsebench.runs.audit.findings import Report
from sparsebench.runs.audit.names import same_code
from sparsebench.runs.reopen import FinishedRun

ELSEWHERE = ("results_dir", "data_root", "wait", "allow_other_numerics", "redo_older", "tracker")
"""Settings of places and services, and those that a sweep adds: no result depends on them."""

NAMES = ("command", schema.CONFIG, f"{schema.PROVENANCE} choices")
CHOSEN_THERE = ("device.name", "device.threads")
"""Settings that are chosen when a run is begun; compared with its numerics."""


def check_command(run: FinishedRun, report: Report) -> None:
    """The stored command gives the stored config and choices."""
    text = run.row.get("command", "")
    try:
        command = read_command(text, run.trust)
        cfg, choices = command.compose(run.trust)
        refused = run.trust.classes(OmegaConf.to_container(cfg, resolve=True), choices)  # type: ignore[arg-type]
    except SettingError as error:
        report.unchecked(NAMES, f"not composed: {error}")
        return
    if refused:
        report.unchecked(NAMES, f"not composed without --trust: {'; '.join(refused)}")
        return
    if dirs := [word for word in command.set_aside if word.startswith("--config-dir")]:
        report.note("command", " ".join(dirs), "not followed: only what is typed now is")
    if run.opened is None:
        _contradictions(run, report, command, cfg, choices)
        return
    known, as_text = run_id_of(run.path), OmegaConf.to_yaml(cfg, resolve=True)
    with run.trust.searching():
        found = reopen_config(as_text, choices, run.training, run.ranks, lambda name: name == known).run_id
    typed = _contradictions(run, report, command, cfg, choices)
    if found == run.opened.run_id or typed:
        report.holds("command")
    elif same_code(run):
        report.fail("command", text, f"run {found}, and not {run.opened.run_id}")
    else:
        report.unchecked("command", "the defaults of this version are others than the run's")


def _contradictions(
    run: FinishedRun, report: Report, command: StoredCommand, cfg: DictConfig, choices: dict[str, str | None]
) -> bool:
    """Report what the config or run.json says otherwise than the command; whether there is any."""
    before = len(report.found)
    aside = dict(word.split("=", 1) for word in command.set_aside if "=" in word)
    choices = {**choices, "tracker": aside.get("tracker", "none")}
    for group, option in run.choices.items():
        if "/" in group or choices.get(group, option) == option:
            continue
        if same_code(run) or group in {*command.typed, "tracker"}:
            shown = f"{group}={option}", f"{group}={choices[group]} (command)"
            report.fail(f"{schema.PROVENANCE} choices", *shown)
        else:
            what = f"{group}={option} is not typed in the command, and maybe a default of the run's version"
            report.unchecked(f"{schema.PROVENANCE} choices", what)
    claimed, composed = _leaves(run.settings), leaves(cfg)
    # Not those of chosen options, whose defaults may have been others in the run's version.
    typed = {*(command.typed - choices.keys()), *(place for place in run.not_built)}
    others = []
    for key in _differing(claimed, composed, run):
        if _covers(typed, key) or same_code(run):
            shown = claimed.get(key, "nothing"), f"{composed.get(key, 'nothing')} (command)"
            report.fail(f"{schema.CONFIG} {key}", *shown)
        else:
            others.append(key)
    place = str(claimed.get("results_dir"))
    if "results_dir" in aside and Path(aside["results_dir"].strip("'\"")) != Path(place):
        report.fail(f"{schema.CONFIG} results_dir", place, f"{aside['results_dir']} (command)")
    failed = len(report.found) > before
    report.unchecked(
        [f"{schema.CONFIG} {name}" for name in ELSEWHERE[1:]], "a place or a service: no result depends on it"
    )
    if others:
        what = f"not typed in the command, and maybe defaults of the run's version: {', '.join(others[:5])}"
        report.unchecked(schema.CONFIG, f"{what}{', ...' if len(others) > 5 else ''}")
    report.holds(schema.CONFIG, f"{schema.PROVENANCE} choices")
    return failed


def _covers(typed: Iterable[str], key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in typed)


def _differing(claimed: dict[str, Any], composed: dict[str, Any], run: FinishedRun) -> list[str]:
    """Settings with two values. What ``sparsebench`` has resolved since is not compared: numerics, and old names."""
    found = []
    for key in [*composed, *(claimed.keys() - composed.keys())]:
        one, other = claimed.get(key), composed.get(key)
        if key in CHOSEN_THERE or key.removeprefix("device.").split(".")[0] in (*ELSEWHERE, *NUMERICS):
            continue
        if key.endswith("_target_"):
            one, other = renamed.target(str(one)), renamed.target(str(other))
        if key not in claimed and key.split(".")[0] not in _tops(claimed):
            continue  # a setting that is newer than the run
        if one != other and str(one) != str(other):
            found.append(key)
    return found


def _tops(claimed: dict[str, Any]) -> set[str]:
    return {key.split(".")[0] for key in claimed}


def _leaves(config: dict[str, Any]) -> dict[str, Any]:
    cfg = OmegaConf.create(config)
    found = leaves(cfg)
    return {renamed.setting(key): value for key, value in found.items()}
