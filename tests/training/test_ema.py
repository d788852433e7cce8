from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.cli import main
from sparsebench.errors import SettingError
from sparsebench.pruning.allocation import zeros_for
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.training.ema import WeightAverage
from tests.support.configs import options
from tests.support.processes import result

WORDS = (
    "train",
    "model=resnet",
    "model.depth=8",
    "model.width=4",
    "epochs=2",
    "schedule.interval=2it",
    "sparsity=0.9",
    "device=cpu",
)


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
    return model, MaskedParameters({"0.weight": model[0].weight})


def test_the_average_by_hand_with_its_mask():
    model, weights = small()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    average = WeightAverage(model, weights, 0.75)
    with torch.no_grad():
        model[0].weight.zero_()
        model[1].running_mean.fill_(8.0)
    average.update()
    average.update()
    mask = torch.tensor([[True, False, True], [True, True, False]])
    weights.set_masks({"0.weight": mask})
    trained = {name: t.clone() for name, t in model.state_dict().items()}
    with average.applied():
        expected = 0.75**2 * torch.tensor([[1.0, 0.0, 3.0], [4.0, 5.0, 0.0]])
        torch.testing.assert_close(model[0].weight.detach(), expected)
        torch.testing.assert_close(model[1].running_mean, torch.full((2,), 8 * (1 - 0.75**2)))
    assert all(torch.equal(t, trained[name]) for name, t in model.state_dict().items())
    average.install()
    torch.testing.assert_close(model[0].weight.detach(), expected)
    with average.applied():  # once it is installed there is nothing to exchange
        torch.testing.assert_close(model[0].weight.detach(), expected)


def test_an_average_resumes_bitwise():
    model, weights = small()
    average = WeightAverage(model, weights, 0.9)
    average.update()
    state = {name: t.clone() for name, t in average.state_dict().items()}
    other, other_weights = small()
    again = WeightAverage(other, other_weights, 0.9)
    again.load_state_dict(state)
    assert all(torch.equal(t, state[name]) for name, t in again.state_dict().items())


@pytest.mark.parametrize("decay", [0, 1, -0.1, 1.5, True, "0.9"])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(SettingError, match=r"^ema="):
        WeightAverage(*small(), decay)


@pytest.mark.parametrize("method", ["dense", "gmp", "dpf", "rigl", "acdc", "powerprop", "spartan", "str"])
def test_the_averaged_network_has_exactly_the_zeros_of_the_method(tmp_path, method):
    assert method in options("prune")
    short = (
        [word for word in WORDS if not word.startswith("schedule.")]
        if method in ("dense", "acdc", "str")
        else WORDS
    )
    if method == "str":  # which has no target
        short = [word for word in short if not word.startswith(("sparsity=", "ramp_end="))]
    argv = [*short, f"prune={method}", "ema=0.9", f"results_dir={tmp_path}"]
    assert main([*argv, "dataset.train_samples=320", "batch_size=16"]) == 0
    row = result(tmp_path)["summary"]
    assert row["sparsity_ok"] == "True"
    if method not in ("dense", "str"):
        prunable = int(row["prunable"])
        assert float(row["sparsity"]) == pytest.approx(zeros_for(0.9, prunable) / prunable, abs=1e-5)
    assert main(["audit", str(tmp_path)]) == 0  # its accuracy is that of the weights in the folder


def test_averaging_changes_what_is_kept_and_not_the_training(tmp_path):
    for name, more in (("plain", ()), ("averaged", ("ema=0.9",))):
        assert main([*WORDS, "prune=dpf", f"results_dir={tmp_path / name}", *more]) == 0
    plain, averaged = result(tmp_path / "plain"), result(tmp_path / "averaged")
    same = ("train_loss", "sparsity", "mask_flips", "pruning_error")
    assert [[r[key] for key in same] for r in plain["metrics"]] == [
        [r[key] for key in same] for r in averaged["metrics"]
    ]
    assert plain["model"] != averaged["model"]
    assert plain["summary"]["val_top1"] != averaged["summary"]["val_top1"]


@pytest.mark.slow
@pytest.mark.nightly
def test_kill_minus_9_with_an_average_and_mixed_batches(tmp_path):
    from tests.support.processes import DIGITS, finish, kill_when

    argv = (*DIGITS, "prune=dpf", "ema=0.95", "mixup=0.2", "cutmix=1.0", "dataset.channels=3")
    finish(tmp_path / "uninterrupted", *argv)
    kill_when(tmp_path / "broken", argv, lambda f: (f / "checkpoint.previous.pt").exists(), delay=0.05)
    finish(tmp_path / "broken", *argv)
    assert result(tmp_path / "broken") == result(tmp_path / "uninterrupted")
