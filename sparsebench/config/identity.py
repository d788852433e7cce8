"""The identity of a run, and the run_id derived from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from omegaconf import DictConfig

from sparsebench.config.build import accepted_arguments
from sparsebench.config.compose import IDENTITY_GROUPS, STUDY, defaults, leaves
from sparsebench.config.renamed import original_names
from sparsebench.distributed.rank_env import rank_info_from_env
from sparsebench.paths import expanded
from sparsebench.records.settings import NUMERICS, VOLATILE
from sparsebench.records.states import ResultsFolder


def study_id(cfg: DictConfig, choices: Mapping[str, str | None]) -> str:
    """Ten hexadecimal digits that identify a study; equal if all its settings, defaults included, are equal."""
    own = {k: v for k, v in leaves(cfg).items() if k.startswith("study.") and k != "study.data_root"}
    return _digest([choices[STUDY], own])


def identity(
    cfg: DictConfig,
    choices: Mapping[str, str | None],
    present: Mapping[str, Any] | None = None,
    ranks: int | None = None,
) -> dict[str, Any]:
    """The identity of a run: its choices, and every setting that differs from its default, except the volatile ones.

    Groups that the chosen method does not accept (a dense run has no schedule) are left out, and the sparsity
    with the schedule. So are numerics (``records.settings.NUMERICS``, and all of ``device``), which change only
    how a result is rounded.

    The number of ranks counts where each of several normalises over its own slice of a batch: without ``sync_bn``.
    Whether the model has batch normalisation at all is not known before it is built, and is not asked.

    Args:
        cfg: The config, as :func:`sparsebench.config.resolve.resolve` leaves it.
        choices: Config group -> chosen option.
        present: Setting -> default; read from the options' YAML files if not given.
        ranks: Number of ranks; by default that of this process's environment.
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
        if key.split(".")[0] not in {*VOLATILE, *NUMERICS, *unused}
        and key.split(".")[-1] not in {"data_root", "workers", "_target_"}
        and not (key in known and known[key] == value)
    }
    found = {
        **{group: choices[group] for group in IDENTITY_GROUPS if group not in unused},
        "changed": changed,
    }
    ranks = _ranks(choices) if ranks is None else ranks
    return {**found, "ranks": ranks} if ranks > 1 and not cfg.sync_bn else found


def _ranks(choices: Mapping[str, str | None]) -> int:
    """The number of ranks of this process's run."""
    return rank_info_from_env(os.environ).world_size if choices.get("device") == "ddp" else 1


def match(
    found: dict[str, Any], cfg: DictConfig, exists: Callable[[str], bool], training: int = 0
) -> dict[str, Any]:
    """The identity under which a run exists: ``found``, or one by the rule of earlier versions.

    They counted ``channels_last``, ``compile`` and ``deterministic``, and did not count ranks, so that what is one
    run now had several ids. The one of ``cfg`` as it is comes first, then the present one, then the others.

    Args:
        found: The present :func:`identity` of the run.
        cfg: Its config.
        exists: Whether there is a run with an id.
        training: Number of the training that the ids are of.

    Returns:
        ``found`` if there is none.
    """
    plain = {key: value for key, value in found.items() if key != "ranks"}

    def earlier(switches: tuple[bool, ...]) -> dict[str, Any]:
        on = {name: True for name, switch in zip(NUMERICS, switches, strict=True) if switch}
        return {**plain, "changed": {**plain["changed"], **on}}

    own, others = tuple(cfg[name] is True for name in NUMERICS), product((False, True), repeat=len(NUMERICS))
    candidates = [earlier(own), found, *map(earlier, others)]
    return next((one for one in candidates if exists(id_of(one, training))), found)


def identity_in(
    results: ResultsFolder, cfg: DictConfig, choices: Mapping[str, str | None], ranks: int | None = None
) -> dict[str, Any]:
    """The :func:`identity` of a run, or the one by which a results folder knows it (:func:`match`).

    Args:
        results: Where the run is, or will be.
        cfg: The config, as :func:`sparsebench.config.resolve.resolve` leaves it.
        choices: Config group -> chosen option.
        ranks: As for :func:`identity`.
    """
    found = identity(cfg, choices, ranks=ranks)
    return match(
        found,
        cfg,
        lambda run: run in results.folders and ("ranks" not in found or results.ranks(run) == found["ranks"]),
    )


def known_id(cfg: DictConfig, choices: Mapping[str, str | None], ranks: int | None = None) -> str:
    """The id by which the results folder of ``cfg`` knows the run: of :func:`identity_in`."""
    return id_of(identity_in(ResultsFolder(expanded(cfg.results_dir, "results_dir")), cfg, choices, ranks))


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
