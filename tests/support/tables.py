"""Rows of summary.csv, in run folders and in tables."""

from __future__ import annotations

from sparsebench.files import write_csv
from sparsebench.records.schema import SCHEMA, SUMMARY_COLUMNS


def row(method, sparsity, seed, top1, **more):
    values = dict.fromkeys(SUMMARY_COLUMNS, "")
    values |= {
        "schema": SCHEMA, "run_id": f"{method}{sparsity}{seed}", "status": "finished", "dataset": "cifar10",
        "model": "resnet20", "method": method, "seed": seed, "target_sparsity": sparsity, "sparsity_ok": True,
        "epochs": 10, "batch_size": 128, "precision": "fp32", "top1": top1, "config_hash": f"{method}{sparsity}",
        "started": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return values | more


def put(folder, rows):
    for values in rows:
        path = folder / f"run-{values['run_id']}"
        path.mkdir(parents=True)
        write_csv(path / "summary.csv", [*values], [values])
    return folder


def told(method, sparsity, seed, top1, *argv, **more):
    """A row with the command that made it, and a hash of all it was told but the seed."""
    pruning = () if method == "dense" else (f"sparsity={sparsity}",)
    settings = [f"prune={method}", *pruning, *argv]
    return row(
        method, sparsity, seed, top1, run_id=" ".join([*settings, str(seed)]), config_hash=" ".join(settings),
        command=" ".join(["sparsebench train", *settings, f"seed={seed}"]), train_flops=1e9, prunable=1000,
    ) | more  # fmt: skip


def table(tmp_path, name, rows):
    path = tmp_path / name
    write_csv(path, [*rows[0]], rows)
    return path


def reported(method, sparsity, seed, top1, argv="", **more):
    """A summary row with everything that a report uses."""
    command = (
        f"sparsebench train prune={method} sparsity={sparsity} seed={seed} results_dir=/a {argv}".strip()
    )
    values = {
        "run_id": f"{method}{sparsity}{seed}{argv}", "sparsity": sparsity, "config_hash": f"{method}{sparsity}{argv}",
        "macs_sparse": int(1000 * (1 - sparsity)), "train_flops": 3e12 * (1 - sparsity / 2), "val_top1": top1,
        "command": command, "version": "0.1.0", "git_commit": "0123456789abcdef", "git_dirty": False,
    }  # fmt: skip
    return row(method, sparsity, seed, top1) | values | more
