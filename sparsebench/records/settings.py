"""What a run was told: the settings in the command that makes it again."""

from __future__ import annotations

import shlex

import yaml

from sparsebench.paths import options

VOLATILE = (
    "results_dir",
    "data_root",
    "overwrite",
    "wait",
    "heartbeat_timeout",
    "save_every",
    "save_seconds",
    "device",
    "hydra",
    "tune_to_target",
    "evaluate",
    "tracker",
    "workers",
)
"""Settings that do not change what is trained: where it runs, is kept and shown, and what else is measured."""

SUMMARY_SETTINGS = ("dataset", "model", "prune", "sparsity", "seed", "epochs", "batch_size", "precision")
"""Settings that a column of the summary tells."""

PRUNING_SETTINGS = ("prune", "schedule", "allocation", "score", "sanity", "prunable", "sparsity", "ramp_end")
"""Settings, and groups of settings, that mean nothing to a dense run."""


SEED = r"\s'?seed=\d+'?(?=\s|$)"
"""A seed in a command line, with the space before it."""

PATH_SETTINGS = ("results_dir", "data_root")
"""Settings that say where runs and data are."""


def overrides(command: str, paths: bool = False) -> list[str]:
    """The overrides of a command line ``sparsebench train ...``, without the volatile ones, or with the ``paths``.

    A text that is no such command has none.

    Example:
        >>> words("sparsebench train prune=dpf results_dir=/tmp/x 'schedule.interval=8it' seed=1")
        ['prune=dpf', 'schedule.interval=8it', 'seed=1']
    """
    try:
        split = shlex.split(command)
    except ValueError:
        return []
    left_out = set(VOLATILE) - set(PATH_SETTINGS if paths else ())
    return [w for w in split[2:] if "=" in w and w[0] != "-" and _key(w).split(".")[0] not in left_out]


def settings(command: str) -> dict[str, str]:
    """Setting -> value of a command's overrides; those that a column of the summary tells are left out.

    Numbers are written in one way, so that ``0.10`` equals ``1e-1``. The settings of a model are in its name.
    """
    found = {}
    for override in overrides(command):
        key, value = _key(override), override.partition("=")[2].strip("'\"")
        if key not in SUMMARY_SETTINGS and not key.startswith("model."):
            found[key] = _canonical(value)
    return found


def is_pruning_setting(setting: str) -> bool:
    """Whether a dense run does not know this setting."""
    return setting.split(".")[0] in PRUNING_SETTINGS


def dense_command(command: str, seed: object = None) -> str:
    """The command of the dense run with everything of ``command`` but its pruning; with another seed if given.

    What the method's own config sets outside pruning (a variant of the model, say) is set by name. The run goes where
    those of ``command`` are, as far as it says.

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
