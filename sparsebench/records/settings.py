"""Settings of a run, parsed from the command that reproduces it."""

from __future__ import annotations

import re
import shlex

import yaml

from sparsebench.paths import options

VOLATILE = (
    "results_dir",
    "data_root",
    "overwrite",
    "wait",
    "heartbeat_timeout",
    "eval_batch_size",
    "save_every",
    "save_seconds",
    "device",
    "hydra",
    "tune_to_target",
    "evaluate",
    "tracker",
    "workers",
    "allow_other_numerics",
    "redo_older",
)
"""Settings that do not change what is trained: device, paths, tracking and evaluation."""

NUMERICS = ("channels_last", "compile", "deterministic")
"""Settings that change how a result is rounded, and nothing else of it: recorded, and no part of a run's identity."""

RECORDING = ("eval_every",)
"""Settings of the identity that only ``best_`` columns depend on: the final weights are the same."""

SUMMARY_SETTINGS = ("dataset", "model", "prune", "sparsity", "seed", "epochs", "batch_size", "precision")
"""Settings that have a column in the summary."""

PRUNING_SETTINGS = (
    "prune", "schedule", "allocation", "score", "sanity", "prunable", "sparsity", "ramp_end", "update_interval"
)  # fmt: skip
"""Settings and config groups that do not apply to dense runs."""


SEED = r"\s'?seed=\d+'?(?=\s|$)"
"""A seed in a command line, with the preceding space."""

PATH_SETTINGS = ("results_dir", "data_root")
"""Settings that are paths of runs and data."""

QUOTED, WORD = re.compile(r"[\"'\\]"), re.compile(r"[^ \t\r\n]+")


def overrides(command: str, paths: bool = False) -> list[str]:
    """The overrides of a ``sparsebench train ...`` command without the volatile ones; with ``paths``, paths are kept.

    Empty for any other text.

    Example:
        >>> overrides("sparsebench train prune=dpf results_dir=/tmp/x 'schedule.interval=8it' seed=1")
        ['prune=dpf', 'schedule.interval=8it', 'seed=1']
    """
    try:
        split = words(command)
    except ValueError:
        return []
    left_out = set(VOLATILE) - set(PATH_SETTINGS if paths else ())
    return [w for w in split[2:] if "=" in w and w[0] != "-" and _key(w).split(".")[0] not in left_out]


def words(command: str) -> list[str]:
    """``shlex.split(command)``, which is slow, by a regular expression if nothing is quoted, as in most commands.

    Raises:
        ValueError: A quotation is not closed.
    """
    return shlex.split(command) if QUOTED.search(command) else WORD.findall(command)


def typed_config_dirs(command: str) -> list[str]:
    """The folders of configs that a command names."""
    option = "--config-dir="
    return [word.removeprefix(option) for word in words(command) if word.startswith(option)]


def without_places(command: str) -> str:
    """``command`` without the paths of runs and data."""
    places = tuple(f"{setting}=" for setting in PATH_SETTINGS)
    return shlex.join(word for word in words(command) if not word.startswith(places))


def settings(command: str, recording: bool = False) -> dict[str, str]:
    """Setting -> value of a command's overrides, without those that have a column in the summary.

    Numbers are normalised, so that ``0.10`` equals ``1e-1``. Settings of the model are part of its name, and
    numerics make no other configuration; nor do those of :data:`RECORDING` unless ``recording``.
    """
    found, left_out = {}, (*SUMMARY_SETTINGS, *NUMERICS, *(() if recording else RECORDING))
    for override in overrides(command):
        key, value = _key(override), override.partition("=")[2].strip("'\"")
        if key not in left_out and not key.startswith("model."):
            found[key] = _canonical(value)
    return found


def is_pruning_setting(setting: str) -> bool:
    """Whether the setting does not apply to dense runs."""
    return setting.split(".")[0] in PRUNING_SETTINGS


def dense_command(command: str, seed: object = None) -> str:
    """The command of the dense run with the same settings as ``command`` except pruning, and optionally another seed.

    Settings outside pruning that the method's config changes (such as a model variant) are set explicitly. Paths in
    ``command`` are kept.

    Example:
        >>> dense_command("sparsebench train recipe=quick prune=dpf sparsity=0.9 optimizer.lr=0.1", 2)
        'sparsebench train recipe=quick prune=dense optimizer.lr=0.1 seed=2'
    """
    kept, before = [], overrides(command, paths=True)
    for override in before:
        key = _key(override)
        if key == "prune":
            kept += ["prune=dense", *_settings_of_method(override.partition("=")[2])]
        elif not is_pruning_setting(key) and (key != "seed" or seed is None):
            kept.append(override)
    if not any(_key(override) == "prune" for override in before):
        kept.append("prune=dense")
    return shlex.join(["sparsebench", "train", *kept, *([] if seed is None else [f"seed={seed}"])])


def _settings_of_method(method: str) -> list[str]:
    path = options("prune").get(method)
    if path is None or not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    if "@package _global_" not in text or not isinstance(content, dict):
        return []
    return [
        f"{group}.{name}={str(value).lower() if isinstance(value, bool) else value}"
        for group, values in content.items()
        if isinstance(values, dict) and not is_pruning_setting(group)
        for name, value in values.items()
        if not isinstance(value, (dict, list))
    ]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _canonical(value: str) -> str:
    try:
        return f"{float(value):.12g}"
    except ValueError:
        return value
