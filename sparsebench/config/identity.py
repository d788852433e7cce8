"""The identity of a run, and the run_id derived from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from sparsebench.config.build import accepted_arguments
from sparsebench.config.compose import IDENTITY_GROUPS, STUDY, defaults, leaves
from sparsebench.config.renamed import original_names
from sparsebench.records.settings import VOLATILE


def study_id(cfg: DictConfig, choices: Mapping[str, str | None]) -> str:
    """Ten hexadecimal digits that identify a study; equal if all its settings, defaults included, are equal."""
    own = {k: v for k, v in leaves(cfg).items() if k.startswith("study.") and k != "study.data_root"}
    return _digest([choices[STUDY], own])


def identity(
    cfg: DictConfig, choices: Mapping[str, str | None], present: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The identity of a run: its choices, and every setting that differs from its default, except the volatile ones.

    Groups that the chosen method does not accept (a dense run has no schedule) are left out, and the sparsity
    with the schedule.

    Args:
        cfg: The config.
        choices: Config group -> chosen option.
        present: Setting -> default; read from the options' YAML files if not given.
    """
    known = defaults(choices) if present is None else present
    unused = {"schedule", "allocation", "score", "sanity"} - (
        accepted_arguments(str(cfg.prune._target_)) or set()
    )
    if "schedule" in unused:
        unused |= {"sparsity", "ramp_end"}
    changed = {
        key: float(value) if isinstance(known.get(key), float) and isinstance(value, int) else value
        for key, value in leaves(cfg).items()
        if key.split(".")[0] not in {*VOLATILE, *unused}
        and key.split(".")[-1] not in {"data_root", "workers", "_target_"}
        and not (key in known and known[key] == value)
    }
    return {**{group: choices[group] for group in IDENTITY_GROUPS if group not in unused}, "changed": changed}


def run_id(cfg: DictConfig, choices: Mapping[str, str | None], training: int = 0) -> str:
    """Ten hexadecimal digits that identify the run: equal for equal :func:`identity` and number of the training."""
    return id_of(identity(cfg, choices), training)


def config_hash(cfg: DictConfig, choices: Mapping[str, str | None], training: int = 0) -> str:
    """Like :func:`run_id`, but the same for all seeds."""
    return hash_of(identity(cfg, choices), training)


def id_of(found: Mapping[str, Any], training: int = 0) -> str:
    """The :func:`run_id` of an :func:`identity`."""
    return _digest({**original_names(found), **({"training": training} if training else {})})


def hash_of(found: Mapping[str, Any], training: int = 0) -> str:
    """The :func:`config_hash` of an :func:`identity`."""
    changed = {key: value for key, value in found["changed"].items() if key != "seed"}
    return id_of({**found, "changed": changed}, training)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
