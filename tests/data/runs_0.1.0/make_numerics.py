"""Run folders of runs whose ids count what is numerics, or do not count ranks: ``make_numerics.py OUT.tar.xz``.

Like make.py, run with the code of the version whose folders are wanted first on the path.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from make import COMMAND, ENV, MLP, SMALL, plain

SHORT = [*MLP, *SMALL, "epochs=3", "dataset.train_samples=256", "results_dir=runs"]
RUNS = [
    ["prune=dpf", "channels_last=true"],
    ["prune=dense", "channels_last=true", "deterministic=true"],
    ["prune=lottery", "prune.rounds=2", "channels_last=true"],
]
TWO_RANKS = [word for word in [*SHORT, "prune=rigl", "device=ddp"] if word != "device=cpu"]
STOPPED = [*MLP, *SMALL, "prune=gmp", "channels_last=true", "epochs=12", "results_dir=stopped"]


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        for run in RUNS:
            subprocess.run([*COMMAND, "train", *SHORT, *run], check=True, env=ENV, cwd=place)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        subprocess.run([*torchrun, "-m", "sparsebench", "train", *TWO_RANKS], check=True, env=ENV, cwd=place)
        process = subprocess.Popen([*COMMAND, "train", *STOPPED], env=ENV, cwd=place)
        while process.poll() is None and not any(
            "epoch 2/" in log.read_text() for log in Path(place).glob("stopped/*/log.txt")
        ):
            time.sleep(0.005)
        process.terminate()
        assert process.wait() == 143, "it was finished before it could be stopped"
        with tarfile.open(out, "w:xz", preset=9) as archive:
            for path in sorted(Path(place).glob("*/*")):
                if path.is_dir() and not path.name.startswith("."):
                    (path / "log.txt").unlink()
                    archive.add(path, os.path.relpath(path, place), filter=plain)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
