"""The columns of the result files: names, order, meaning. results/README.md is the prose to this."""

from __future__ import annotations

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

SUMMARY_COLUMNS = (
    "schema", "run_id", "status", "dataset", "model", "method", "seed",
    "target_sparsity", "sparsity", "model_sparsity", "conv_linear_sparsity", "effective_sparsity", "sparsity_ok",
    "kept_zeros", "collapsed_layers",
    "parameters", "prunable", "nonzero", "compression", "macs", "macs_sparse", "speedup_theoretical",
    "train_flops", "train_flops_ratio", "train_flops_ratio_dense_gradient",
    "top1", "top5", "test_loss", "val_top1", "best_val_top1", "test_top1_at_best_val",
    "epochs", "steps", "batch_size", "precision", "device",
    "seconds", "images_per_second", "peak_memory_mb",
    "version", "torch", "git_commit", "git_dirty", "config_hash", "started", "command",
)  # fmt: skip

METRICS_COLUMNS = (
    "step", "epoch", "scheduled_sparsity", "sparsity", "train_loss", "val_loss", "val_top1", "val_top5", "lr",
    "mask_flips", "pruning_error", "explored", "images_per_second", "seconds",
)  # fmt: skip

LAYERS_COLUMNS = (
    "layer",
    "shape",
    "prunable",
    "weights",
    "nonzero",
    "sparsity",
    "macs",
    "macs_sparse",
    "dead_outputs",
)

MEASURED_COLUMNS = frozenset(
    ("seconds", "images_per_second", "peak_memory_mb", "started", "command", "git_commit", "git_dirty")
)
"""Columns that two runs of one configuration may differ in: times, places and provenance."""
