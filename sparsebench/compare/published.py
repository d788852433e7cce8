"""Compare our results with published numbers: the gap, and whether the protocol is the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sparsebench.compare.baseline import against_dense
from sparsebench.compare.comparison import configurations, missing_dense
from sparsebench.compare.configurations import join
from sparsebench.compare.layout import mean_std_cells, number
from sparsebench.compare.mixed import mixed, mixed_notes
from sparsebench.compare.statistics import statistics
from sparsebench.errors import SettingError
from sparsebench.files import read_csv

COLUMNS = (
    "paper", "dataset", "model", "model_as_published", "method", "method_as_published", "sparsity", "top1", "std",
    "std_kind", "n", "epochs", "selection", "counted_layers", "source", "confidence",
)  # fmt: skip
"""Columns of a table of published numbers, explained in results/reference/README.md."""

UNKNOWN = "unknown"

NOT = "not a reproduction"

CHOSEN = {"best_test": "their best test epoch", "best_val": "their best validation epoch"}

FROM_MEMORY = (
    "memory-*: recalled from memory and not verified: a rough expectation, not to be tested against or cited"
)


def is_published(path: Path) -> bool:
    """Whether a CSV holds published numbers rather than runs."""
    with open(path, "rb") as file:
        return file.readline().rstrip() == ",".join(COLUMNS).encode()


def read_published(path: Path) -> pd.DataFrame:
    """A table of :data:`COLUMNS`: ``sparsity`` [fraction], ``top1`` and ``std`` [percent] as numbers.

    ``decimals`` is the precision of the printed sparsity, at least one percent. Empty cells are unknown.
    """
    frame = pd.DataFrame(read_csv(path), columns=list(COLUMNS))
    printed = frame["sparsity"].str.partition(".")[2].str.len()
    frame["decimals"] = printed.clip(lower=2)
    for column in ("sparsity", "top1", "std"):
        frame[column] = pd.to_numeric(frame[column])
    return frame


def family(model: str) -> str:
    """A model's name without its variant, as papers use it.

    Example:
        >>> [family(m) for m in ("resnet20_b", "resnet56_bottleneck", "resnet32_b_stable_w32", "vgg16_bias")]
        ['resnet20', 'resnet56', 'resnet32_w32', 'vgg16']
    """
    return re.sub(r"_(a|b|bottleneck|stable|bias|dropout[\d.]+)(?=_|$)", "", model)


def compare_with_paper(paper: pd.DataFrame, label: str, ours: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Join the published rows on the data sets and models of ``ours`` with our matching configurations.

    Rows match in data set, model (of any variant), method, and sparsity up to its printed precision. ``gap`` is ours
    minus theirs; ``drop_theirs`` and ``drop_ours`` are the points lost compared to the respective dense accuracy.
    ``verdict`` is ``reproduction`` only if the model, the epochs, the reported epoch and the layers in which the
    sparsity is counted are known and equal.

    Args:
        paper: The result of :func:`read_published`.
        label: Label of our table in notes.
        ours: Summary rows.

    Returns:
        The rows, and notes.
    """
    mine, mixed_runs = _configurations(label, ours)
    theirs = paper.assign(family=paper["model"].map(family), drop_theirs=_drops(paper))
    here = mine[["dataset", "family"]].drop_duplicates()
    shown = theirs.merge(here, on=["dataset", "family"], how="inner")
    notes = []
    if shown.empty:
        there = theirs.groupby(["dataset", "model_as_published"], sort=False).size().index
        notes.append(
            f"note: the paper has no data set and model of {label}; it has "
            + ", ".join(f"{dataset} {model}" for dataset, model in there)
        )
        shown = theirs
    shown = shown.reset_index(drop=True)
    on = ["dataset", "family", "method"]
    pairs = shown.reset_index().merge(mine, on=on, suffixes=("_theirs", ""))
    exact = (pairs["sparsity_ours"] - pairs["sparsity"]).abs() <= 0.5 * 0.1 ** pairs["decimals"]
    pairs = pairs[exact | (pairs["method"] == "dense")]
    columns = ["index", *(c for c in mine if c not in on)]
    both = shown.reset_index().rename(columns={c: f"{c}_theirs" for c in ("model", "n", "epochs")})
    both = both.merge(pairs[columns].rename(columns={"std": "std_ours"}), on="index", how="left")
    both["gap"] = both["mean"] - both["top1"]
    both["verdict"] = [_verdict({str(k): v for k, v in row.items()}) for row in both.to_dict("records")]
    alone = mine[~mine["key"].isin(pairs["key"])]
    if len(alone):
        named = [f"{r.model} {r.method} {number(r.sparsity_ours, None)}" for r in alone.head(5).itertuples()]
        more = ", ..." if len(alone) > 5 else ""
        notes.append(
            f"note: {configurations(len(alone))} of {label} not in the paper: {', '.join(named)}{more}"
        )
    notes += [*missing_dense(both["dense_command"]), *mixed_runs]
    return _ordered(both), notes


def cells(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Published rows, alone or from :func:`compare_with_paper`, formatted for display, and the lines under them."""
    alone = "verdict" not in frame
    spread = "std" if alone else "theirs_std"
    columns = ("top1", spread, "n") if alone else ("theirs", spread, "theirs_n")
    theirs = mean_std_cells(frame, columns, 2)
    lines: list[str] = []
    shown = {"dataset": frame["dataset"], "model": frame["model_as_published"]}
    shown |= {
        "method": frame["method_as_published"],
        "sparsity": frame["sparsity"].map(lambda s: "" if s != s else f"{s:g}"),
        "theirs (n)": theirs,
        "confidence": frame["confidence"],
    }
    if not alone:
        shown["ours (n)"] = mean_std_cells(frame, ("mean", "std", "n"), 2)
        shown["gap"] = frame["gap"].map(lambda gap: number(gap, 2, "+"))
        shown["drop theirs"] = frame["drop_theirs"].map(lambda drop: number(drop, 2))
        shown["drop ours"] = frame["drop_ours"].map(lambda drop: number(drop, 2))
        shown["verdict"], lines = _footnotes(frame["verdict"])
    if frame[spread].notna().any():
        kinds = sorted({kind.replace("_", " ") for kind in frame["std_kind"] if kind})
        lines.append(f"theirs ±: {', '.join('kind unknown' if k == UNKNOWN else k for k in kinds)}")
    if frame["from_memory"].any():
        lines.append(FROM_MEMORY)
    lines.append(
        "source: "
        + "; ".join(frame["source"].unique()[:3])
        + ("; ..." if frame["source"].nunique() > 3 else "")
    )
    return pd.DataFrame(shown), lines


def _footnotes(verdicts: pd.Series) -> tuple[pd.Series, list[str]]:
    """Replace equal verdicts by numbered footnotes."""
    marks: dict[str, str] = {}
    for verdict in verdicts:
        if verdict.startswith(NOT):
            marks.setdefault(verdict, f"not a reproduction [{len(marks) + 1}]")
    lines = [f"{mark[len(NOT) + 1 :]}{verdict[len(NOT) :]}" for verdict, mark in marks.items()]
    return verdicts.map(lambda verdict: marks.get(verdict, verdict)), lines


def listed(paper: pd.DataFrame) -> pd.DataFrame:
    """The published rows alone, with ``from_memory``."""
    return _marked(paper.drop(columns="decimals"))


def _marked(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(from_memory=frame["confidence"].str.startswith("memory"))


def _configurations(label: str, ours: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Our configurations: names, accuracy, epochs, counted layers; and notes on those with mixed runs."""
    if ours[["dataset", "model", "method"]].isna().any().any():
        raise SettingError("path", label, "runs that have a dataset, a model and a method")
    joined = join([(label, ours)], "top1")
    runs, table = joined.runs[0], joined.table
    frame = table[["dataset", "model", "method", "epochs"]].copy()
    frame["family"] = frame["model"].map(family)
    frame["sparsity_ours"] = table["target_sparsity"].fillna(
        runs[runs["good"]].groupby("key")["sparsity"].mean()
    )
    frame = frame.join(statistics(runs))
    dense = against_dense(joined)
    frame["drop_ours"], frame["dense_command"] = -dense["difference"], dense["dense_command"]
    run_settings = joined.settings
    frame["counted_ours"] = [_counted_layers(run_settings[key]) for key in frame.index]
    frame["special"] = [
        ", ".join(
            f"{k}={v}" for k, v in run_settings[key].items() if k.startswith(("dataset.", "experiment"))
        )
        for key in frame.index
    ]
    return frame.rename_axis("key").reset_index(), mixed_notes(joined, mixed(joined, ours))


def _counted_layers(run_settings: dict[str, str]) -> str:
    """The layers in which our sparsity is counted, in the terms of the published tables."""
    kept = [
        text
        for name, text in (("first_conv", "-first"), ("shortcut_convs", "-shortcuts"))
        if run_settings.get(f"prunable.{name}", "true").lower() == "false"
    ]
    classifier = "+classifier" if run_settings.get("prunable.last_fc", "false").lower() == "true" else ""
    return f"convolutions{''.join(kept)}{classifier}"


def _drops(paper: pd.DataFrame) -> pd.Series:
    """Points lost relative to the dense accuracy of the same table and model, or to the method's at sparsity 0."""
    same = ["paper", "dataset", "model_as_published"]
    itself = [*same, "method_as_published"]
    known = paper[paper["top1"].notna()]
    dense = known[known["method"] == "dense"].drop_duplicates(same, keep=False)
    own = known[known["sparsity"] == 0].drop_duplicates(itself, keep=False)
    bases = [
        paper.join(one.set_index(on)["top1"].rename("base"), on=on)["base"]
        for one, on in ((dense, same), (own, itself))
    ]
    base = bases[0].fillna(bases[1])
    return base - paper["top1"]


def _verdict(row: dict[str, object]) -> str:
    """Whether ours reproduces theirs, or the deviations from the paper's setup."""
    if row["n"] != row["n"]:
        return "no runs of ours"
    against = []
    if row["n"] == 0:
        against.append("none of our runs is valid")
    if row["top1"] != row["top1"]:
        against.append("they have no number")
    if row["model"] != row["model_theirs"]:
        against.append(f"model {row['model']}, theirs {row['model_theirs']}")
    if row["epochs_theirs"] == UNKNOWN:
        against.append("their epochs unknown")
    elif float(str(row["epochs_theirs"])) != float(str(row["epochs"])):
        against.append(f"epochs {float(str(row['epochs'])):g} of {row['epochs_theirs']}")
    if row["special"]:
        against.append(f"ours with {row['special']}")
    if row["selection"] == UNKNOWN:
        against.append("their reported epoch unknown")
    elif row["selection"] != "last":
        against.append(f"our last epoch, {CHOSEN[str(row['selection'])]}")
    if row["method"] != "dense":
        if row["counted_layers"] == UNKNOWN:
            against.append("their counted layers unknown")
        elif row["counted_layers"] != row["counted_ours"]:
            against.append(f"sparsity of {row['counted_ours']}, theirs of {row['counted_layers']}")
    return f"{NOT}: {'; '.join(against)}" if against else "reproduction"


def _ordered(both: pd.DataFrame) -> pd.DataFrame:
    both = both.rename(columns={"top1": "theirs", "std": "theirs_std", "n_theirs": "theirs_n"})
    both = both.rename(columns={"std_ours": "std"})
    for column in ("n", "excluded"):
        both[column] = both[column].astype("Int64")
    columns: Sequence[str] = (
        "paper", "dataset", "model", "model_theirs", "model_as_published", "method", "method_as_published", "sparsity",
        "theirs", "theirs_std", "std_kind", "theirs_n", "n", "mean", "std", "excluded", "gap", "drop_theirs",
        "drop_ours", "epochs_theirs", "epochs", "selection", "counted_layers", "verdict", "confidence", "source",
    )  # fmt: skip
    return _marked(both[list(columns)].assign(dense_command=both["dense_command"].fillna("")))
