"""``device=ddp``: two real ranks over gloo against one process, and ranks that are killed."""

from __future__ import annotations

import shutil
import signal

import pytest
import torch

from sparsebench.cli import main
from sparsebench.config.build import build
from sparsebench.config.open import compose_config
from sparsebench.data.batching import rank_slice
from sparsebench.data.loader import TrainLoader, batches
from sparsebench.distributed.rank_env import RankInfo, first_host, rank_info_from_env, should_report_error
from sparsebench.errors import RunError, SettingError
from sparsebench.files import read_csv
from sparsebench.records.schema import MEASURED_COLUMNS
from sparsebench.runs.build import build_run
from sparsebench.training.checkpoint import Checkpoint
from tests.support import ranks
from tests.support.configs import options
from tests.support.processes import PATIENCE, until
from tests.support.ranks import DPF, MLP, NORM_TOLERANCE, RESNET, SHORT, TOLERANCE, runs, weights

KINDS = ("dpf", "lottery", "rigl", "snip", "str")
"""A method of every kind, for CI; all of them in the nightly tests."""
METHODS = [n if n in KINDS else pytest.param(n, marks=pytest.mark.nightly) for n in options("prune")]


def short(method: str, network: tuple[str, ...] = MLP):
    """(config, choices) of a short run of a method: its default settings, as far as they fit into 18 steps."""
    cfg, choices = compose_config(["device=ddp", *network, f"prune={method}"])
    if "interval" in cfg.schedule:
        cfg.schedule.interval = "4it"
    if cfg.prune.get("rounds", 1) is None:
        cfg.prune.rounds = 2
    for name, early in {"retrain": "0.75", "rewind": "3it"}.items():
        if name in cfg.prune:
            cfg.prune[name] = early
    try:
        build_run(cfg)
    except SettingError:  # a method for residual networks
        assert network is MLP
        joint = ("batch_size=31", "sync_bn=true")
        return short(method, (*SHORT, "model=resnet", "model.depth=8", "model.width=4", *joint))
    return cfg, choices


# name -> (words of two ranks, words of one process that has to give the same)
SAME = {
    "joint_batch_norm": ((*RESNET, "batch_size=31", "sync_bn=true"), (*RESNET, "batch_size=31")),
    "own_batch_norm": ((*RESNET, "batch_size=64"), (*RESNET, "batch_size=64", "accumulate=2")),
    "accumulated": ((*MLP, *DPF, "accumulate=3"), (*MLP, *DPF)),
    "clipped_adamw": ((*MLP, "prune=rigl", "clip_norm=0.1", "optimizer=adamw"),) * 2,
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A folder with the results of two ranks and of one process, for :data:`SAME`."""
    jobs = {n: [compose_config(["device=ddp", *argv]) for argv in pair] for n, pair in SAME.items()}
    return both(tmp_path_factory.mktemp("same"), jobs)


@pytest.fixture(scope="module")
def methods(tmp_path_factory, request):
    """The same for every method that is asked for."""
    asked = [item for item in request.session.items if item.name.startswith("test_two_ranks_prune_as_one")]
    names = [item.callspec.params["method"] for item in asked]
    return both(tmp_path_factory.mktemp("methods"), {name: [short(name)] * 2 for name in names})


def both(folder, jobs):
    two = [ranks.job(*pair[0], folder / name / "two") for name, pair in jobs.items()]
    assert [statuses for statuses, *_ in ranks.run(folder, two)] == [[0] * len(two)] * 2
    for name, pair in jobs.items():
        assert ranks.train(ranks.job(*pair[1], folder / name / "one")) == 0
    return folder


def assert_same(one, two):
    ours, theirs = weights(two), weights(one)
    tolerance = NORM_TOLERANCE if "resnet" in one.name else TOLERANCE
    for name in theirs:
        assert torch.equal(ours[name] == 0, theirs[name] == 0), name  # masks, to the bit
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=tolerance)
    assert (two / "layers.csv").read_bytes() == (one / "layers.csv").read_bytes()
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


def assert_same_numbers(one, two):
    own = {*MEASURED_COLUMNS, "device", "run_id", "config_hash", "numerics", "weights_hash"}
    if "-training" in two.name and "-training0-" not in two.name:
        own.add("init_hash")  # it starts from what the one before it has computed
    for file in ("summary.csv", "metrics.csv"):
        for ours, theirs in zip(read_csv(two / file), read_csv(one / file), strict=True):
            assert ours.keys() == theirs.keys()
            for column in ours.keys() - own:
                if ours[column] != theirs[column]:
                    assert float(ours[column]) == pytest.approx(float(theirs[column]), rel=1e-4), column


def label(path):
    """The name of a run folder without the id, of which the number of ranks is a part."""
    return path.name.rpartition("-")[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_prune_as_one_process_does(methods, method):
    one, two = runs(methods, method, "one"), runs(methods, method, "two")
    assert [label(path) for path in one] == [label(path) for path in two] != []
    for ours, theirs in zip(two, one, strict=True):
        assert_same(theirs, ours)
        assert_same_numbers(theirs, ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_two_ranks_train_as_one_process_does(compared, name):
    (one,), (two,) = runs(compared, name, "one"), runs(compared, name, "two")
    assert_same(one, two)
    if name != "own_batch_norm":  # whose batch statistics are those of the first rank
        assert_same_numbers(one, two)


CRASHED = (*MLP, *DPF, "epochs=60", "save_every=7it", "device=ddp", "sync_bn=true")


def interrupted(results, how, timeout):
    """Two ranks of which the second is sent a signal after two checkpoints: status, output and errors of the first."""
    first, second = processes = ranks.start(
        ["-m", "sparsebench", "train", *CRASHED, f"device.timeout={timeout}", f"results_dir={results}"], 2
    )
    try:
        ended = lambda: {first.poll(), second.poll()} != {None}  # noqa: E731
        until(lambda: ended() or list(results.glob("*/checkpoint.previous.pt")), "two checkpoints")
        assert not ended()
        second.send_signal(how)
        output, errors = first.communicate(timeout=PATIENCE)
        return first.returncode, output, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def final(results):
    (folder,) = (path for path in results.glob("*-*") if path.is_dir())
    metrics = [
        {k: v for k, v in row.items() if k not in MEASURED_COLUMNS}
        for row in read_csv(folder / "metrics.csv")
    ]
    return (folder / "model.safetensors").read_bytes(), (folder / "layers.csv").read_bytes(), metrics


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_any_number_of_ranks_resumes(tmp_path):
    status, output, errors = interrupted(tmp_path / "two", signal.SIGKILL, timeout=60)
    (line,) = (line for line in errors.splitlines() if "epoch" not in line)
    assert status == 1 and "2 x cpu" in output
    assert line.startswith("sparsebench: error: rank 0 lost another rank at step ")
    assert line.endswith("; the same command resumes from the last checkpoint")
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    jobs = [[*CRASHED, f"results_dir={tmp_path / name}"] for name in ("two", "uninterrupted")]
    assert [statuses for statuses, *_ in ranks.run(tmp_path, jobs)] == [[0, 0]] * 2
    assert final(tmp_path / "two") == final(tmp_path / "uninterrupted")
    assert (
        main(["train", *CRASHED, f"results_dir={tmp_path / 'one'}"]) == 0
    )  # not to the bit, and as exactly sparse
    (row,) = read_csv(next((tmp_path / "one").glob("*/summary.csv")))
    assert row["sparsity_ok"] == "True" and row["device"] == "cpu"
    assert " ranks=1 " in row["numerics"] and int(row["numerics_changed_at"]) > 0


@pytest.mark.slow
@pytest.mark.nightly
def test_a_rank_that_stands_still_is_given_up_after_the_timeout(tmp_path):
    status, _, errors = interrupted(tmp_path, signal.SIGSTOP, timeout=5)
    assert status == 1 and "sparsebench: error: rank 0 lost another rank at step " in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_signal_to_one_rank_saves_and_stops_all_at_the_same_step(tmp_path):
    status, _, errors = interrupted(tmp_path, signal.SIGUSR1, timeout=60)
    said = [line for line in errors.splitlines() if "sparsebench: error:" in line]
    assert status == 75 and said == [
        "sparsebench: error: stopped by SIGUSR1; the same command resumes from there"
    ]
    (folder,) = tmp_path.glob("*-*")
    (stopped,) = [line for line in (folder / "log.txt").read_text().splitlines() if "stopped by" in line]
    step = int(stopped.split("step ")[1].split(":")[0])
    state = Checkpoint(folder, print).load()
    assert state["step"] == step and step % 16 == 0 and not list(tmp_path.glob(".state/*"))


@pytest.mark.slow
def test_every_rank_ends_alike_and_only_the_first_one_speaks(tmp_path):
    (tmp_path / "file").write_text("")
    used = [word for word in MLP if not word.startswith("ramp_end")]
    run = (*used, "prune=dense", "device=ddp", f"results_dir={tmp_path / 'runs'}")
    jobs = [
        (*run, "epochs=0"), (*run, "batch_size=3"), (*run, "prune=dpff"), (*run, "device.timeout=0"),
        (*run[:-1], f"results_dir={tmp_path / 'file' / 'in_it'}"), (*run[:-2], "device=cpu", run[-1]), run, run,
    ]  # fmt: skip
    (first, output, errors), (second, *silent) = ranks.run(tmp_path, jobs)
    assert first == second == [2, 2, 2, 2, 2, 2, 0, 0]
    assert silent == ["", ""]
    said = [line for line in errors.splitlines() if line.startswith("sparsebench: error: ")]
    for line, what in zip(
        said,
        ("epochs=0", "batch_size=3", "prune=dpff", "device.timeout=0", "results_dir", "device=cpu"),
        strict=True,
    ):
        assert line.startswith(f"sparsebench: error: {what}")
    assert "at least 4, two images for each of 2 ranks" in errors and "Traceback" not in errors
    assert "torchrun started 2 processes, and each would do the same run" in errors
    assert output.count("already finished") == 1 and output.count("test top1") == 1


AGREEING = """
import torch
from sparsebench.distributed.ddp import DDP
from sparsebench.errors import RunError, SettingError, origin

device = DDP("cpu", timeout=60.0)
other = DDP("cpu", timeout=60.0)  # a process joins once

def ends(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__, origin(error), str(error)

def on(rank, error):
    if device.rank == rank:
        raise error
    return device.rank

assert device.broadcast_from_main(lambda: device.rank) == 0
assert device.run_on_all_ranks(lambda: device.rank) == device.rank
assert device.all_gather(device.rank) == [0, 1] and device.main_rank_first(lambda: "data") == "data"
assert ends(lambda: device.broadcast_from_main(lambda: on(0, OSError(28, "No space left", "x")))) == (
    "OSError", 0, "[Errno 28] No space left: 'x'")
assert ends(lambda: device.run_on_all_ranks(lambda: on(1, SettingError("data_root", "y", "a folder")))) == (
    "SettingError", 1, "data_root=y: expected a folder")
assert ends(lambda: device.main_rank_first(lambda: on(1, KeyError("bug"))))[1] == 1
device.check_equal_on_all_ranks(lambda: "same", "masks", 3)
assert ends(lambda: device.check_equal_on_all_ranks(lambda: str(device.rank), "masks", 40)) == (
    "RunError", 0, "at step 40 the masks of rank 1 differ from those of rank 0")
assert device.all_reduce_max((10 * device.rank, 0), 32) == [10, 0] and device.all_reduce_max((5, 1), 33) == [0, 0]
assert device.sum(torch.tensor([1.0, device.rank])).tolist() == [2.0, 1.0]

def random(states, seed=5):
    device.resume(states, seed, 7)
    return device.all_gather(torch.rand(1).item())

model = torch.nn.Linear(3, 2)
class Method:
    def state_dict(self): return {"rank": device.rank}
    def load_state_dict(self, state): assert state == {"rank": 0}
device.broadcast_initial_state(Method(), model, 5)
assert len(set(device.all_gather(str(model.weight.tolist())))) == 1
states = device.all_gather(device.state_dict())
one, two = random(states)
assert one != two and random(states) == [one, two]  # their own again, to the bit
assert random(states[:1])[0] == one and random(states[:1])[1] not in (one, two)  # two go on after one
print("agreed")
"""


@pytest.mark.slow
def test_ranks_agree_on_values_errors_masks_and_random_numbers():
    ended = [
        (*process.communicate(timeout=PATIENCE), process.returncode)
        for process in ranks.start(["-c", AGREEING], 2)
    ]
    assert ended == [("agreed\n", "", 0)] * 2


@pytest.mark.parametrize(("count", "members"), [(7, 2), (5, 4), (2, 4), (1, 3), (128, 3), (64, 1)])
def test_the_shares_of_a_batch_are_the_batch(count, members):
    parts = [range(count)[rank_slice(count, rank, members)] for rank in range(members)]
    assert [sample for part in parts for sample in part] == list(range(count))
    sizes = [len(part) for part in parts if len(part)]
    assert max(sizes) - min(sizes) <= 1 and (min(sizes) >= 2 or count == 1)  # batch norm cannot train on one


def test_ranks_together_see_every_image_of_a_split_and_of_a_step_once():
    data = build(compose_config([])[0].dataset, "dataset", device=torch.device("cpu"))
    for members in (2, 3, 4):
        for split, whole in (("test", data.test), ("val", data.val)):
            seen = [batches(data, split, 50, rank=rank, world_size=members) for rank in range(members)]
            images = torch.cat([inputs for part in seen for inputs, _ in part])
            expected = torch.cat([inputs for inputs, _ in batches(data, split, 50)])
            assert len(images) == len(whole) == len(expected)
            assert torch.equal(images.flatten(1).unique(dim=0), expected.flatten(1).unique(dim=0))
        loader = TrainLoader(data, 100, seed=0)
        for step in (0, loader.steps_per_epoch - 1):  # the last one is smaller
            parts = [loader.batch(step, rank, members) for rank in range(members)]
            inputs, targets = (torch.cat(part) for part in zip(*parts, strict=True))
            assert torch.equal(inputs, loader.batch(step)[0]) and torch.equal(targets, loader.batch(step)[1])
            assert len(targets) == loader.size(step)


SLURM = {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "123", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
STEP = {**SLURM, "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": "gpu[07-08]"}  # fmt: skip
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}


def test_who_a_process_is_follows_from_torchrun_then_from_the_slurm_step():
    assert rank_info_from_env({}) == RankInfo()
    assert rank_info_from_env(TORCHRUN) == RankInfo(1, 2, 1, "torchrun", "a", 29500)
    assert rank_info_from_env(STEP) == RankInfo(5, 8, 1, "slurm", "gpu07", 12000 + 64 * 123 + 2)
    assert rank_info_from_env({**STEP, "SLURM_STEP_NUM_NODES": "1"}).address == "127.0.0.1"
    assert rank_info_from_env({**STEP, "MASTER_ADDR": "b", "MASTER_PORT": "9"}) == RankInfo(
        5, 8, 1, "slurm", "b", 9
    )
    assert rank_info_from_env({**STEP, **TORCHRUN}).launcher == "torchrun"  # torchrun as a Slurm task
    assert first_host("r[1-2]n[5,7],x[3-4]") == "r1n5" and first_host("node9") == "node9"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (SLURM, "device=ddp: expected srun in front of the command: this Slurm job has 8 tasks"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "device=ddp: expected MASTER_ADDR and MASTER_PORT"),
        ({**TORCHRUN, "RANK": "2"}, "RANK=2: expected a number from 0 to 1"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE=two: expected an integer"),
    ],
)
def test_a_launch_that_cannot_work_is_refused(environment, message):
    with pytest.raises(SettingError) as refused:
        rank_info_from_env(environment)
    assert str(refused.value).startswith(message)


def test_an_error_is_printed_where_it_arose_and_a_common_one_by_the_first_rank(monkeypatch):
    passed = RunError("lost")
    passed.rank = 1
    assert should_report_error(["device=ddp"], RunError("alone"))
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert should_report_error(["seed=5"], RunError("a run of this task alone"))
    assert not should_report_error(["device=ddp"], RunError("common"))
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert should_report_error([], passed) and not should_report_error([], RunError("common"))


def test_ddp_alone_is_a_plain_device(tmp_path):
    argv = (*MLP, *DPF)
    for device in ("cpu", "ddp"):
        assert main(["train", *argv, f"device={device}", f"results_dir={tmp_path / device}"]) == 0
    assert final(tmp_path / "cpu") == final(tmp_path / "ddp")
