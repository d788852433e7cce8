"""The files of a run, and the one table of their columns: names, order, types, meaning, makers and direction."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

SCHEMA = 1
"""Version of the columns below; the first column of every summary."""

SUMMARY = "summary.csv"
METRICS = "metrics.csv"
LAYERS = "layers.csv"
CONFIG = "config.yaml"
PROVENANCE = "run.json"
STUDY = "study.json"
MODEL = "model.safetensors"
LOG = "log.txt"


@dataclass(frozen=True)
class Column:
    """One column of a CSV.

    Args:
        name: In the header.
        type: Type of its values: ``str``, ``int``, ``float`` or ``bool``.
        meaning: One line; results/README.md says more.
        better: Whether higher or lower values are better, if either.
        differs: What it may differ with where one run is made twice: with the ``run`` (times, and where the code and
            the folder are), or with the ``machine`` and its libraries; with nothing by default.
        optional: Whether it may be empty: not measured, or not defined.
        since: First version of sparsebench whose runs all have it; empty for those of the first.
        maker: The function of ``runs/result.py`` that computes it; of others the caller knows it before the training.
    """

    name: str
    type: type
    meaning: str
    better: Literal["higher", "lower"] | None = None
    differs: Literal["run", "machine"] | None = None
    optional: bool = False
    maker: str = ""
    since: str = ""


def _made_by(maker: str, *columns: Column) -> tuple[Column, ...]:
    return tuple(Column(**{**vars(column), "maker": maker}) for column in columns)


def _since(version: str, *columns: Column) -> tuple[Column, ...]:
    return tuple(Column(**{**vars(column), "since": version}) for column in columns)


SUMMARY_TABLE: tuple[Column, ...] = (
    Column("schema", int, "version of these columns"),
    Column("run_id", str, "hash of what the run is"),
    *_made_by("accuracy_columns", Column("status", str, "finished, or diverged")),
    Column("dataset", str, "name of the data set"),
    Column("model", str, "name of the model"),
    Column("method", str, "option of prune"),
    Column("seed", int, "of the run"),
    Column("target_sparsity", float, "requested fraction of zeros among the prunable weights", optional=True),
    *_made_by(
        "compute_cost_columns",
        Column("sparsity", float, "1 - nonzero / prunable, counted in the final tensors", "higher"),
        Column("model_sparsity", float, "fraction of zeros among all parameters", "higher"),
        Column("conv_linear_sparsity", float, "of all weights of convolutions and linear layers", "higher"),
        Column(
            "effective_sparsity",
            float,
            "zeros, and weights on no path to the output",
            "higher",
            optional=True,
        ),
    ),
    *_made_by(
        "training_columns",
        Column("sparsity_ok", bool, "whether exactly the requested weights are pruned, and all of them zero"),
        Column("kept_zeros", int, "zeros that are not pruned"),
    ),
    *_made_by(
        "compute_cost_columns",
        Column(
            "collapsed_layers", str, "layers without a weight, or with the one that was kept", optional=True
        ),
        Column("parameters", int, "number of all parameters", "lower"),
        Column("prunable", int, "number of weights that may be pruned"),
        Column("nonzero", int, "of them, those that are not zero", "lower"),
        Column("compression", float, "prunable / nonzero", "higher"),
        Column("macs", int, "multiply-accumulates of the dense model for one sample", "lower"),
        Column("macs_sparse", int, "multiply-accumulates with its non-zero weights", "lower"),
        Column("speedup_theoretical", float, "macs / macs_sparse", "higher"),
    ),
    *_made_by(
        "training_columns",
        Column("train_flops", float, "FLOPs of the whole training", "lower"),
        Column("train_flops_ratio", float, "over those of dense training", "lower"),
        Column(
            "train_flops_ratio_dense_gradient", float, "with dense weight gradients in every step", "lower"
        ),
    ),
    *_made_by(
        "accuracy_columns",
        Column("top1", float, "test accuracy of the final model [%]", "higher", optional=True),
        Column("top5", float, "its test top-5 accuracy [%]", "higher", optional=True),
        Column("test_loss", float, "its test loss [nats per sample]", "lower", optional=True),
        Column("val_top1", float, "its validation accuracy [%]", "higher", optional=True),
        Column("best_val_top1", float, "best validation accuracy at the target [%]", "higher", optional=True),
        Column("test_top1_at_best_val", float, "test accuracy there [%]", "higher", optional=True),
    ),
    Column("epochs", float, "length of the training"),
    Column("steps", int, "optimiser steps of the training"),
    Column("batch_size", int, "of all ranks"),
    Column("precision", str, "of the arithmetic"),
    Column("device", str, "what it was trained on", differs="machine"),
    *_made_by(
        "accuracy_columns",
        Column("seconds", float, "of training and evaluation", "lower", "run"),
        Column("images_per_second", float, "training images over seconds", "higher", "run"),
        Column("peak_memory_mb", float, "peak memory [MiB]", "lower", "run"),
    ),
    Column("version", str, "of sparsebench", differs="machine"),
    Column("torch", str, "version of PyTorch", differs="machine"),
    Column("git_commit", str, "of the code", differs="run", optional=True),
    Column("git_dirty", bool, "whether the code differed from that commit", differs="run", optional=True),
    Column("config_hash", str, "as run_id, the same for all seeds"),
    Column("started", str, "when", differs="run"),
    Column("command", str, "what reproduces the run", differs="run"),
)

REPEATABILITY_TABLE: tuple[Column, ...] = _since(
    "0.2.0",
    Column(
        "init_hash", str, "of the weights and masks before the first step", differs="machine", optional=True
    ),
    Column("split_hash", str, "of the images, and of what is train, val and test", optional=True),
    Column("order_hash", str, "of the order and augmentation of the training images", optional=True),
    Column("weights_hash", str, "of the final weights", differs="machine", optional=True),
    Column("numerics", str, "what the rounding depends on", differs="machine", optional=True),
    Column("numerics_changed_at", str, "steps at which it went on with others", differs="run", optional=True),
    Column("mask_updates", int, "steps of the training at which masks were set", optional=True),
    Column("last_update_step", int, "the last of them, counted from 0", optional=True),
)
"""Columns that every run appends to its summary, and those of earlier versions do not have."""

APPENDED_TABLE: tuple[Column, ...] = (
    *REPEATABILITY_TABLE,
    Column("round", int, "which training of several"),
    Column("rounds", int, "the last one's number"),
    Column("unreadable_images", int, "images that were shown in one colour", "lower"),
    Column("skipped_steps", int, "steps without an update, of fp16", "lower"),
    Column(
        "replayed_steps", int, "of a GPU: steps replayed as CUDA graphs, since the last restart", None, "run"
    ),
    Column("ece", float, "expected calibration error, a fraction", "lower", optional=True),
    Column("nll", float, "mean negative log-likelihood [nats per sample]", "lower"),
    Column("top1_worst_class", float, "test accuracy of the worst class [%]", "higher"),
    Column("disagreement", float, "test images classified otherwise than by the dense network [%]", "lower"),
    Column("top1_corrupted", float, "mean test accuracy under corruptions [%]", "higher"),
    Column("top1_recalibrated", float, "test accuracy after batch norm is recalibrated [%]", "higher"),
    Column("test_loss_recalibrated", float, "test loss there [nats per sample]", "lower"),
    Column("prunability", float, "fraction of weights that suffices for the training loss", "lower"),
)
"""Columns that some runs append to their summary. Others may: they need not be here, see :func:`lower_is_better`."""

METRICS_TABLE: tuple[Column, ...] = (
    Column("step", int, "optimiser steps done"),
    Column("epoch", float, "epochs done"),
    Column("scheduled_sparsity", float, "what the schedule says at the last step", optional=True),
    Column("sparsity", float, "as the masks have it", "higher"),
    Column("train_loss", float, "mean since the last row", "lower", optional=True),
    Column("val_loss", float, "of the weights that would be deployed now", "lower"),
    Column("val_top1", float, "their validation accuracy [%]", "higher"),
    Column("val_top5", float, "their validation top-5 accuracy [%]", "higher"),
    Column("lr", float, "learning rate of the last step"),
    Column("mask_flips", float, "fraction of mask bits that changed since the last row", optional=True),
    Column("pruning_error", float, "‖w - m⊙w‖² / ‖w‖² over the prunable weights", "lower"),
    Column("explored", float, "fraction of the prunable weights that any mask has kept"),
    Column("images_per_second", float, "training images, evaluations not included", "higher", "run", True),
    Column("seconds", float, "since the start, over all restarts", "lower", "run"),
)

LAYERS_TABLE: tuple[Column, ...] = _made_by(
    "layer_rows",
    Column("layer", str, "key in the state_dict"),
    Column("shape", str, "of the weight"),
    Column("prunable", bool, "whether its weights may be pruned"),
    Column("weights", int, "their number"),
    Column("nonzero", int, "those that are not zero", "lower"),
    Column("sparsity", float, "1 - nonzero / weights", "higher"),
    Column("macs", int, "multiply-accumulates for one sample", "lower"),
    Column("macs_sparse", int, "those of the non-zero weights", "lower"),
    Column("dead_outputs", int, "output units without a non-zero incoming weight"),
)


def names(columns: Iterable[Column]) -> tuple[str, ...]:
    """The header of a table."""
    return tuple(column.name for column in columns)


SUMMARY_COLUMNS, METRICS_COLUMNS, LAYERS_COLUMNS = map(names, (SUMMARY_TABLE, METRICS_TABLE, LAYERS_TABLE))

MEASURED_COLUMNS = frozenset(names(c for c in (*SUMMARY_TABLE, *METRICS_TABLE) if c.differs == "run"))
"""Columns in which two executions of one run may differ: times, machines and provenance."""

REPEATED_COLUMNS = names(column for column in SUMMARY_TABLE if column.differs is None)
"""Columns of the summary that are equal in all executions of one run, on any machine."""

HASHES = tuple(name for name in names(REPEATABILITY_TABLE) if name.endswith("_hash"))
"""Those of what a run starts from, its data and its result; equal where numerics are equal."""

REPEATED_HASHES = names(c for c in REPEATABILITY_TABLE if c.name in HASHES and c.differs is None)
"""Those of them that are equal on any machine."""

TEXT_COLUMNS = names(column for column in (*SUMMARY_TABLE, *APPENDED_TABLE) if column.type is str)
"""Columns of the summary that are strings, even if they look like numbers."""

NUMERIC_COLUMNS = names(column for column in SUMMARY_TABLE if column.type in (int, float))
"""Columns of the summary that are numbers."""

_BETTER = {column.name: column.better for column in (*SUMMARY_TABLE, *APPENDED_TABLE, *METRICS_TABLE)}


def lower_is_better(column: str) -> bool:
    """Whether lower values are better; for columns in no table here, judged by name.

    Example:
        >>> [lower_is_better(c) for c in ("top1", "test_loss", "images_per_second", "nll", "their_error")]
        [False, True, False, True, True]
    """
    if column in _BETTER:
        return _BETTER[column] == "lower"
    if re.search(r"per_second|speedup|sparsity|compression", column):
        return False
    return bool(re.search(r"loss|seconds|flops|macs|memory|parameters|nonzero|error", column))
