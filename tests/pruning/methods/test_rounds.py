"""IMP, learning-rate rewinding and lottery tickets: trainings in a row."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from sparsebench.cli import main
from sparsebench.clock import Clock
from sparsebench.errors import SettingError
from sparsebench.files import read_csv
from sparsebench.optim.lr_schedules import Multistep
from sparsebench.pruning.allocation import Global, zeros_for
from sparsebench.pruning.methods.imp import IMP
from sparsebench.pruning.methods.lottery import Lottery
from sparsebench.pruning.methods.lr_rewind import LRRewind
from sparsebench.pruning.parameters import MaskedParameters
from sparsebench.pruning.schedules import Constant
from sparsebench.pruning.scores import Magnitude

ROUNDS = [IMP, LRRewind, Lottery]


class Four(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([4.0, 3.0, 2.0, 1.0]))


def four_weights(method, sparsity=0.75, total=2, momentum=0.0, **settings):
    model, clock = Four(), Clock(total)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum)
    weights = MaskedParameters({"weight": model.weight}, optimizer)
    given = {"optimizer": optimizer} if method is Lottery else {}
    schedule = Constant(clock, sparsity, interval="1it")
    pruner = method(weights, schedule, Global(), Magnitude(), model=model, clock=clock, **given, **settings)
    return model, optimizer, pruner


def train(method, training, before, total=2, **settings):
    """(weights at the first step and at the end, handover) of one training with gradients [1, 0, 0, -1.5]."""
    model, optimizer, pruner = four_weights(method, total=total, **settings)
    first_step = pruner.begin(training, before)
    start = model.weight.tolist()
    for step in range(first_step, total):
        optimizer.zero_grad()
        pruner.before_forward(step)
        (model.weight * torch.tensor([1.0, 0.0, 0.0, -1.5])).sum().backward()
        assert pruner.after_backward(step)
        optimizer.step()
        pruner.after_step(step)
    pruner.on_end()
    return start, model.weight.tolist(), pruner.handover()


def test_a_lottery_ticket_of_four_weights_by_hand():
    start, end, left = train(Lottery, 0, {}, rounds=2, rewind="1it")
    assert (start, end) == ([4, 3, 2, 1], [2, 3, 2, 4])
    start, end, left = train(Lottery, 1, left, rounds=2, rewind="1it")
    assert start == [0, 3, 0, 2.5]  # the largest of [2, 3, 2, 4], at the weights of step 1, [3, 3, 2, 2.5]
    assert end == [0, 3, 0, 4]
    start, end, left = train(Lottery, 2, left, rounds=2, rewind="1it")
    assert (start, end) == ([0, 0, 0, 2.5], [0, 0, 0, 4])
    assert left == {}


@pytest.mark.parametrize("method", [IMP, LRRewind])
def test_retraining_continues_from_the_trained_weights(method):
    _, _, left = train(method, 0, {}, rounds=2, retrain="1it")
    start, end, left = train(method, 1, left, rounds=2, retrain="1it")
    assert (start, end) == ([0, 3, 0, 4], [0, 3, 0, 5.5])
    start, end, _ = train(method, 2, left, rounds=2, retrain="1it")
    assert (start, end) == ([0, 0, 0, 5.5], [0, 0, 0, 7])


def test_momentum_is_rewound_with_the_weights_and_masked():
    _, _, left = train(Lottery, 0, {}, total=4, rounds=1, rewind="2it", momentum=0.5)
    model, optimizer, pruner = four_weights(Lottery, total=4, rounds=1, rewind="2it", momentum=0.5)
    assert pruner.begin(1, left) == 2
    # gradient -1.5 twice, with momentum 0.5; the weight of index 0 is pruned, momentum and all
    assert optimizer.state[model.weight]["momentum_buffer"].tolist() == [0, 0, 0, -2.25]


def test_every_round_rewinds_to_the_momentum_of_the_dense_training():
    settings = {"rounds": 2, "rewind": "1it", "momentum": 0.5}
    _, _, left = train(Lottery, 0, {}, **settings)
    (buffer,) = (state["momentum_buffer"] for state in left["ticket"]["optimizer"].values())
    early = buffer.clone()
    _, _, left = train(Lottery, 1, left, **settings)
    (buffer,) = (state["momentum_buffer"] for state in left["ticket"]["optimizer"].values())
    assert torch.equal(buffer, early)


@pytest.mark.parametrize("method", [IMP, LRRewind])
def test_momentum_is_reset_in_retraining(method):
    _, _, left = train(method, 0, {}, rounds=1, momentum=0.5, retrain="1it")
    model, optimizer, pruner = four_weights(method, rounds=1, momentum=0.5, retrain="1it")
    pruner.begin(1, left)
    assert "momentum_buffer" not in optimizer.state[model.weight]


def test_the_learning_rate_of_each_kind_of_retraining():
    schedule, factors = Multistep(Clock(100), ["0.5", "0.8"]), {}
    for method, settings in (
        (IMP, {"retrain": "0.4"}),
        (LRRewind, {"retrain": "0.4"}),
        (Lottery, {"rewind": "10it"}),
    ):
        *_, left = train(method, 0, {}, total=100, rounds=1, **settings)
        _, _, pruner = four_weights(method, total=100, rounds=1, **settings)
        assert [pruner.lr_factor(t, schedule) for t in (0, 55, 99)] == pytest.approx([1, 0.1, 0.01])
        first = pruner.begin(1, left)
        factors[method] = (first, [round(pruner.lr_factor(t, schedule), 3) for t in (first, 70, 99)])
    assert factors == {
        IMP: (60, [0.01, 0.01, 0.01]), LRRewind: (60, [0.1, 0.1, 0.01]), Lottery: (10, [1.0, 0.1, 0.01]),
    }  # fmt: skip


@pytest.mark.parametrize("method", ROUNDS)
@pytest.mark.parametrize(
    ("sparsity", "rounds", "expected"), [(0.9, None, 11), (0.36, None, 2), (0.9, 3, 3), (0, 5, 0)]
)
def test_densities_fall_by_the_same_factor(method, sparsity, rounds, expected):
    _, _, pruner = four_weights(method, sparsity=sparsity, rounds=rounds)
    assert pruner.trainings == expected + 1
    targets = []
    for number in range(pruner.trainings):
        pruner.training = number
        targets.append(pruner.scheduled_sparsity(0))
    assert targets[-1] == sparsity
    assert targets == pytest.approx(
        [1 - (1 - sparsity) ** (r / max(expected, 1)) for r in range(expected + 1)]
    )


@pytest.mark.parametrize(
    ("method", "settings", "named"),
    [(IMP, {"rounds": 0}, "rounds=0"), (LRRewind, {"retrain": "0it"}, "retrain=0it"),
     (IMP, {"retrain": "3it"}, "retrain=3it"), (Lottery, {"rewind": "1.0"}, "rewind=1.0"),
     (Lottery, {"rounds": 1.5}, "rounds=1.5")],
)  # fmt: skip
def test_bad_settings_are_named(method, settings, named):
    with pytest.raises(SettingError, match=f"^{named}"):
        four_weights(method, **settings)


WORDS = ["dataset=digits", "dataset.train_samples=300", "model.depth=8", "model.width=4", "epochs=4", "device=cpu",
         "sparsity=0.75", "prune.rounds=2", "eval_every=4ep"]  # fmt: skip


@pytest.mark.parametrize("method", ["imp", "lottery", "lr_rewind"])
def test_every_round_is_a_row_and_its_mask_lies_in_the_one_before(method, tmp_path, capsys):
    from safetensors.torch import load_file

    argv = ["train", f"prune={method}", *WORDS, f"results_dir={tmp_path}"]
    assert main(argv) == 0
    capsys.readouterr()
    folders = sorted(tmp_path.glob("*-*"))
    assert all(f"-{method}-s0.75-seed0-training{n}-" in folder.name for n, folder in enumerate(folders))
    rows = [read_csv(folder / "summary.csv")[0] for folder in folders]
    assert [float(row["target_sparsity"]) for row in rows] == [0, 0.5, 0.75]
    assert [(row["round"], row["rounds"]) for row in rows] == [("0", "2"), ("1", "2"), ("2", "2")]
    assert [row["sparsity_ok"] for row in rows] == ["True"] * 3
    assert len({row["run_id"] for row in rows}) == len({row["config_hash"] for row in rows}) == 3
    models = [load_file(folder / "model.safetensors") for folder in folders]
    assert int(rows[2]["nonzero"]) == int(rows[2]["prunable"]) - zeros_for(0.75, int(rows[2]["prunable"]))
    for before, after in itertools.pairwise(models):
        assert all((after[name][before[name] == 0] == 0).all() for name in after if "conv" in name)
    # what was trained before counts: ratios are to one dense training
    share = 1.0 if method == "lottery" else 0.25
    ratios = [float(row["train_flops_ratio"]) for row in rows]
    assert ratios[0] == pytest.approx(1) and ratios[0] < ratios[1] < ratios[2] < 1 + 2 * share
    assert not list(tmp_path.glob("*/handover*.pt"))
    metrics = read_csv(folders[1] / "metrics.csv")
    assert metrics[0]["train_loss"] == "" and float(metrics[0]["sparsity"]) == pytest.approx(0.5, abs=1e-3)
    assert main(argv) == 0
    assert "already finished" in capsys.readouterr().out


def test_a_method_of_several_trainings_resumes_after_the_last_finished_one(tmp_path, capsys, monkeypatch):
    from sparsebench.runs.training import Training

    def break_after(trainings):
        done = []
        original = Training.run

        def run(self, *arguments):
            if len(done) == trainings:
                raise KeyboardInterrupt
            done.append(self.number)
            return original(self, *arguments)

        monkeypatch.setattr(Training, "run", run)
        return done

    for folder, breaks in (("uninterrupted", [9]), ("broken", [1, 1, 9])):
        argv = ["train", "prune=lottery", *WORDS, f"results_dir={tmp_path / folder}"]
        seen = []
        for trainings in breaks:
            with monkeypatch.context():
                seen.append(break_after(trainings))
                assert main(argv) == (0 if trainings == 9 else 130)
            monkeypatch.undo()
        assert seen == ([[0, 1, 2]] if folder == "uninterrupted" else [[0], [1], [2]])
    names = sorted(
        path.relative_to(tmp_path / "uninterrupted")
        for path in tmp_path.glob("uninterrupted/*/model.safetensors")
    )
    assert len(names) == 3
    for name in names:
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()
