"""Run folders of every method, of one run that was stopped, and of that one unbroken: ``make_archive.py OUT.tar.xz``.

Run with the code of the version whose folders are wanted first on the path.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

SMALL = ["sparsity=0.8", "seed=0", "batch_size=16", "device=cpu"]
MLP = ["model=mlp", "model.hidden=[16,12]"]
RESNET = ["model=resnet", "model.depth=8", "model.width=2", "prune=sbp_sr"]
"""For the method that is for residual networks alone."""
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
COMMAND = [sys.executable, "-m", "sparsebench"]


def main(out: Path) -> None:
    import sparsebench

    conf = Path(sparsebench.__file__).parent.parent / "conf"
    methods = ",".join(sorted(path.stem for path in (conf / "prune").glob("*.yaml") if path.stem != "sbp_sr"))
    with tempfile.TemporaryDirectory() as place:
        words = [*SMALL, "epochs=3", "dataset.train_samples=256", "results_dir=runs"]
        subprocess.run([*COMMAND, "sweep", *MLP, f"prune={methods}", *words], check=True, env=ENV, cwd=place)
        subprocess.run([*COMMAND, "train", *RESNET, *words], check=True, env=ENV, cwd=place)
        long = [*MLP, *SMALL, "prune=dpf", "epochs=12", "results_dir=stopped"]
        process = subprocess.Popen([*COMMAND, "train", *long], env=ENV, cwd=place)
        while process.poll() is None and not any(
            "epoch 2/" in log.read_text() for log in Path(place).glob("stopped/*/log.txt")
        ):
            time.sleep(0.005)
        process.terminate()
        assert process.wait() == 143, "it was finished before it could be stopped"
        with tarfile.open(out, "w:xz", preset=9) as archive:
            for folder in ("runs", "stopped"):
                for path in sorted(Path(place, folder).glob("*")):
                    shutil.rmtree(path / ".leases", ignore_errors=True)
                    if path.is_dir() and not path.name.startswith("."):
                        (path / "log.txt").unlink()
                        archive.add(path, f"{folder}/{path.name}", filter=plain)


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
