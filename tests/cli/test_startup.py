"""What commands import before they answer, and a training before its first step; never how long that takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIBRARIES = "scipy pandas matplotlib torchvision sklearn PIL sympy torch._dynamo torch._inductor"
"""Each takes from a third of a second to several to import, and no training needs it before its first step."""

TO_THE_FIRST_STEP = """
import sys
from torch.optim.optimizer import register_optimizer_step_pre_hook

def first_step(*_):
    print("first step, imported:", *sorted(set(sys.argv[1].split()) & set(sys.modules)), flush=True)
    raise SystemExit(0)

register_optimizer_step_pre_hook(first_step)
from sparsebench.cli import main
main(["train", *sys.argv[2:]])
"""

TO_THE_END = """
import sys
from sparsebench.cli import main
status = main(sys.argv[2:])
print("imported:", *sorted(set(sys.argv[1].split()) & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""


def last_line(code, *argv, stream="stdout"):
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return getattr(done, stream).splitlines()[-1]


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_the_help_of_train_imports_no_pytorch(command):
    libraries = f"torch numpy tqdm {LIBRARIES}"
    assert last_line(TO_THE_END, libraries, command, "--help", stream="stderr") == "imported:"


@pytest.mark.parametrize("settings", [[], ["optimizer=adamw", "ema=0.99", "clip_norm=1.0", "prune=gmp"]])
def test_a_training_imports_only_what_it_needs_before_its_first_step(settings, tmp_path):
    argv = ("model=mlp", f"results_dir={tmp_path}", *settings)
    assert last_line(TO_THE_FIRST_STEP, LIBRARIES, *argv) == "first step, imported:"


def test_a_whole_training_never_imports_the_compiler(tmp_path):
    argv = ("train", "model=mlp", "epochs=1", f"results_dir={tmp_path}")
    assert last_line(TO_THE_END, "torch._dynamo", *argv, stream="stderr") == "imported:"


def test_a_sweep_starts_without_a_warning(tmp_path):
    argv = ["sweep", "prune=dense", "model=mlp", "--dry-run", f"results_dir={tmp_path}"]
    done = subprocess.run([sys.executable, "-m", "sparsebench", *argv], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
