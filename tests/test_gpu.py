"""What only a GPU can show; scripts/gpu_suite.sh runs these first."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import yaml
from hydra.utils import get_object

from sparsebench.cli import main
from sparsebench.clock import Clock
from sparsebench.files import read_csv
from sparsebench.paths import config_dir
from sparsebench.pruning.allocation import Global, lowest
from sparsebench.pruning.methods.dpf import DPF
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Cubic
from sparsebench.pruning.scores import Magnitude
from tests.support import ranks
from tests.support.oracle import OracleDPF
from tests.support.processes import DIGITS, PATIENCE, finish, kill_when, result
from tests.support.small import Net, data, step_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device"),
]
TINY = ("model=resnet", "model.depth=8", "epochs=3", "schedule.interval=4it", "device=cuda")


def test_the_same_masks_as_on_the_cpu_ties_included():
    scores = torch.randint(0, 50, (100_000,), generator=torch.Generator().manual_seed(0)).float()
    for count in (0, 1, 50_000, 99_999, 100_000):
        assert torch.equal(lowest(scores.cuda(), count).cpu(), lowest(scores, count))


def test_dpf_equals_its_oracle_on_the_gpu():
    schedule = Cubic(Clock(40), 0.8, end="0.75", interval="4it")
    torch.manual_seed(0)
    model = Net().cuda()
    torch.manual_seed(0)
    twin = Net().cuda()
    sgd = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
    optimizer, twin_optimizer = (torch.optim.SGD(m.parameters(), **sgd) for m in (model, twin))
    weights = MaskedParameters(
        {"conv1.weight": model.conv1.weight, "conv2.weight": model.conv2.weight}, optimizer
    )
    pruner, oracle = DPF(weights, schedule, Global(), Magnitude()), OracleDPF([twin.conv1, twin.conv2])
    twin_optimizer = torch.optim.SGD(twin.parameters(), **sgd)
    torch.use_deterministic_algorithms(True)
    for step, (inputs, targets) in enumerate(data(40)):
        inputs, targets = inputs.cuda(), targets.cuda()
        step_of(model, optimizer, pruner, step, inputs, targets)
        if step % 4 == 0:
            oracle.update(schedule.sparsity(step))
        twin_optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(twin(inputs), targets).backward()
        twin_optimizer.step()
        for ours, theirs in zip((model.conv1.weight, model.conv2.weight), oracle.dense(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["dense", "gmp", "dpf", "ste"])
@pytest.mark.parametrize(
    "more", [(), ("precision=bf16", "channels_last=true"), ("precision=fp16",), ("compile=true",)]
)
def test_every_precision_reaches_the_target_exactly(tmp_path, method, more):
    assert main(["train", *TINY, *more, f"prune={method}", f"results_dir={tmp_path}"]) == 0


def test_a_deterministic_run_is_the_same_twice(tmp_path):
    models = []
    for name in ("a", "b"):
        assert main(["train", *TINY, "deterministic=true", f"results_dir={tmp_path / name}"]) == 0
        models.append(next((tmp_path / name).glob("*/model.safetensors")).read_bytes())
    assert models[0] == models[1]


@contextmanager
def refusing_to_wait() -> Iterator[None]:
    """Inside, what makes the host wait for the device is an error."""
    try:
        with warnings.catch_warnings():  # PyTorch warns that this mode is a prototype
            warnings.simplefilter("ignore", UserWarning)
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_wait_for_the_device_is_noticed():
    place = torch.zeros((), dtype=torch.int64, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"), refusing_to_wait():
        torch.ones(3, device="cuda")[place] = 0.0


@pytest.mark.parametrize("graphs", ["true", "false"])
@pytest.mark.parametrize(
    "method", ["dense", "gmp", "dpf", "set", "rigl", "itop", "granet", "mest", "topkast", "snip"]
)
def test_the_training_step_never_waits_for_the_device(hydra_config, method, graphs):
    from sparsebench.runs.build import build_run
    from tests.support.training import SMALL, Quiet, Unsaved, runner_of

    own = [word for word in SMALL[:-1] if method not in ("set",) or "interval" not in word]
    cfg, _ = hydra_config(*own, "device=cuda", f"device.graphs={graphs}", f"prune={method}", "batch_size=15")
    made = build_run(cfg)
    runner = runner_of(made, lambda split: iter(()), Unsaved())
    runner.progress = Quiet()
    steps = runner.advance()
    for _ in range(8):  # ordinary steps, and the recording, which waits once
        next(steps)
    with refusing_to_wait():
        for _ in range(20):  # epochs of 10 steps, mask updates at every 4th
            next(steps)
    assert graphs == "false" or runner.recorder.replayed > 5


STEPS = {
    "sgd": (),
    "adamw": ("optimizer=adamw",),
    "ema": ("ema=0.9",),
    "clipping": ("clip_norm=0.5",),
    "accumulate": ("accumulate=2",),
    "mixup": ("mixup=0.4",),
    "bf16": ("precision=bf16", "channels_last=true"),
    "dropout": ("model=wide_resnet", "model.depth=10", "model.width=1", "model.dropout=0.3"),
}


@pytest.mark.parametrize(
    ("method", "more"),
    [
        *(
            (method, "sgd")
            for method in ("dense", "gmp", "dpf", "rigl", "snip", "topkast", "continuous_sparsification")
        ),
        *(("dpf", more) for more in STEPS if more != "sgd"),
    ],
)
def test_replayed_steps_train_the_same_network_to_the_bit(tmp_path, method, more):
    tiny = [word for word in TINY if more != "dropout" or not word.startswith("model")]
    found = {}
    for graphs in ("true", "false"):
        folder = tmp_path / graphs
        argv = [*tiny, *STEPS[more], f"prune={method}", "deterministic=true", f"device.graphs={graphs}"]
        assert main(["train", *argv, f"results_dir={folder}"]) == 0
        found[graphs] = [path.read_bytes() for path in sorted(folder.glob("*/model.safetensors"))]
        replayed = [int(read_csv(path)[0]["replayed_steps"]) for path in folder.glob("*/summary.csv")]
        assert all(number > 0 for number in replayed) == (graphs == "true")
    assert found["true"] == found["false"]


def test_a_run_of_replayed_steps_that_is_killed_resumes_to_the_bit(tmp_path):
    argv = (*DIGITS, "prune=dpf", "device=cuda", "deterministic=true", "device.graphs=true")
    finish(tmp_path / "uninterrupted", *argv)
    kill_when(
        tmp_path / "broken", argv, lambda folder: (folder / "checkpoint.previous.pt").exists(), delay=0.0
    )
    finish(tmp_path / "broken", *argv)
    ours, theirs = (result(tmp_path / name) for name in ("broken", "uninterrupted"))
    for each in (ours, theirs):
        each["summary"].pop("replayed_steps", None)
    assert ours == theirs


def test_packed_runs_end_as_each_does_alone(tmp_path):
    argv = [*TINY, "deterministic=true", "prune=dense,dpf,rigl", "seed=0,1"]
    for launcher in (["launcher=packed", "launcher.runs=4"], []):
        assert main(["sweep", *launcher, *argv, f"results_dir={tmp_path / str(len(launcher))}"]) == 0
    packed, alone = (
        {path.parent.name: path.read_bytes() for path in (tmp_path / name).glob("*/model.safetensors")}
        for name in ("2", "0")
    )
    assert packed == alone and len(alone) == 6


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="PyTorch sees fewer than two CUDA devices")
def test_two_gpus_prune_as_one_does(tmp_path):
    from tests.support.ranks import DPF, MLP, NORM_TOLERANCE, RESNET, runs, weights

    jobs = {
        "mlp": ([*MLP, *DPF, "device=ddp"], [*MLP, *DPF]),
        "joint": (
            [*RESNET, "batch_size=31", "device=ddp", "sync_bn=true"],
            [*RESNET, "batch_size=31"],
        ),
    }
    two = [[*argv, f"results_dir={tmp_path / name / 'two'}"] for name, (argv, _) in jobs.items()]
    assert [statuses for statuses, *_ in ranks.run(tmp_path, two)] == [[0, 0]] * 2
    for name, (_, argv) in jobs.items():
        assert main(["train", *argv, "device=cuda", f"results_dir={tmp_path / name / 'one'}"]) == 0
        ours, theirs = (weights(runs(tmp_path, name, who)[0]) for who in ("two", "one"))
        for key in theirs:
            assert torch.equal(ours[key] == 0, theirs[key] == 0)
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=NORM_TOLERANCE)


def test_two_ranks_on_one_gpu_are_refused(tmp_path):
    visible = {"CUDA_VISIBLE_DEVICES": "0"}
    processes = ranks.start(
        ["-m", "sparsebench", "train", "device=ddp", f"results_dir={tmp_path}"], 2, visible
    )
    ended = [(*process.communicate(timeout=PATIENCE), process.returncode) for process in processes]
    message = "sparsebench: error: device=ddp: expected one GPU per rank, but there are 2 ranks on 1 GPUs\n"
    assert ended == [("", message, 2), ("", "", 2)]


@pytest.mark.parametrize("name", ["overparam_prune", "overparam_prune_network", "deep_random_features"])
def test_a_theory_study_computes_on_the_gpu_what_it_computes_on_the_cpu(name):
    content = yaml.safe_load((config_dir() / f"theory/{name}.yaml").read_text())
    study = get_object(content.pop("_target_"))(**content)
    for point in (study.points()[0], study.points()[-1]):
        here, there = (study.rows(point, torch.device(device)) for device in ("cpu", "cuda"))
        for table, rows in here.items():
            for row, other in zip(rows, there[table], strict=True):
                numbers = {key: value for key, value in row.items() if isinstance(value, float)}
                assert {key: other[key] for key in numbers} == pytest.approx(
                    numbers, rel=1e-5, nan_ok=True
                ), table
