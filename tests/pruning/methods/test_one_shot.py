from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.files import read_csv
from sparsebench.optim.lr_schedules import ConstantLR, Multistep
from sparsebench.pruning import schedules
from sparsebench.pruning.allocation import Global
from sparsebench.pruning.methods.one_shot import FINE_TUNE, OneShot
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.scores import Magnitude


def make(fine_tune="continue", total=20, at="15it", momentum=0.0):
    weight = nn.Parameter(torch.tensor([1.0, -4.0, 2.0, 3.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum)
    weights = MaskedParameters({"w": weight}, optimizer)
    schedule = schedules.OneShotSchedule(Clock(total), 0.5, at=at)
    return weight, optimizer, OneShot(weights, schedule, Global(), Magnitude(), Clock(total), fine_tune)


@pytest.mark.parametrize("fine_tune", FINE_TUNE)
def test_four_weights_by_hand(fine_tune):
    weight, optimizer, pruner = make(fine_tune, total=4, at="2it", momentum=0.5)
    lr, seen = ConstantLR(Clock(4)), []
    for step in range(4):
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = pruner.lr_factor(step, lr)
        pruner.before_forward(step)
        weight.sum().backward()
        assert pruner.after_backward(step)
        optimizer.step()
        pruner.after_step(step)
        seen.append(weight.tolist())
    assert seen[0] == [0, -5, 1, 2] and seen[1] == [-1.5, -6.5, -0.5, 0.5]
    assert seen[2] == [-3.25, -8.25, 0, 0]  # after -1.75, the two smallest of [-3.25, -8.25, -2.25, -1.25] go
    step = 1 + 0.5 * 1.75 if fine_tune == "continue" else 1  # the variants start with fresh momentum
    assert seen[3] == [-3.25 - step, -8.25 - step, 0, 0]


def test_learning_rates_after_the_cut():
    schedule = Multistep(Clock(20), ["0.5", "0.8"])
    factors = {}
    for fine_tune in FINE_TUNE:
        *_, pruner = make(fine_tune)  # 16 dense steps, 4 of fine-tuning
        factors[fine_tune] = [
            round(pruner.lr_factor(step, schedule), 3) for step in (0, 8, 13, 15, 16, 18, 19)
        ]
    assert factors == {
        "continue": [1, 1, 0.1, 0.1, 0.01, 0.01, 0.01],
        # the whole schedule in the first 16 steps: divided by 10 at steps 8 and 12.8
        "constant_last": [1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01],
        "lr_rewind": [1, 0.1, 0.01, 0.01, 0.1, 0.01, 0.01],
        "linear": [1, 0.1, 0.01, 0.01, 1, 0.5, 0.25],
    }


def test_the_accuracy_right_after_the_cut_is_a_row_of_its_own(tmp_path, capsys):
    from sparsebench.cli import main

    argv = ["train", "prune=one_shot", "sparsity=0.9", "dataset.train_samples=300", "model.depth=8", "model.width=4",
             "epochs=4", "device=cpu", "eval_every=1ep", "schedule.at=7it", f"results_dir={tmp_path}"]  # fmt: skip
    assert main(argv) == 0
    (folder,) = tmp_path.glob("*-*")
    rows = read_csv(folder / "metrics.csv")
    (cut,) = [row for row in rows if row["step"] == "8"]
    assert float(cut["mask_flips"]) == pytest.approx(0.9, abs=1e-3)
    assert sum(float(row["mask_flips"]) > 0 for row in rows) == 1


def test_bad_settings_are_named():
    with pytest.raises(SettingError, match=r"^fine_tune=none: expected one of continue"):
        make("none")
    with pytest.raises(SettingError, match="second half"):
        make("lr_rewind", at="8it")
