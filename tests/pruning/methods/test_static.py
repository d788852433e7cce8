"""Pruning before training: the saliencies by hand and by their laws, rounds, and the sanity checks."""

from __future__ import annotations

import itertools

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sparsebench.cli import main
from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import Global, zeros_for
from sparsebench.pruning.methods.grasp import GraSP
from sparsebench.pruning.methods.magnitude_init import MagnitudeInit
from sparsebench.pruning.methods.random import RandomStatic
from sparsebench.pruning.methods.snip import SNIP
from sparsebench.pruning.methods.synflow import SynFlow
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.pruner import Probe
from sparsebench.pruning.schedules import Constant
from sparsebench.pruning.scores import Magnitude, Random
from sparsebench.pruning.static import Sanity


def probe_of(model, batches, criterion=None, reinitialize=lambda: None):
    generator = torch.Generator().manual_seed(0)
    return Probe(model, lambda: iter(batches), criterion or nn.CrossEntropyLoss(), generator, reinitialize)


def make(method, model, sparsity, score=None, **more):
    parameters = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    weights = MaskedParameters(parameters)
    allocation = Global(allow_layer_collapse=True)
    return method(weights, Constant(Clock(10), sparsity), allocation, score or Magnitude(), **more)


def mlp(*widths, bias=False):
    torch.manual_seed(0)
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b, bias=bias), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def data(count=4, size=16, features=6, classes=3):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, features, generator=generator), torch.arange(size).remainder(classes))
        for _ in range(count)
    ]


def linear(values):
    model = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values]))
    return model


def test_snip_by_hand():
    model = linear([1.0, -2.0])  # the gradient of w·x by w is x
    pruner = make(SNIP, model, 0.5)
    scores = pruner.saliency(
        probe_of(model, [(torch.tensor([[0.3, 0.1]]), None)], lambda output, _: output.sum())
    )
    assert scores["weight"].flatten().tolist() == pytest.approx([0.6, 0.4])


def test_snip_is_weight_times_gradient_by_autograd_over_its_sum():
    model, batches = mlp(6, 8, 3), data()
    for count in (1, 3):
        scores = make(SNIP, model, 0.5, batches=count).saliency(probe_of(model, batches))
        model.zero_grad()
        loss = sum(nn.functional.cross_entropy(model(x), y) for x, y in batches[:count]) / count
        loss.backward()
        raw = {n: (p * p.grad).abs() for n, p in model.named_parameters()}
        total = sum(s.sum() for s in raw.values())
        for name, score in scores.items():
            torch.testing.assert_close(score, raw[name] / total, rtol=1e-5, atol=1e-9)
        assert sum(s.sum() for s in scores.values()).item() == pytest.approx(1)


def test_snip_does_not_depend_on_the_scale_of_the_loss():
    masks = []
    for scale in (1.0, 1000.0):
        model = mlp(6, 8, 3)
        pruner = make(SNIP, model, 0.7)
        pruner.on_start(probe_of(model, data(), lambda o, y, s=scale: s * nn.functional.cross_entropy(o, y)))
        masks.append(pruner.weights.fingerprint())
    assert masks[0] == masks[1]


def test_grasp_on_a_quadratic_by_hand():
    model = linear([1.0, -1.0])
    a = torch.tensor([[2.0, 1.0], [1.0, 3.0]])

    def half_quadratic(_output, _targets):
        w = model.weight.flatten()
        return 0.5 * w @ a @ w  # g = A w = (1, -2), H g = A g = (0, -5), S = -w ⊙ H g = (0, -5)

    pruner = make(GraSP, model, 0.5, samples_per_class=2)
    probe = probe_of(model, [(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))], half_quadratic)
    assert pruner.saliency(probe)["weight"].flatten().tolist() == pytest.approx([0.0, 5.0])
    pruner.on_start(probe)
    assert pruner.weights.masks["weight"].flatten().tolist() == [False, True]


def test_grasp_takes_the_same_number_of_every_class():
    inputs, targets = probe_of(mlp(6, 8, 3), data()).balanced(5)
    assert targets.tolist() == [0, 1, 2] * 5 and inputs.shape == (15, 6)
    with pytest.raises(SettingError, match=r"^samples_per_class=100: expected at most"):
        probe_of(mlp(6, 8, 3), data()).balanced(100)


def test_synflow_by_hand():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 1.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    scores = make(SynFlow, model, 0.5).saliency(probe_of(model, [(torch.randn(4, 2), None)]))
    assert scores["0.weight"].tolist() == [[1.0, 2.0], [0.5, 1.0]]
    assert scores["2.weight"].tolist() == [[3.0, 1.5]]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_synflow_is_conserved_from_layer_to_layer_and_through_every_unit():
    model = mlp(6, 20, 10, 3)
    scores = list(make(SynFlow, model, 0.5).saliency(probe_of(model, data())).values())
    totals = [score.sum().item() for score in scores]
    assert totals == pytest.approx([totals[0]] * 3, rel=1e-12)
    for incoming, outgoing in itertools.pairwise(scores):
        torch.testing.assert_close(incoming.sum(1), outgoing.sum(0), rtol=1e-10, atol=0)


def test_synflow_does_not_look_at_data():
    model = mlp(6, 20, 3)
    first = make(SynFlow, model, 0.5).saliency(probe_of(model, data()))
    other = make(SynFlow, model, 0.5).saliency(probe_of(model, [(torch.full((2, 6), 1e9), None)]))
    assert all(torch.equal(first[n], other[n]) for n in first)


def test_synflow_in_rounds_does_not_collapse_where_one_round_does():
    def layers_left(rounds):
        model = mlp(40, 100, 10, 40)  # the middle layer is the narrow one
        pruner = make(SynFlow, model, 1 - 40 / (40 * 100 + 100 * 10 + 10 * 40), rounds=rounds)
        pruner.on_start(probe_of(model, [(torch.ones(1, 40), None)]))
        return [int(m.sum()) for m in pruner.weights.masks.values()]

    assert 0 in layers_left(1)
    assert 0 not in layers_left(100)


@pytest.mark.parametrize("method", [SynFlow, SNIP])
def test_masks_of_rounds_nest_and_end_at_the_exact_number(method):
    model = mlp(6, 20, 3)
    pruner = make(method, model, 0.9, rounds=7)
    seen, set_masks = [], pruner.weights.set_masks

    def watch(masks):
        set_masks(masks)
        seen.append(pruner.weights.packed())

    pruner.weights.set_masks = watch
    pruner.on_start(probe_of(model, data()))
    assert [int((~m).sum()) for m in seen] == [zeros_for(1 - 0.1 ** (k / 7), 180) for k in range(1, 7)] + [
        162
    ]
    assert all(not (later & ~earlier).any() for earlier, later in itertools.pairwise(seen))


def test_scoring_leaves_modes_and_batch_statistics_as_they_were():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for method in (GraSP, SNIP):
        make(method, model, 0.5, training_mode=True).saliency(probe_of(model, data()))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and not model[1].training
    assert all(p.grad is None for p in model.parameters())


def masks_of(sanity, score=None):
    model = mlp(6, 20, 3)
    fresh = mlp(6, 20, 3)
    with torch.no_grad():
        for p in fresh.parameters():
            p.add_(1.0)
    pruner = make(MagnitudeInit, model, 0.6, score, sanity=sanity)
    pruner.on_start(probe_of(model, data(), reinitialize=lambda: model.load_state_dict(fresh.state_dict())))
    return pruner.weights, model, fresh


def test_inverted_scores_keep_the_smallest():
    weights, *_ = masks_of(Sanity(invert_scores=True))
    initial = dict(mlp(6, 20, 3).named_parameters())
    kept = torch.cat([initial[n][m].abs() for n, m in weights.masks.items()])
    pruned = torch.cat([initial[n][~m].abs() for n, m in weights.masks.items()])
    assert kept.max() <= pruned.min()


def test_shuffling_keeps_each_layers_count_and_the_initial_weights():
    plain, *_ = masks_of(Sanity())
    shuffled, model, _ = masks_of(Sanity(shuffle_within_layer=True))
    assert plain.nonzero().tolist() == shuffled.nonzero().tolist()
    assert plain.fingerprint() != shuffled.fingerprint()
    for name, initial in mlp(6, 20, 3).named_parameters():
        assert torch.equal(model.get_parameter(name), initial * shuffled.masks[name])


def test_reinit_keeps_the_mask_and_reinitialises_the_weights():
    plain, *_ = masks_of(Sanity())
    weights, model, fresh = masks_of(Sanity(reinit=True))
    assert weights.fingerprint() == plain.fingerprint()
    for name, new in fresh.named_parameters():
        assert torch.equal(model.get_parameter(name), new * weights.masks[name])


def test_random_masks_have_the_exact_number_and_differ_by_seed():
    prints = set()
    for seed in range(3):
        model = mlp(6, 20, 3)
        pruner = make(RandomStatic, model, 0.6, Random())
        probe = probe_of(model, data())
        probe.generator.manual_seed(seed)
        pruner.on_start(probe)
        assert int((~pruner.weights.packed()).sum()) == zeros_for(0.6, 180)
        prints.add(pruner.weights.fingerprint())
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("method", "more", "setting"),
    [(SNIP, {"batches": 0}, "batches"), (SynFlow, {"rounds": 0}, "rounds"),
     (GraSP, {"samples_per_class": 1}, "samples_per_class"), (GraSP, {"temperature": 0.0}, "temperature")],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(method, more, setting):
    with pytest.raises(SettingError) as refused:
        make(method, mlp(6, 20, 3), 0.5, **more)
    assert refused.value.setting == setting


SMALL = (
    "dataset.train_samples=300",
    "model.depth=8",
    "model.width=4",
    "epochs=2",
    "eval_every=2ep",
    "device=cpu",
)
TRAINED = ("prune=magnitude_init", "score=trained")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of a run whose mask is trained again."""
    results = tmp_path_factory.mktemp("first")
    assert main(["train", "prune=gmp", "schedule.interval=4it", *SMALL, f"results_dir={results}"]) == 0
    return next(results.glob("*-*"))


@pytest.mark.parametrize("reinit", [False, True])
def test_the_mask_of_another_run_is_trained_again_from_the_same_or_from_other_weights(
    tmp_path, first, reinit
):
    argv = [*TRAINED, f"score.path={first}", f"sanity.reinit={reinit}"]
    assert main(["train", *argv, *SMALL, f"results_dir={tmp_path}"]) == 0
    (again,) = tmp_path.glob("*-*")
    before, after = load_file(first / "model.safetensors"), load_file(again / "model.safetensors")
    for name in before:
        if before[name].dim() == 4:
            assert torch.equal(before[name] == 0, after[name] == 0)
            assert not torch.equal(before[name], after[name])


def test_the_mask_of_no_run_or_of_another_model_is_refused(tmp_path, first, capsys):
    assert main(["train", *TRAINED, f"score.path={tmp_path}", *SMALL, f"results_dir={tmp_path}/none"]) == 2
    assert f"score.path={tmp_path}: expected a run folder" in capsys.readouterr().err
    argv = [*TRAINED, f"score.path={first}", *SMALL, "model.width=8"]
    assert main(["train", *argv, f"results_dir={tmp_path}/n"]) == 2
    assert "expected weights of this model; it has no stem.0.weight of this shape" in capsys.readouterr().err
