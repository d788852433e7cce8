"""Settings that the chosen options do not use: found by training with two values of each."""

from __future__ import annotations

from functools import cache, partial

import pytest

from sparsebench.cli import main
from sparsebench.config.build import build
from sparsebench.config.open import compose_config
from sparsebench.config.used import setting_of, unused_overrides
from sparsebench.errors import SettingError
from sparsebench.files import read_csv
from sparsebench.paths import options
from sparsebench.runs.build import build_run
from tests.support.training import Unsaved, runner_of

TINY = (
    "model=mlp",
    "model.hidden=[16,8]",
    "dataset.train_samples=320",
    "batch_size=32",
    "epochs=1",
    "device=cpu",
)
"""Ten steps."""

OTHER = {
    "sparsity": ("0.5",),
    "ramp_end": ("0.5",),
    "update_interval.dynamic": ("3it",),
    "update_interval.evenly": ("3it",),
    "schedule": ("constant", "linear"),
    "schedule.sparsity": ("0.5",),
    "schedule.start": ("2it",),
    "schedule.end": ("0.3",),
    "schedule.interval": ("2it", "3it"),
    "schedule.stop": ("8it", "5it"),
    "schedule.at": ("3it",),
    "schedule.doublings": ("[2it]",),
    "schedule.sparse_starts": ("[2it,6it]",),
    "schedule.dense_starts": ("[3it]",),
    "allocation": ("uniform", "erk"),
    "allocation.compat": ("floor", "bernoulli"),
    "score": ("random", "magnitude"),
    "sanity.invert_scores": ("true",),
    "sanity.shuffle_within_layer": ("true",),
    "sanity.reinit": ("true",),
}
"""Setting -> other values than its default."""

EXEMPT: dict[tuple[str, str], str] = {}
"""(method, setting) that is used, though ten steps of so small a network show nothing -> why."""

METHODS = tuple(options("prune"))
SHORT = {"acdc": ("schedule.sparse_starts=[1it,6it]", "schedule.dense_starts=[4it]"),
         "dsr": ("schedule.interval=2it", "schedule.doublings=[4it]"), "lottery": ("prune.rewind=2it",),
         "continuous_sparsification": ("prune.rewind=1it",)}  # fmt: skip
EVERY_STEP = ("dpf", "gmp", "powerprop", "topkast")  # by default every 16 steps


@cache
def composed(method, *more):
    """(config, choices) of a training of ten steps."""
    short = ("schedule.interval=1it",) if method in EVERY_STEP else SHORT.get(method, ())
    if any(word.startswith("schedule=") for word in more):  # which has other settings
        short = (*(word for word in short if not word.startswith("schedule.")), "schedule.interval=1it")
    tiny = [word for word in TINY if not word.startswith("model")] if method == "sbp_sr" else TINY
    network = ("model=resnet", "model.depth=8", "model.width=4") if method == "sbp_sr" else ()
    words = (*tiny, *network, f"prune={method}", *short, *more)
    last = {word.partition("=")[0]: word for word in words}
    return compose_config(list(last.values()))


@cache
def images():
    return build_run(composed("dense")[0]).dataset


@cache
def trained(method, *more):
    """Bytes of weights and masks, sparsities and cost after ten steps; of the next training too, if there is one."""
    cfg, _ = composed(method, *more)
    seen, before, dataset = [], {}, images()
    for training in range(2):
        made = build_run(cfg, dataset)
        if training == made.pruner.trainings:
            break
        first = made.pruner.begin(training, before)
        runner = runner_of(made, partial(dataset.batches, batch_size=1000), Unsaved(), first)
        shape, classes = dataset.input_shape, dataset.num_classes
        fresh = partial(build, cfg.model, "model", input_shape=shape, num_classes=classes)
        runner.reinitialize = lambda made=made, fresh=fresh: made.model.load_state_dict(fresh().state_dict())
        history = runner.run()
        before = made.pruner.handover()
        parts = [*made.model.state_dict().values(), *made.pruner.weights.masks.values()]
        seen += [part.detach().numpy().tobytes() for part in parts]
        seen += [
            history.rows[-1][name] for name in ("scheduled_sparsity", "sparsity", "explored", "train_loss")
        ]
        seen += [*runner.flops.totals(), runner.mask_updates.columns()]
    return seen


def differs(method, override):
    """Whether a training is another with the override; ``None`` if the value is refused."""
    try:
        return trained(method, override) != trained(method)
    except SettingError:
        return None


@pytest.mark.parametrize("method", METHODS)
def test_what_is_unused_changes_no_byte_and_what_is_used_changes_some(method):
    cfg, _ = composed(method)
    wrong = {}
    for setting, values in OTHER.items():
        group, _, name = setting.partition(".")
        if name and name not in cfg[group]:
            continue
        overrides = [f"{setting}={value}" for value in values]
        ignored = {bool(unused_overrides([override], *composed(method, override))) for override in overrides}
        assert len(ignored) == 1, setting
        changed = [differs(method, override) for override in overrides]
        if ignored == {True}:
            as_said = True not in changed and False in changed
        else:  # a value that the method refuses is not ignored
            as_said = changed != [False] * len(values) or (method, setting) in EXEMPT
        if not as_said:
            wrong[setting] = ("ignored" if ignored == {True} else "used", changed)
    assert not wrong


REFUSED = [
    (
        ("prune=snip", "score=magnitude"),
        "score=magnitude: prune=snip ignores it; it is used by acdc, dnw, dpf",
    ),
    (
        ("prune=snip", "schedule.interval=3it"),
        "schedule.interval=3it: prune=snip ignores it; it is used by dpf, dsr",
    ),
    (
        ("prune=snip", "schedule=linear"),
        "schedule=linear: prune=snip ignores it; it is used by acdc, dnw, dpf",
    ),
    (
        ("prune=gmp", "sanity.reinit=true"),
        "sanity.reinit=true: prune=gmp ignores it; it is used by grasp, magnitude_init",
    ),
    (("prune=dense", "sanity.reinit=true"), "sanity.reinit=true: prune=dense ignores it"),
    (("prune=dense", "schedule=linear"), "schedule=linear: prune=dense ignores it"),
    (
        ("prune=dense", "allocation.allow_layer_collapse=true"),
        "allocation.allow_layer_collapse=true: prune=dense ignores",
    ),
    (("prune=str", "sparsity=0.5"), "sparsity=0.5: prune=str ignores it; it is used by acdc"),
    (("prune=gmp", "schedule.stop=0.9"), "schedule.stop=0.9: prune=gmp with schedule=cubic ignores it"),
    (
        ("prune=ste", "ramp_end=0.5"),
        "ramp_end=0.5: prune=ste with schedule=constant ignores it; it is used by dpf, gmp",
    ),
    (
        ("prune=dpf", "schedule.end=0.5", "ramp_end=0.5"),
        "ramp_end=0.5: prune=dpf with schedule=cubic ignores it",
    ),
    (
        ("prune=dpf", "prune.fine_tune=true"),
        "prune.fine_tune=true: prune=dpf ignores it with schedule.stop=null",
    ),
    (
        ("prune=dpf", "update_interval.dynamic=0.1"),
        "update_interval.dynamic=0.1: prune=dpf with schedule=cubic ignores",
    ),
    (("sync_bn=true",), "sync_bn=true: device=cpu ignores it; it is used by device=ddp"),
    (("epochs=1", "dataset.recipe.epochs=2"), "dataset.recipe.epochs=2: no setting refers to it here"),
]


@pytest.mark.parametrize(("argv", "said"), REFUSED)
def test_train_refuses_what_has_no_effect_in_one_line_that_says_who_uses_it(argv, said, tmp_path, capsys):
    assert main(["train", *TINY, *argv, f"results_dir={tmp_path / 'runs'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sparsebench: error: {said}") and not list(tmp_path.iterdir())


def test_whether_a_setting_is_used_may_depend_on_others():
    for argv, override in (
        (("prune=str", "tune_to_target=true"), "sparsity=0.5"),
        (("prune=dpf", "schedule.stop=0.9"), "prune.fine_tune=true"),
        (("prune=dpf",), "ramp_end=0.5"),
        (("prune=rigl",), "update_interval.dynamic=0.1"),
        (("prune=snip", "allocation=from_file", "allocation.path=x"), "sparsity=0.5"),
        (("device=ddp",), "sync_bn=true"),
        (("prune=dense",), "prunable.last_fc=true"),  # the columns of sparsity count these weights
        (("prune=dense",), "eval_every=2ep"),
        (("prune=snip",), "schedule.sparsity=0.5"),
    ):
        assert not unused_overrides([override], *compose_config([*argv, override]))


def test_dense_training_notes_a_sparsity_and_its_command_has_none(tmp_path, capsys):
    assert main(["train", *TINY, "prune=dense", "sparsity=0.5", f"results_dir={tmp_path}"]) == 0
    assert "sparsebench: note: sparsity=0.5: prune=dense ignores it\n" in capsys.readouterr().err
    ((row,),) = [read_csv(path) for path in tmp_path.glob("*/summary.csv")]
    assert "sparsity" not in row["command"]


def test_what_an_experiment_recipe_scale_or_method_sets_is_never_refused(tmp_path):
    argv = [
        "experiment=synflow_collapse",
        "recipe=rigl_cifar",
        "scale=smoke",
        "model=mlp",
        "prune=dense",
        "device=cpu",
    ]
    assert main(["train", *argv, f"results_dir={tmp_path}"]) == 0


def test_a_setting_of_the_process_is_never_refused():
    for override in (
        "save_seconds=5",
        "device.threads=2",
        "wait=false",
        "workers=1",
        "channels_last=true",
        "tracker=none",
    ):
        assert not unused_overrides([override], *compose_config(["prune=dense", override]))


@pytest.mark.parametrize(
    ("override", "setting"),
    [("sparsity=0.9", "sparsity"), ("++schedule.stop=null", "schedule.stop"), ("~tracker", "tracker")],
)
def test_the_setting_of_an_override(override, setting):
    assert setting_of(override) == setting
