"""The identity of a run, and the run_id derived from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sparsebench.config.compose import IDENTITY_GROUPS, STUDY, defaults, leaves
from sparsebench.config.contents import content_hash, named_files
from sparsebench.config.foreign import code_of
from sparsebench.config.options import REVISION, option
from sparsebench.config.renamed import original_names
from sparsebench.config.renamed import target as present_target
from sparsebench.config.revisions import MAIN, first_defaults, revision
from sparsebench.config.signatures import accepted_arguments
from sparsebench.distributed.rank_env import rank_info_from_env
from sparsebench.errors import SettingError
from sparsebench.paths import expanded
from sparsebench.records.settings import NUMERICS, VOLATILE
from sparsebench.records.states import ResultsFolder

CONTENTS = ("code", "files")
"""Parts of an identity that are hashes of what is outside the config."""


def study_id(cfg: DictConfig, choices: Mapping[str, str | None]) -> str:
    """Ten hexadecimal digits that identify a study; equal if all its settings, defaults included, are equal.

    A study of another package is its code too.
    """
    values = leaves(cfg)
    own = {k: v for k, v in values.items() if k.startswith("study.") and k != "study.data_root"}
    code = _code([str(value) for _, value in _targets(OmegaConf.to_container(cfg.study, resolve=True))])
    return json_hash([choices[STUDY], own, *([code] if code else [])])


def identity(
    cfg: DictConfig,
    choices: Mapping[str, str | None],
    present: Mapping[str, Any] | None = None,
    ranks: int | None = None,
) -> dict[str, Any]:
    """The identity of a run: its choices, and every setting that differs from its default, except the volatile ones.

    Groups that the chosen method does not accept (a dense run has no schedule) are left out, and the sparsity
    with the schedule. So are numerics (``records.settings.NUMERICS``, and all of ``device``), which change only
    how a result is rounded. What there is besides, counts where there is any:

    - ``revisions``: of the options, from 2 on;
    - ``targets``: every ``_target_`` that is not the chosen option's own;
    - ``code``: hashes, or versions, of code that is not this package's (:func:`sparsebench.config.foreign.code_of`);
    - ``files``: hashes of files and folders that settings name, instead of their paths;
    - ``ranks``: their number, where each of several normalises over its own slice of a batch: without ``sync_bn``.
      Whether the model has batch normalisation at all is not known before it is built, and is not asked.

    Of an option that does not come with this package all values count, because its defaults may change without notice.
    Nothing is imported.

    Args:
        cfg: The config, as :func:`sparsebench.config.resolve.resolve` leaves it.
        choices: Config group -> chosen option.
        present: Setting -> default; read from the options' YAML files if not given.
        ranks: Number of ranks; by default that of this process's environment.
    """
    known = dict(defaults(choices) if present is None else present)
    first = first_defaults(cfg, choices, known)
    known |= {name: value for group in first.values() for name, value in group.items()}
    unused = unused_groups(cfg)
    values = counted(cfg, unused)
    groups = [group for group in IDENTITY_GROUPS if group not in unused]
    foreign = {group for group in groups if not option(group, choices[group]).shipped}
    files = {name: content_hash(path) for name, path in named_files(values).items()}
    changed = {
        key: value
        for key, value in ((key, _as_default(value, known.get(key))) for key, value in values.items())
        if key not in files and (key.split(".")[0] in foreign or not (key in known and known[key] == value))
    }
    targets, code = _other_targets(cfg, choices, known, groups, foreign)
    ranks = _ranks(choices) if ranks is None else ranks
    more = {
        "revisions": {group: n for group, n in _revisions(cfg, groups).items() if group not in first},
        "targets": targets,
        "code": code,
        "files": files,
        "ranks": ranks if ranks > 1 and not cfg.sync_bn else 0,
    }
    found = {**{group: choices[group] for group in groups}, "changed": changed}
    return {**found, **{name: value for name, value in more.items() if value}}


def unused_groups(cfg: DictConfig) -> set[str]:
    """The groups, and settings outside groups, that the chosen method does not accept."""
    try:
        accepted = accepted_arguments(str(cfg.prune._target_))
    except Exception as error:  # importing it can raise anything
        allowed = f"a class or function that can be imported: {' '.join(str(error).split())}"
        raise SettingError("prune._target_", cfg.prune._target_, allowed) from error
    unused = {"schedule", "allocation", "score", "sanity"} - (accepted or set())
    if accepted is None:  # it accepts whatever there is
        return set()
    return unused | {"sparsity", "ramp_end"} if "schedule" in unused else unused


def counted(cfg: DictConfig, unused: set[str]) -> dict[str, Any]:
    """The settings that are part of the identity of a run, with their values; not ``_target_`` and ``revision``.

    Args:
        cfg: The config.
        unused: From :func:`unused_groups`.
    """
    left_out = {*VOLATILE, *NUMERICS, *unused, "update_interval"}  # which counts as schedule.interval
    return {
        key: value
        for key, value in leaves(cfg).items()
        if key.split(".")[0] not in left_out
        and key.split(".")[-1] not in {"data_root", "workers", "_target_", REVISION}
    }


def _as_default(value: Any, default: Any) -> Any:
    return float(value) if isinstance(default, float) and isinstance(value, int) else value


def _revisions(cfg: DictConfig, groups: list[str]) -> dict[str, int]:
    found = {group: revision(cfg, group) for group in (*groups, MAIN)}
    return {group: number for group, number in found.items() if number > 1}


def _other_targets(
    cfg: DictConfig,
    choices: Mapping[str, str | None],
    known: Mapping[str, Any],
    groups: list[str],
    foreign: set[str],
) -> tuple[dict[str, str], dict[str, str]]:
    """(every ``_target_`` that is not that of a shipped option, the code of all of them)."""
    own = {place: present_target(str(value)) for place, value in known.items() if place.endswith("_target_")}
    own["device._target_"] = str(option("device", choices.get("device")).target)
    found = {
        place: present_target(str(value))
        for group in (*groups, "device")
        for place, value in _targets(OmegaConf.to_container(cfg[group], resolve=True), group)
    }
    other = {
        place: name
        for place, name in found.items()
        if place.split(".")[0] in foreign or own.get(place) != name
    }
    return other, _code(list(other.values()))


def _targets(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(place, value) of every ``_target_`` in a container, in lists too."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "_target_":
            yield f"{place}._target_", value
        yield from _targets(value, f"{place}.{key}")


def _code(targets: list[str]) -> dict[str, str]:
    """The code of all the classes, sorted by the name of the package that they are in."""
    found: dict[str, list[str]] = {}
    for name in sorted(set(targets)):
        for package, version in code_of(name).items():
            found.setdefault(package, []).append(version)
    return {
        package: values[0] if len(set(values)) == 1 else json_hash(values)
        for package, values in found.items()
    }


def _ranks(choices: Mapping[str, str | None]) -> int:
    """The number of ranks of this process's run."""
    return rank_info_from_env(os.environ).world_size if choices.get("device") == "ddp" else 1


def match(
    found: dict[str, Any], cfg: DictConfig, exists: Callable[[str], bool], training: int = 0
) -> dict[str, Any]:
    """The identity under which a run exists: ``found``, or one by the rule of earlier versions.

    They counted ``channels_last``, ``compile`` and ``deterministic``, did not count ranks, and counted files by their
    paths, so that what is one run now had several ids. The one of ``cfg`` as it is comes first, then the present one,
    then the others.

    Args:
        found: The present :func:`identity` of the run.
        cfg: Its config.
        exists: Whether there is a run with an id.
        training: Number of the training that the ids are of.

    Returns:
        ``found`` if there is none.
    """
    paths = {key: OmegaConf.select(cfg, key) for key in found.get("files", {})}
    plain = {key: value for key, value in found.items() if key not in ("ranks", "files")}

    def earlier(switches: tuple[bool, ...]) -> dict[str, Any]:
        on = {name: True for name, switch in zip(NUMERICS, switches, strict=True) if switch}
        return {**plain, "changed": {**plain["changed"], **paths, **on}}

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
    return json_hash({**original_names(found), **({"training": training} if training else {})})


def hash_of(found: Mapping[str, Any], training: int = 0) -> str:
    """The :func:`config_hash` of an :func:`identity`."""
    changed = {key: value for key, value in found["changed"].items() if key != "seed"}
    return id_of({**found, "changed": changed}, training)


def json_hash(value: object) -> str:
    """Ten hexadecimal digits of the SHA-256 of a value's JSON, with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
