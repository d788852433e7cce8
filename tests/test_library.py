"""The methods in a loop of one's own. The methods are found in conf/prune, not listed."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys

import pytest
import torch
from hydra import version
from torch import nn
from torch.nn.functional import cross_entropy

import sparsebench
from sparsebench.errors import RunError, SettingError
from sparsebench.pruning.allocation import zeros_for
from sparsebench.runs.build import build_run
from tests.support import ranks
from tests.support.configs import options, train_config
from tests.support.library import STEPS, Net, examples, setup, train
from tests.support.processes import PATIENCE

METHODS = options("prune")
SMALL = ("model=resnet", "model.depth=8", "model.width=4", "dataset.train_samples=300", "device=cpu")
SHORT = ("ramp_end=0.5", "schedule.interval=4it")


def settings_of(method, hydra_config):
    """The short schedule, as far as the method's has these settings."""
    default = hydra_config(f"prune={method}")[0]
    short = [word for word in SHORT if "interval" not in word or "interval" in default.schedule]
    return [*short, *(["prune.rounds=2"] if default.prune.get("rounds", 1) is None else [])]


def assert_equal(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.fixture
def fits(hydra_config):
    """(method) -> its short settings; methods that need the runner are refused, and the test ends well."""

    def ask(method):
        settings = settings_of(method, hydra_config)
        refused = None
        try:
            setup(method, settings)
        except SettingError as error:
            refused = str(error)
        if refused is not None:
            assert "leaves the learning rate to the loop" in refused
            pytest.skip("needs the runner, and says so")
        return settings

    return ask


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_of_ones_own_ends_in_the_bits_of_sparsebench_train(method, fits, hydra_config, tmp_path):
    from safetensors.torch import load_file

    settings = fits(method)
    argv = [*SMALL, *settings, "epochs=4", "eval_every=4ep", f"prune={method}"]
    cfg, choices = sparsebench.config.open.compose_config(argv)
    assert ranks.train(ranks.job(cfg, choices, tmp_path)) == 0
    cfg.prune = train_config("prune=dense")[0].prune  # a method may take hold of the optimiser
    made = build_run(cfg)
    steps, base = made.clock.total_steps, cfg.optimizer.lr
    pruner = sparsebench.pruner(
        method, made.model, made.optimizer, steps=steps, steps_per_epoch=made.clock.steps_per_epoch, settings=settings,
        batches=lambda: (made.data.batch(step) for step in range(steps)), criterion=cross_entropy,
    )  # fmt: skip
    for step in range(steps):
        for group in made.optimizer.param_groups:
            group["lr"] = base * made.lr_schedule.factor(step)
        inputs, targets = made.data.batch(step)
        made.optimizer.zero_grad()
        with pruner.training_step():
            cross_entropy(made.model(inputs), targets).backward()
            if pruner.ready():
                made.optimizer.step()
    before_the_end = pruner.sparse_state_dict()
    pruner.finish()
    ours = made.model.state_dict()
    assert_equal(dict(before_the_end), dict(ours))
    assert_equal(load_file(next(tmp_path.glob("*/model.safetensors"))), dict(ours))


def broken_and_resumed(stop, *arguments, **more):
    """A loop that was killed before the step ``stop``, and went on in a new process."""
    broken = setup(*arguments)
    train(*broken, stop=stop)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in broken], file)
    file.seek(0)
    resumed = setup(*arguments, **more)
    for part, state in zip(resumed, torch.load(file), strict=True):
        part.load_state_dict(state)
    train(*resumed, start=stop)
    return resumed


def assert_same_loop(one, other):
    assert_equal(one[0].state_dict(), other[0].state_dict())
    assert one[2].fingerprint() == other[2].fingerprint()
    assert one[2].summary() == other[2].summary()


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_equals_uninterrupted_bitwise(method, fits):
    settings = fits(method)
    uninterrupted = setup(method, settings)
    train(*uninterrupted)
    assert_same_loop(
        broken_and_resumed(14, method, settings, seed=5), uninterrupted
    )  # random state is in the checkpoint


def test_a_kill_before_the_first_step_or_at_a_mask_update_is_no_different():
    uninterrupted = setup("rigl")
    train(*uninterrupted)
    for stop in (0, 16):
        assert_same_loop(broken_and_resumed(stop, "rigl"), uninterrupted)


@pytest.mark.parametrize("method", METHODS)
def test_looking_changes_nothing(method, fits):
    model, optimizer, pruner = setup(method, fits(method))
    train(model, optimizer, pruner, stop=18)
    before = copy.deepcopy((model.state_dict(), pruner.state_dict()["method"]))
    sparse = pruner.sparse_state_dict()
    with pruner.evaluating():
        for name, mask in pruner.masks.items():
            torch.testing.assert_close(model.state_dict()[name], sparse[name], rtol=0, atol=0)
            assert (sparse[name][~mask] == 0).all()
    json.dumps(pruner.summary())
    after = (model.state_dict(), pruner.state_dict()["method"])
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_the_summary_counts():
    model, optimizer, pruner = setup("dpf", sparsity=0.8)
    assert (pruner.summary()["sparsity"], pruner.summary()["scheduled_sparsity"]) == (0, 0)
    train(model, optimizer, pruner, stop=13)
    said = pruner.summary()
    zeros = {name: int((~mask).sum()) for name, mask in pruner.masks.items()}
    assert set(zeros) == {"conv.weight", "fc.weight"}
    assert {name: layer["zeros"] for name, layer in said["layers"].items()} == zeros
    assert said["zeros"] == sum(zeros.values()) == zeros_for(said["scheduled_sparsity"], said["prunable"])
    assert 0 < said["scheduled_sparsity"] < said["target_sparsity"] == 0.8
    assert (said["method"], said["step"], said["steps"]) == ("dpf", 13, STEPS)
    assert (
        0 < said["pruning_error"] == pruner.pruning_error < 1 and said["explored"] == pruner.exploration_rate
    )
    train(model, optimizer, pruner, start=13)
    pruner.finish()
    pruner.finish()  # a second time does nothing
    zeros = sum(int((p == 0).sum()) for p in (model.conv.weight, model.fc.weight))
    assert zeros == pruner.summary()["zeros"] == zeros_for(0.8, said["prunable"])
    assert pruner.pruning_error == 0


@pytest.mark.parametrize("method", ["dpf", "gmp", "rigl", "set"])
def test_a_scaled_loss_gives_the_same_bits(method):
    plain, scaled = setup(method), setup(method)
    train(*plain)
    train(
        *scaled, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=7)
    )  # exact in binary
    assert_equal(scaled[0].state_dict(), plain[0].state_dict())
    assert scaled[2].fingerprint() == plain[2].fingerprint()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["dpf", "gmp", "rigl"])
def test_mixed_precision_reaches_the_exact_sparsity_even_where_gradients_overflow(method, precision):
    model, optimizer, pruner = setup(method)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24) if precision == "float16" else None

    def call(inputs):
        with torch.autocast("cpu", dtype=getattr(torch, precision)):
            return model(inputs)

    train(model, optimizer, pruner, call=call, scaler=scaler)
    assert (
        scaler is None or scaler.get_scale() < 2.0**24
    )  # steps were skipped, the first mask update's among them
    pruner.finish()
    assert pruner.summary()["zeros"] == zeros_for(0.9, pruner.summary()["prunable"])
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("method", ["dpf", "gmp", "rigl"])
def test_an_accumulated_batch_is_the_batch(method):
    whole, parted = (setup(method, dtype=torch.float64) for _ in range(2))
    train(*whole, dtype=torch.float64)
    train(*parted, parts=4, dtype=torch.float64)
    assert_equal(parted[0].state_dict(), whole[0].state_dict(), rtol=1e-9, atol=1e-12)
    assert parted[2].fingerprint() == whole[2].fingerprint()


@pytest.mark.parametrize("method", ["dpf", "gmp", "rigl"])
def test_a_compiled_model_is_one_graph_that_masks_never_recompile(method):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = setup(method)
    train(*plain)
    compiled = {}

    def wrap(model):
        compiled["model"] = torch.compile(model, backend="aot_eager", fullgraph=True)
        return compiled["model"]

    ours = setup(method, wrap=wrap)
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(*ours, call=compiled["model"])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert set(ours[2].masks) == {"conv.weight", "fc.weight"}
    assert_equal(ours[0].state_dict(), plain[0].state_dict())


RANKS = """
import json, sys
import torch
from torch.nn.parallel import DistributedDataParallel
from tests.support.library import STEPS, cross_entropy, examples, setup, train

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
for method in sys.argv[3:]:
    wrapped = {}
    def wrap(model):
        wrapped["model"] = DistributedDataParallel(model)
        if method == "snip":
            wrapped["model"] = torch.compile(wrapped["model"], backend="eager")
        return wrapped["model"]
    own = lambda: ((i[rank::2], t[rank::2]) for i, t in examples(dtype=torch.float64))
    model, optimizer, pruner = setup(method, dtype=torch.float64, wrap=wrap, batches=own)
    def call(inputs):
        return wrapped["model"](inputs)
    prints = []
    for step, (inputs, targets) in enumerate(own()):
        optimizer.zero_grad()
        with pruner.training_step():
            cross_entropy(call(inputs), targets).backward()
            if pruner.ready():
                optimizer.step()
        prints.append(pruner.fingerprint())
    torch.save({"prints": prints, "model": model.state_dict()}, f"{folder}/{method}{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_have_equal_masks_and_train_as_one_process_on_the_joined_batch(tmp_path):
    methods = ["dpf", "gmp", "rigl", "random", "snip"]
    command = [sys.executable, "-c", RANKS]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path), *methods], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=PATIENCE)[1].decode() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    for method in methods:
        one, two = (torch.load(tmp_path / f"{method}{rank}.pt") for rank in range(2))
        assert one["prints"] == two["prints"]
        assert_equal(one["model"], two["model"])
        if (
            method == "snip"
        ):  # compiled around the wrapper; one process scores on the joined batch, the ranks on the first one's
            continue
        alone = setup(method, dtype=torch.float64)
        train(*alone, dtype=torch.float64)
        assert alone[2].fingerprint() == one["prints"][-1]
        assert_equal(one["model"], alone[0].state_dict(), rtol=1e-8, atol=1e-11)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, sparsebench; assert 'pruner' in dir(sparsebench); "
        "heavy = {'torch', 'pandas', 'hydra', 'numpy', 'sklearn', 'omegaconf'}; assert not heavy & set(sys.modules); "
        "sparsebench.pruner; assert 'torch' in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        sparsebench.prune  # noqa: B018


def test_another_hydra_application_stays_as_it_was(tmp_path):
    from hydra import compose, initialize_config_dir

    (tmp_path / "mine.yaml").write_text("lr: 3\n")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        base = version.getbase()
        setup("dpf")
        with pytest.raises(SettingError, match=r"did you mean 'schedule\.sparsity'"):
            setup("dpf", settings={"schedule.sparsty": 0.5})
        assert version.getbase() == base
        assert compose("mine").lr == 3


BAD = [
    ({"method": "dpff"}, r"^prune=dpff: .*did you mean 'dpf'"),
    ({"sparsity": 1.5}, r"^sparsity=1.5: expected a number in"),
    ({"steps": 0}, r"^total_steps=0"),
    ({"settings": {"schedule.interval": 0}}, r"^schedule.interval=0: expected a time, above 0"),
    ({"settings": {"schedule.intervall": 4}}, r"^schedule.intervall"),
    ({"settings": {"schedule": "cubik"}}, r"^schedule=cubik: .*did you mean 'cubic'"),
    ({"settings": {"epochs": 3}}, r"^epochs: expected a setting of pruning"),
    ({"settings": ["prune=gmp"]}, r"^prune: expected a setting of pruning"),
    (
        {"settings": ["schedule.interval=1ep"], "steps_per_epoch": None},
        r"^steps_per_epoch: .*interval=1ep is a time in",
    ),
    ({"prunable": ["fc.wait"]}, r"^prunable=fc.wait: .*did you mean 'fc.weight'"),
    ({"prunable": []}, r"^prunable: expected at least one"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_settings_are_named_as_on_the_command_line(change, message):
    with pytest.raises(SettingError, match=message):
        setup(**{"method": "dpf", **change})


@pytest.mark.parametrize(
    ("method", "missing"), [("snip", "batches"), ("snip", "criterion"), ("synflow", "batches")]
)
def test_a_method_that_looks_at_data_says_what_is_missing(method, missing):
    *loop, pruner = setup(method, settings=(), **{missing: None})
    with pytest.raises(
        SettingError, match=rf"^{missing}: .*prune={method} looks at data before the first step"
    ):
        train(*loop, pruner)


def test_settings_mean_the_same_as_words_and_as_a_mapping():
    argv = ["allocation=erk", "schedule.interval=3it", "prunable.last_fc=true", "schedule.stop=null"]
    mapping = {
        "allocation": "erk",
        "schedule.interval": "3it",
        "prunable.last_fc": True,
        "schedule.stop": None,
    }
    prints = []
    for settings in (argv, mapping):
        loop = setup("dpf", settings)
        train(*loop)
        prints.append(loop[2].fingerprint())
    assert prints[0] == prints[1] and "out.weight" in loop[2].masks
    assert set(setup("dpf", prunable=["out.weight", "conv.weight"])[2].masks) == {"conv.weight", "out.weight"}


def test_what_masks_cannot_be_written_into_is_refused():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    tied[1].weight = tied[0].weight
    computed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    for model, message in ((tied, "also 0.weight"), (computed, "computed from others")):
        with pytest.raises(SettingError, match=message):
            sparsebench.pruner("dpf", model, torch.optim.SGD(model.parameters()), steps=4)


def test_autocast_around_the_whole_step_is_refused():
    pruner = setup("dpf")[2]
    around = torch.autocast("cpu", dtype=torch.bfloat16)
    with around, pytest.raises(RuntimeError, match="around the forward alone"), pruner.training_step():
        pass
    with around, pytest.raises(RuntimeError, match="around the forward alone"), pruner.evaluating():
        pass


def test_a_step_that_breaks_leaves_dense_weights_and_does_not_count():
    model, optimizer, pruner = setup("dpf")
    train(model, optimizer, pruner, stop=20)
    dense = copy.deepcopy(model.state_dict())

    def breaks():
        with pruner.training_step():
            assert (model.fc.weight == 0).any()
            raise MemoryError

    with pytest.raises(MemoryError):
        breaks()
    assert_equal(model.state_dict(), dense)
    assert pruner.step == 20
    train(model, optimizer, pruner, start=20)  # goes on
    uninterrupted = setup("dpf")
    train(*uninterrupted)
    assert_equal(model.state_dict(), uninterrupted[0].state_dict())


def test_misuse_is_one_clear_line():
    model, optimizer, pruner = setup("dpf")
    with pytest.raises(RuntimeError, match=r"ready\(\) has to be called once, inside"):
        pruner.ready()
    with pytest.raises(RuntimeError, match=r"ready\(\) has to be called"), pruner.training_step():
        pass
    with (
        pytest.raises(RuntimeError, match="cannot be entered inside"),
        pruner.training_step(),
        pruner.training_step(),
    ):
        pass
    with (
        pytest.raises(RuntimeError, match="cannot be entered inside"),
        pruner.training_step(),
        pruner.evaluating(),
    ):
        pass
    with pytest.raises(RuntimeError, match="0 of 40 steps are done"):
        pruner.finish()
    with pytest.raises(SettingError, match=r"^steps=20: expected 40"):
        setup("dpf", steps=20)[2].load_state_dict(pruner.state_dict())
    with pytest.raises(SettingError, match=r"^method=gmp: expected dpf"):
        setup("gmp")[2].load_state_dict(pruner.state_dict())
    train(model, optimizer, pruner)
    with pytest.raises(RuntimeError, match="all 40 steps are done"), pruner.training_step():
        pass


@pytest.mark.parametrize("method", ["topkast", "dpf"])
def test_a_method_that_adds_a_parameter_group_wants_to_be_made_before_the_scheduler(method):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-2)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    if method == "topkast":
        with pytest.raises(
            SettingError, match=r"^optimizer=SGD: expected one without a learning-rate scheduler yet"
        ):
            sparsebench.pruner(method, model, optimizer, steps=40)
    else:
        sparsebench.pruner(method, model, optimizer, steps=40)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_a_mask_update_needs_cannot_get_lost_unseen(set_to_none):
    model, optimizer, pruner = setup("rigl")
    inputs, targets = next(examples())

    def clears_too_early():
        with pruner.training_step():
            cross_entropy(model(inputs), targets).backward()
            assert not pruner.ready()  # step 0 is a mask update
            optimizer.zero_grad(set_to_none=set_to_none)

    with pytest.raises(RuntimeError, match="gradients have to stay"):
        clears_too_early()


def test_gradients_of_a_step_that_rigl_took_do_not_add_to_the_next():
    loops = []
    for where in ("always", "if ready"):
        model, optimizer, pruner = setup("rigl")
        for inputs, targets in examples():
            stepped = False
            with pruner.training_step():
                cross_entropy(model(inputs), targets).backward()
                if pruner.ready():
                    optimizer.step()
                    stepped = True
            if where == "always" or stepped:
                optimizer.zero_grad()
        loops.append(model.state_dict())
    assert_equal(*loops)


def test_a_method_that_misses_its_target_fails_at_the_end():
    model, optimizer, pruner = setup("dpf")
    train(model, optimizer, pruner)
    next(iter(pruner.masks.values())).view(-1)[:] = True
    with pytest.raises(RunError, match=r"^dpf missed its sparsity: \d+ zeros, requested were 2381"):
        pruner.finish()
