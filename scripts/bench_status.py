"""Time of `status`, `compare`, `sweep --dry-run` and a claim in a folder of many synthetic runs, one file each."""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sparsebench.files import read_csv
from sparsebench.records import schema
from sparsebench.records.lease import FOLDER, Lease
from sparsebench.records.states import write_plan

METHODS = ("dpf", "gmp", "rigl", "set", "snip", "grasp", "synflow", "ste", "topkast", "dsr")
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)


def make(results: Path, runs: int) -> None:
    """Create finished runs, except 1 in 100, which is interrupted; 10 have a lease; a plan lists them all."""
    (template,) = read_csv(one_run(results / ".one") / schema.SUMMARY)
    texts = {
        name: (results / ".one" / "run" / name).read_bytes()
        for name in (schema.METRICS, schema.LAYERS, schema.CONFIG, schema.PROVENANCE, schema.LOG)
    }
    plan = []
    for number in range(runs):
        method, rest = METHODS[number % len(METHODS)], number // len(METHODS)
        sparsity, seed = SPARSITIES[rest % len(SPARSITIES)], rest // len(SPARSITIES)
        run_id = f"{number:010x}"
        folder = results / f"digits-mlp-{method}-s{sparsity}-seed{seed}-{run_id}"
        folder.mkdir()
        for name, content in texts.items():
            (folder / name).write_bytes(content)
        (folder / schema.MODEL).write_bytes(b"")
        argv = f"prune={method} sparsity={sparsity} seed={seed}"
        plan.append((run_id, argv, True))
        if number % 100 == 99:
            continue
        row = {
            **template,
            "run_id": run_id,
            "config_hash": f"{number % 50:010x}",
            "method": method,
            "seed": seed,
            "target_sparsity": sparsity,
            "sparsity": sparsity,
            "command": f"sparsebench train {argv}",
            "top1": 90 + number % 7 - sparsity,
        }
        with open(folder / schema.SUMMARY, "w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)
    write_plan(results / ".sweeps" / "one", plan)


def one_run(folder: Path) -> Path:
    argv = ["train", "model=mlp", "epochs=1", "device=cpu", f"results_dir={folder}"]
    subprocess.run([sys.executable, "-m", "sparsebench", *argv], check=True, capture_output=True)
    (made,) = folder.glob("*-*")
    made.rename(folder / "run")
    return folder / "run"


def timed(*argv: str) -> tuple[float, float]:
    """(seconds, CPU seconds) of a whole command."""
    before, started = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "sparsebench", *argv], check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="folder to create them in, which is kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = given.keep or Path(temporary) / "results"
        results.mkdir(parents=True)
        make(results, given.runs)
        files = sum(len(names) for _, _, names in os.walk(results))
        leases = [
            Lease.claim(results / FOLDER, f"{99 + 100 * number:010x}")
            for number in range(min(10, given.runs // 100))
        ]
        print(json.dumps({"runs": given.runs, "files": files}))
        for argv in (["status"], ["status", "--all"], ["compare"], ["list", "methods"]):
            where = [] if argv[0] == "list" else [str(results)]
            seconds, used = timed(argv[0], *where, *argv[1:])
            print(f"{' '.join(argv):<14} {seconds:6.2f} s, {used:6.2f} s CPU", flush=True)
        started = time.perf_counter()
        Lease.claim(results / FOLDER, "another").release()
        print(f"a claim        {(time.perf_counter() - started) * 1000:6.2f} ms")
        for lease in leases:
            lease.release()


if __name__ == "__main__":
    main()
