"""The evaluations of ``evaluate=...``: build them from the config, and apply them to a trained network."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from sparsebench.config.build import build, format_override
from sparsebench.config.open import compose_config, reopen_config
from sparsebench.errors import RunError, SettingError
from sparsebench.evaluation.subject import Evaluation, Subject
from sparsebench.files import leads_out, write_csv
from sparsebench.paths import file_name
from sparsebench.records import schema
from sparsebench.records.run_folder import is_finished, run_id_of
from sparsebench.runs.result import Network, load_weights

FOLDER = "evaluation"
"""Subfolder of a run folder: one CSV per evaluation, and one with its details."""


def evaluation_file(folder: Path, name: str) -> Path:
    """The CSV of an evaluation in a run folder, whose subfolder for it is created if missing.

    Raises:
        RunError: The subfolder is a link: what it leads to is not this run's.
    """
    place = folder / FOLDER
    if place.is_symlink():
        raise RunError(f"{place}: a link, which is not followed")
    place.mkdir(exist_ok=True)
    return place / file_name(f"{name}.csv")


def _within(results: Path) -> list[Path]:
    """The folders that may be those of dense runs, without links to elsewhere."""
    return [path for path in results.glob("*-dense-*") if not leads_out(path, results)]


def build_evaluations(cfg: DictConfig) -> dict[str, Evaluation]:
    """Build the evaluations that ``cfg`` selects, by name.

    Raises:
        SettingError: A setting of an evaluation is wrong.
    """
    return {str(name): build(node, f"evaluate.{name}") for name, node in (cfg.get("evaluate") or {}).items()}


def dense_run(
    chosen: Mapping[str, Evaluation],
    cfg: DictConfig,
    choices: Mapping[str, str | None],
    results: Path,
    ranks: int = 1,
) -> Path | None:
    """The folder of the dense run with otherwise the same config, if an evaluation needs it.

    Args:
        chosen: From :func:`build_evaluations`.
        cfg: Config of the run.
        choices: Config group -> chosen option.
        results: Folder of the run folders.
        ranks: Number of ranks of the run.

    Returns:
        ``None`` if no evaluation needs it, or this is the dense run.

    Raises:
        SettingError: It is needed but missing.
    """
    needing = [name for name, extra in chosen.items() if extra.needs_dense]
    if not needing or choices["prune"] == "dense":
        return None
    same = copy.deepcopy(cfg)
    plain, defaults = compose_config(["prune=dense"])
    same.prune = plain.prune
    dense = {**choices, "prune": "dense"}
    folders = {run_id_of(path): path for path in _within(results) if is_finished(path)}
    text = OmegaConf.to_yaml(same, resolve=True)
    opened = reopen_config(text, dense, ranks=ranks, exists=folders.__contains__)
    if opened.run_id in folders:
        return folders[opened.run_id]
    groups = ("model", "dataset", "optimizer", "lr_schedule")
    overrides = [f"{group}={choices[group]}" for group in groups if choices[group] != defaults[group]]
    overrides += [format_override(*item) for item in opened.changed.items()]
    command = shlex.join(["sparsebench", "train", *overrides, "prune=dense", f"results_dir={results}"])
    raise SettingError(
        f"evaluate.{needing[0]}", None, f"the dense run {opened.run_id} in {results}; train it with {command}"
    )


def apply(
    chosen: Mapping[str, Evaluation],
    net: Network,
    batch_size: int,
    eval_batch_size: int,
    dense: Path | None,
    folder: Path,
) -> dict[str, Any]:
    """Evaluate ``net``, write the results into ``folder``, and return all columns.

    The network, its mode and all random generators are restored afterwards.

    Raises:
        RunError: The dense run's weights cannot be read.
    """
    if not chosen:
        return {}

    def dense_model() -> nn.Module:
        assert dense is not None
        try:
            return load_weights(copy.deepcopy(net.model), dense / schema.MODEL)
        except RunError as error:
            raise RunError(f"{dense}: {error}") from error

    subject = Subject(
        net.model,
        net.dataset,
        net.device,
        list(net.prunable),
        batch_size,
        eval_batch_size,
        None if dense is None else dense_model,
    )
    generators, training, columns = net.device.state_dict(), net.model.training, {}
    try:
        net.model.eval()
        for name, extra in chosen.items():
            result = extra(subject)
            write_csv(evaluation_file(folder, name), list(result.columns), [result.columns])
            if result.details:
                details = evaluation_file(folder, f"{name}_details")
                write_csv(details, list(result.details[0]), result.details)
            columns.update(result.columns)
    finally:
        net.model.train(training)
        net.device.load_state_dict(generators)
    return columns
