"""Time and peak memory of ``sparsebench compare`` on long tables: one table, and two compared with each other.

The tables are synthetic: configurations of methods, sparsities and learning rates, each with many seeds.

    python scripts/bench_compare.py --rows 1000000
    python scripts/bench_compare.py --rows 10000 --seeds 3 --folders      the same rows as run folders too
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from sparsebench.records.schema import SCHEMA, SUMMARY_COLUMNS

METHODS = ("dense", "dpf", "gmp", "rigl", "set")


def write_table(path: Path, rows: int, seeds: int, shift: float) -> None:
    """A CSV of summary rows, ``seeds`` for every configuration, with accuracies ``shift`` higher."""
    number = np.arange(rows)
    configuration, seed = number // seeds, number % seeds
    method = np.array(METHODS)[configuration % len(METHODS)]
    sparsity = np.where(method == "dense", 0.0, 0.5 + configuration // len(METHODS) % 49 / 100)
    rate = (1 + configuration // (len(METHODS) * 49)) / 1000
    noise = np.random.default_rng(0).normal(scale=0.3, size=rows)
    command = "sparsebench train dataset=cifar10 prune=" + pd.Series(method)
    command += " sparsity=" + pd.Series(sparsity).astype(str) + " optimizer.lr=" + pd.Series(rate).astype(str)
    same = pd.util.hash_pandas_object(command, index=False).astype(str)
    columns = dict.fromkeys(SUMMARY_COLUMNS, 1.0) | {
        "schema": SCHEMA,
        "run_id": same + "-" + pd.Series(seed).astype(str),
        "status": "finished",
        "dataset": "cifar10",
        "model": "resnet20",
        "method": method,
        "seed": seed,
        "target_sparsity": sparsity,
        "sparsity_ok": True,
        "top1": 90 - 5 * sparsity + noise + shift,
        "epochs": 10,
        "batch_size": 128,
        "precision": "fp32",
        "config_hash": same,
        "started": "2026-01-01T00:00:00Z",
        "command": command + " seed=" + pd.Series(seed).astype(str),
    }
    pd.DataFrame(columns).to_csv(path, index=False)


def write_folders(table: Path, results: Path) -> None:
    """A run folder for every row of a table."""
    with open(table, newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            folder = results / f"run{number}-{row['method']}-{row['run_id']}"
            folder.mkdir(parents=True)
            with open(folder / "summary.csv", "w", newline="") as summary:
                writer = csv.DictWriter(summary, row, lineterminator="\n")
                writer.writeheader()
                writer.writerow(row)


def measured(argv: list[str | Path]) -> tuple[float, float, float]:
    """Wall-clock seconds, CPU seconds, and peak resident MiB of a command in its own process."""
    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen([sys.executable, "-m", "sparsebench", *map(str, argv)], stdout=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 2**20


def main() -> None:
    """Write the tables, compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each table")
    parser.add_argument("--seeds", type=int, default=100, help="of each configuration")
    parser.add_argument("--folders", action="store_true", help="also read the rows from a run folder each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder, "old.csv"), Path(folder, "new.csv")
        for path, shift in ((old, 0.0), (new, 0.1)):
            # In a separate process: a child inherits its parent's memory at start in the accounting.
            writer = get_context("spawn").Process(
                target=write_table, args=(path, arguments.rows, arguments.seeds, shift)
            )
            writer.start()
            writer.join()
        size = old.stat().st_size / 2**20
        print(
            f"{arguments.rows:,} rows, {arguments.rows // arguments.seeds:,} configurations, {size:.0f} MiB per table"
        )
        cases = [("one table, to dense", [old]), ("two tables", [old, new])]
        if arguments.folders:
            write_folders(old, Path(folder, "runs"))
            cases.append(("run folders, to dense", [Path(folder, "runs")]))
        for name, paths in cases:
            seconds, processor, memory = measured(["compare", *paths, "--format", "csv"])
            print(f"{name:<22} {seconds:6.1f} s ({processor:.1f} s CPU)  {memory:7.0f} MiB peak")


if __name__ == "__main__":
    main()
