"""Join runs of several tables into configurations, by their columns and the settings in their commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from sparsebench.errors import SettingError, one_of
from sparsebench.records.settings import NUMERICS, RECORDING, SEED, settings
from sparsebench.records.validity import valid_runs

DESCRIBING = ("dataset", "model", "method", "target_sparsity", "epochs", "batch_size", "precision")
"""Columns of the summary that identify a configuration, in addition to the settings in its command."""

ROUND = "round"
"""Column that distinguishes the trainings of one command, for methods with several."""

RECORDED = ("best_val_top1", "test_top1_at_best_val")
"""Metrics that depend on how often a run is evaluated."""

NEEDED = (
    *("schema", "run_id", "status", "sparsity_ok", "seed", "sparsity", "train_flops", "prunable", "started"),
    *DESCRIBING,
    *(ROUND, "config_hash", "command", "weights_hash"),
    *("version", "torch", "device", "numerics", "numerics_changed_at"),
)
"""Columns that a comparison needs in addition to the metric."""


@dataclass
class Joined:
    """Runs of several tables, grouped by configuration.

    Attributes:
        keys: Columns that tell configurations apart.
        table: One row per configuration: ``keys``; its index is the configuration's number.
        commands: Number of the configuration -> a command of it without seed, possibly empty.
        settings: Number of the configuration -> the settings of its command, the same for equal ``config_hash``.
        runs: For each table one row per run: ``key``, ``seed``, ``value``, ``good``, ``sparsity``, ``train_flops``,
            ``prunable``.
        differing: Setting that is constant in every table but differs between tables -> the tables' values.
        notes: Notes on the join for the reader.
    """

    keys: list[str]
    table: pd.DataFrame
    commands: dict[int, str]
    settings: dict[int, dict[str, str]]
    runs: list[pd.DataFrame]
    differing: dict[str, list[object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def join(tables: Sequence[tuple[str, pd.DataFrame]], metric: str, on: Sequence[str] | None = None) -> Joined:
    """Find the configurations of ``tables`` and assign every run to one.

    A configuration consists of all settings of a run but its seed: the describing columns and the settings in its
    command. Columns that vary within a table become keys; columns that are constant within every table but differ
    between them do not (``differing``). Runs with one ``config_hash`` are one configuration however their commands are
    written; if the keys do not distinguish two hashes in one table, the hash becomes a key.

    Args:
        tables: (label, summary rows) of each.
        metric: Column of the values.
        on: Columns or settings to join on; detected by default.

    Raises:
        SettingError: A column of ``on`` is in no table.
    """
    parts = [_unique(frame, on or ()) for _, frame in tables]
    every = pd.concat({i: unique for i, (_, unique) in enumerate(parts)}, names=["table"]).reset_index(
        "table"
    )
    every = every.reset_index(drop=True)
    recording = metric in RECORDED
    settings_of_rows = _settings(every, recording)
    names = sorted({name for row in settings_of_rows for name in row})
    run_settings = pd.DataFrame(settings_of_rows, index=every.index, columns=names).fillna("")
    values = pd.concat([every.drop(columns=["command"]), run_settings], axis=1)
    values["hash"] = values["config_hash"]
    differing: dict[str, list[object]] = {}
    if on:
        for column in on:
            if column not in values or (column in every and every[column].isna().all()):
                known = [*(c for c in tables[0][1].columns if c != "command"), *run_settings.columns]
                raise SettingError("on", column, f"a column of {tables[0][0]}: {one_of(known, column)}")
        keys = list(on)
    else:
        keys, differing = _keys(values, [*DESCRIBING, ROUND, *run_settings.columns])
        same = _with_several_hashes(values, keys)
        if same.any() and _translate_hashes(values, every["command"], same, recording):
            same = _with_several_hashes(values, keys)
        if same.any():
            same = values.assign(same=same).groupby(keys, dropna=False)["same"].transform("any")
            # Only where nothing else distinguishes them.
            values["config_hash"] = values["hash"].where(same, "")
            keys.append("config_hash")
    values["key"] = _sortable(values[keys]).groupby(keys, dropna=False).ngroup()
    joined = Joined(
        keys,
        values.drop_duplicates("key").set_index("key")[keys].sort_index(),
        {int(key): command for key, command in zip(values["key"], every["command"], strict=True)},
        {int(key): row for key, row in zip(values["key"], settings_of_rows, strict=True)},
        [],
        differing,
        _ambiguous_rows(values, keys, [label for label, _ in tables], list(run_settings.columns)),
    )
    if not on:
        joined.notes += _hash_warnings(values)
    for (_, frame), (number, _), (_, part) in zip(tables, parts, values.groupby("table"), strict=True):
        joined.runs.append(_runs(frame, part["key"].to_numpy()[number], metric))
    joined.notes += _repeated_trainings(joined.runs)
    return joined


def _unique(frame: pd.DataFrame, on: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """The distinct identifying values, and for every row their index."""
    columns = [*dict.fromkeys([*DESCRIBING, ROUND, "config_hash", "command", *(c for c in on if c in frame)])]
    identity = frame.reindex(columns=columns)
    codes = pd.DataFrame({column: pd.factorize(identity[column])[0] for column in columns})
    number = codes.groupby(columns, sort=False).ngroup().to_numpy()
    first = pd.Series(number).drop_duplicates().index
    unique = identity.iloc[first].reset_index(drop=True)
    for column in unique.columns:
        if not is_numeric_dtype(unique[column]):
            unique[column] = unique[column].astype(object).where(unique[column].notna(), None)
    commands = unique["command"].astype(object)
    unique["command"] = commands.where(commands.notna(), "").astype(str)
    return number, unique


def _settings(every: pd.DataFrame, recording: bool) -> list[dict[str, str]]:
    """The settings of every row; the same for equal hashes."""
    commands = every["command"].str.replace(SEED, "", regex=True)  # fewer distinct commands to parse
    parsed = {command: settings(command, recording) for command in commands.unique()}
    best: dict[object, dict[str, str]] = {}
    for digest, command in zip(every["config_hash"], commands, strict=True):
        run_settings = parsed[command]
        known = best.setdefault(digest, run_settings)
        if (len(run_settings), sorted(run_settings.items())) < (len(known), sorted(known.items())):
            best[digest] = run_settings
    return [
        best[digest] if pd.notna(digest) and digest != "" else parsed[command]
        for digest, command in zip(every["config_hash"], commands, strict=True)
    ]


def _with_several_hashes(values: pd.DataFrame, keys: list[str]) -> pd.Series:
    """Whether the configuration of each row has several hashes in its table."""
    return values.groupby(["table", *keys], dropna=False)["hash"].transform("nunique") > 1


def _translate_hashes(values: pd.DataFrame, commands: pd.Series, rows: pd.Series, recording: bool) -> bool:
    """Replace hashes among ``rows`` by those without numerics, which earlier versions counted; whether there were any.

    Nor do settings that only ``best_`` columns depend on count, unless ``recording``. Only commands that set some are
    looked at, and only where hashes are all that tells two configurations apart, because each takes as long as
    composing a config.
    """
    left_out = () if recording else RECORDING
    setting = commands.str.contains(rf"\b(?:{'|'.join((*NUMERICS, *left_out))})=", regex=True) & rows
    if not setting.any():
        return False
    from sparsebench.config.open import present_hash  # imported here: it imports Hydra

    plain = commands[setting].str.replace(SEED, "", regex=True)
    earlier = list(zip(plain.astype(str), values["hash"][setting].astype(str), strict=True))
    present = {(command, old): present_hash(command, old, left_out) for command, old in set(earlier)}
    values.loc[setting, "hash"] = [present[one] for one in earlier]
    return True


def _keys(values: pd.DataFrame, candidates: Sequence[str]) -> tuple[list[str], dict[str, list[object]]]:
    keys, differing = [], {}
    for column in candidates:
        found = [list(part.unique()) for _, part in values.groupby("table")[column]]
        if any(len(one) > 1 for one in found):
            keys.append(column)
        elif len({as_text(one[0]) for one in found}) > 1:
            differing[column] = [one[0] for one in found]
        elif column in DESCRIBING:
            keys.append(column)
    return keys, differing


def _sortable(values: pd.DataFrame) -> pd.DataFrame:
    """Convert columns of mixed types to strings."""
    values = values.copy()
    for column in values:
        if not is_numeric_dtype(values[column]):
            values[column] = values[column].map(as_text, na_action="ignore")
    return values


def _ambiguous_rows(
    values: pd.DataFrame, keys: list[str], labels: Sequence[str], run_settings: Sequence[str]
) -> list[str]:
    """Warnings about rows that average several configurations of a table, with what they differ in."""
    notes = []
    for number, part in values.groupby("table"):
        groups = part.groupby("key")
        hashes = groups["hash"].nunique()
        others = [c for c in [*DESCRIBING, *run_settings] if c not in keys]
        varying = {c: groups[c].nunique(dropna=False) for c in others}
        several = hashes > 1
        for counts in varying.values():
            several |= counts > 1
        if several.any():
            named = [c for c, counts in varying.items() if (counts > 1).any()] or ["config_hash"]
            notes.append(
                f"warning: rows of {labels[int(str(number))]} are means over several configurations "
                f"({several.sum()} of {len(several)}), which differ in {', '.join(named)}"
            )
    return notes


def _hash_warnings(values: pd.DataFrame) -> list[str]:
    """Note if equal commands have different hashes in different tables."""
    known = values[values["hash"].notna() & (values["hash"] != "")]
    if not known.empty:
        per_table = known.groupby(["key", "table"])["hash"].first().groupby("key").nunique()
        if (per_table > 1).any() and not _explained(values):
            return [
                "note: the commands are equal but config_hash is not: defaults differ between the versions that "
                "made the tables, or something that is not in the commands"
            ]
    return []


def _explained(values: pd.DataFrame) -> bool:
    """Whether the tables differ in any column that identifies a configuration."""
    columns = [str(c) for c in values if c not in ("table", "key", "config_hash", "hash", "seed")]
    return any(len({as_text(v) for v in part.unique()}) > 1 for part in _constants(values, columns))


def _constants(values: pd.DataFrame, columns: Sequence[str]) -> list[pd.Series]:
    one = values.groupby("table")[list(columns)].nunique(dropna=False).eq(1).all()
    return [values[c] for c in columns if one[c]]


def _runs(frame: pd.DataFrame, key: np.ndarray, metric: str) -> pd.DataFrame:
    runs = pd.DataFrame({"key": key, "value": frame[metric].to_numpy(), "good": valid_runs(frame).to_numpy()})
    for column in ("seed", "sparsity", "train_flops", "prunable"):
        known = frame[column] if column in frame else pd.Series(np.nan, index=frame.index)
        if not is_numeric_dtype(known):  # in another program's table it may be any text
            known = pd.to_numeric(known.astype(object), errors="coerce")
        runs[column] = known.to_numpy()
    digest = frame["weights_hash"] if "weights_hash" in frame else pd.Series("", index=frame.index)
    training = runs[["key", "seed"]].assign(digest=digest.map(as_text).to_numpy())
    runs["repeats"] = runs["good"] & (training["digest"] != "") & training.duplicated()
    runs.loc[runs["repeats"], "value"] = np.nan  # one training counts once
    return runs


def _repeated_trainings(tables: Sequence[pd.DataFrame]) -> list[str]:
    """A note if rows of one configuration and seed have the same weights."""
    count = sum(int(runs["repeats"].sum()) for runs in tables)
    if not count:
        return []
    rows = f"{count} row{'s' if count > 1 else ''} of the same configuration and seed as another"
    return [
        f"note: {rows} {'have' if count > 1 else 'has'} the same weights_hash: one training, counted once"
    ]


def as_text(value: object) -> str:
    """A value of a summary in one way; empty if there is none."""
    if value is None or value != value:
        return ""
    return f"{value:.12g}" if isinstance(value, (float, np.floating)) else str(value)


def describe_differences(differing: Mapping[str, Sequence[object]]) -> list[str]:
    """Describe each difference as ``setting: first -> second``."""
    return [
        f"{name}: {' -> '.join(as_text(value) or 'default' for value in values)}"
        for name, values in differing.items()
    ]
