"""Evaluations beside the accuracy: worked by hand, against other libraries, and on real runs."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn

from sparsebench.cli import main
from sparsebench.evaluation.calibration import Calibration
from sparsebench.evaluation.corrupt import CORRUPTIONS, corrupted, gaussian_blur, pixelate
from sparsebench.evaluation.prunability import smallest
from sparsebench.evaluation.subject import predicted_classes
from sparsebench.files import read_csv

TINY = ("model=mlp", "model.hidden=[20]", "device=cpu", "epochs=2")
ALL = "evaluate=[bn_recalibration,per_class,exemplars,calibration,corruptions,prunability]"


def logits(*probabilities):
    return torch.tensor([[math.log(p), math.log(1 - p)] for p in probabilities])


def test_calibration_worked_by_hand():
    # Two bins, (0, .5] and (.5, 1]; confidences .6, .8, .9 and .5, of which .8 and .5 are wrong.
    result = Calibration(bins=2).of(logits(0.6, 0.8, 0.1, 0.5), torch.tensor([0, 1, 1, 1]))
    low, high = result.details
    assert (low["n"], high["n"]) == (1, 3)
    assert (low["accuracy"], low["confidence"]) == (0.0, pytest.approx(0.5))  # a tie goes to the first class
    assert (high["accuracy"], high["confidence"]) == (pytest.approx(2 / 3), pytest.approx(2.3 / 3))
    assert result.columns["ece"] == pytest.approx(1 / 4 * 0.5 + 3 / 4 * (2.3 / 3 - 2 / 3))
    nll = -sum(math.log(p) for p in (0.6, 0.2, 0.9, 0.5)) / 4
    assert result.columns["nll"] == pytest.approx(nll)


def test_a_bin_is_closed_on_its_right():
    result = Calibration(bins=4).of(logits(0.75, 0.7500001), torch.tensor([0, 0]))
    assert [row["n"] for row in result.details] == [0, 0, 1, 1]


def test_predictions_take_the_first_of_equal_logits_and_none_where_one_is_not_a_number():
    rows = torch.tensor([[1.0, 3.0, 3.0], [math.nan, 9.0, 0.0], [0.0, 0.0, 0.0]])
    assert predicted_classes(rows).tolist() == [1, -1, 0]


def test_prunability_needs_every_larger_fraction_to_hold():
    curve = [{"kept": k, "train_loss": loss} for k, loss in ((1.0, 1.0), (0.9, 1.05), (0.8, 1.2), (0.7, 1.0))]
    assert smallest(curve, beta=0.1, absolute=0.0) == 0.9  # the dip at 0.7 does not count
    assert smallest(curve, beta=0.0, absolute=0.0) == 1.0
    assert smallest(curve, beta=0.0, absolute=0.2) == 0.7
    assert [smallest(curve, beta / 10, 0) for beta in range(4)] == [1.0, 0.9, 0.7, 0.7]  # falls in beta
    nan = [{"kept": 1.0, "train_loss": 1.0}, {"kept": 0.5, "train_loss": math.nan}]
    assert smallest(nan, 0.1, 0.0) == 1.0


@pytest.fixture(scope="module")
def images():
    """Smooth random colour images with a grey and a black one among them, uint8 [6, 3, 32, 32]."""
    coarse = torch.rand((6, 3, 6, 6), generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    smooth[1] = smooth[1, :1]
    smooth[2] = 0
    return (255 * smooth).to(torch.uint8)


@pytest.mark.parametrize("kind", list(CORRUPTIONS))
def test_corruptions_are_the_same_each_time_and_stronger_with_severity(kind, images):
    made = [corrupted(images, kind, severity) for severity in (1, 2, 3, 4, 5)]
    assert torch.equal(made[2], corrupted(images, kind, 3))
    assert all(image.shape == images.shape and image.dtype == torch.uint8 for image in made)
    change = [float((image.float() - images.float()).abs().mean()) for image in made]
    assert min(change) > 0 and (
        change[0] < change[4] or kind == "elastic_transform"
    )  # its affine part shrinks
    if "noise" in kind or kind == "elastic_transform":
        assert not torch.equal(made[2], corrupted(images, kind, 3, seed=1))
    assert corrupted(images[:, :1, :8, :8], kind, 5).shape == (6, 1 + 2 * (kind == "saturate"), 8, 8)


def test_brightness_and_saturation_are_those_of_hsv(images):
    x = images.float() / 255
    red, green, blue = x[0, :, 5, 7].tolist()
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    brighter = CORRUPTIONS["brightness"](x, 2, torch.Generator())[0, :, 5, 7]
    assert brighter.tolist() == pytest.approx(
        colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1)), abs=1e-5
    )
    for level, (factor, shift) in enumerate(((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))):
        out = CORRUPTIONS["saturate"](x, level, torch.Generator())
        wanted = colorsys.hsv_to_rgb(hue, min(saturation * factor + shift, 1), value)
        assert out[0, :, 5, 7].tolist() == pytest.approx(wanted, abs=1e-5)
        grey = colorsys.hsv_to_rgb(0, shift, float(x[1, 0, 3, 3]))
        assert out[1, :, 3, 3].tolist() == pytest.approx(grey, abs=1e-5)


@pytest.mark.parametrize("level", range(5))
def test_pixelation_is_pillows(level, images):
    ours = pixelate(images.float() / 255, level, torch.Generator()).mul(255).round()[0]
    image = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    size = int(32 * (0.95, 0.9, 0.85, 0.75, 0.65)[level])
    pillow = np.array(image.resize((size, size), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX))
    assert (ours.permute(1, 2, 0).numpy() - pillow.astype(float)).__abs__().max() <= 1


def test_blur_is_scipys(images):
    x = images.float() / 255
    ours = gaussian_blur(x, 4, torch.Generator())[0, 0].numpy()
    assert np.abs(ours - gaussian_filter(x[0, 0].numpy(), 1.0, mode="nearest", truncate=4)).max() < 1e-5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("made")
    argv = [*TINY, "schedule.interval=4it", ALL, "evaluate.corruptions.samples=50", f"results_dir={results}"]
    assert main(["sweep", *argv, "prune=dense,dpf"]) == 0
    return results


def only(results, method):
    (path,) = results.glob(f"*-{method}-*")
    return path


def test_evaluations_change_neither_the_run_nor_its_name(made, tmp_path):
    plain = tmp_path / "plain"
    assert main(["train", *TINY, "schedule.interval=4it", "prune=dpf", f"results_dir={plain}"]) == 0
    with_, without = only(made, "dpf"), only(plain, "dpf")
    assert with_.name == without.name
    for name in ("model.safetensors", "layers.csv"):
        assert (with_ / name).read_bytes() == (without / name).read_bytes()
    row, bare = read_csv(with_ / "summary.csv")[0], read_csv(without / "summary.csv")[0]
    assert list(row)[: len(bare)] == list(bare) and row["top1"] == bare["top1"]
    assert {"ece", "nll", "top1_worst_class", "disagreement", "top1_recalibrated", "test_loss_recalibrated",
            "top1_corrupted", "prunability"} == row.keys() - bare.keys()  # fmt: skip


def test_what_evaluations_say_agrees_with_the_row(made):
    dpf, dense = (only(made, method) for method in ("dpf", "dense"))
    row = read_csv(dpf / "summary.csv")[0]
    assert float(row["nll"]) == pytest.approx(float(row["test_loss"]), rel=1e-5)
    assert row["top1_recalibrated"] == row["top1"]  # this model has no batch norm
    classes = read_csv(dpf / "evaluation" / "per_class_details.csv")
    assert sum(int(c["n"]) for c in classes) == 359
    assert sum(int(c["n"]) * float(c["top1"]) for c in classes) / 359 == pytest.approx(float(row["top1"]))
    assert min(float(c["top1"]) for c in classes) == float(row["top1_worst_class"])
    bins = read_csv(dpf / "evaluation" / "calibration_details.csv")
    hits = sum(int(b["n"]) * float(b["accuracy"] or 0) for b in bins)
    assert 100 * hits / 359 == pytest.approx(float(row["top1"])) and len(bins) == 15
    exemplars = read_csv(dpf / "evaluation" / "exemplars_details.csv")
    assert 100 * len(exemplars) / 359 == pytest.approx(float(row["disagreement"]))
    gained = sum((e["sparse"] == e["label"]) - (e["dense"] == e["label"]) for e in exemplars)
    difference = float(row["top1"]) - float(read_csv(dense / "summary.csv")[0]["top1"])
    assert 100 * gained / 359 == pytest.approx(difference)
    assert read_csv(dense / "summary.csv")[0]["disagreement"] == ""
    details = read_csv(dpf / "evaluation" / "corruptions_details.csv")
    assert len(details) == 14 * 5  # no saturation without colour
    assert sum(float(d["top1"]) for d in details) / 70 == pytest.approx(float(row["top1_corrupted"]))


def test_a_sparse_network_keeps_its_loss_down_to_its_density(made):
    curve = read_csv(only(made, "dpf") / "evaluation" / "prunability_details.csv")
    assert {r["train_loss"] for r in curve if float(r["kept"]) >= 0.1} == {curve[0]["train_loss"]}
    assert float(read_csv(only(made, "dpf") / "summary.csv")[0]["prunability"]) <= 0.1


def test_finished_runs_are_evaluated_the_same_afterwards(made, tmp_path, capsys):
    import shutil

    shutil.copytree(made, tmp_path / "runs")
    path = only(tmp_path / "runs", "dpf")
    before = {p.name: p.read_bytes() for p in (path / "evaluation").iterdir()}
    summary = (path / "summary.csv").read_bytes()
    shutil.rmtree(path / "evaluation")
    assert main(["evaluate", str(path), ALL, "evaluate.corruptions.samples=50"]) == 0
    assert {p.name: p.read_bytes() for p in (path / "evaluation").iterdir()} == before
    assert (path / "summary.csv").read_bytes() == summary
    assert main(["audit", str(path)]) == 0
    shutil.rmtree(path / "evaluation")
    capsys.readouterr()
    assert (
        main(["train", *TINY, "schedule.interval=4it", f"results_dir={tmp_path}/runs", "evaluate=per_class"])
        == 0
    )
    assert f"sparsebench evaluate {path} evaluate=[per_class] evaluates it" in capsys.readouterr().out


def test_without_the_dense_run_one_line_names_the_command_that_makes_it(tmp_path, capsys):
    import shlex

    argv = [*TINY, "prune=rigl", "optimizer.lr=0.05", "evaluate=exemplars", f"results_dir={tmp_path}/runs"]
    assert main(["train", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sparsebench: error: evaluate.exemplars: expected the dense run ")
    assert not (tmp_path / "runs").exists()
    command = shlex.split(line.split("train it with sparsebench ")[1])
    assert main([*command, "device=cpu"]) == 0
    assert main(["train", *argv]) == 0
    assert float(read_csv(only(tmp_path / "runs", "rigl") / "summary.csv")[0]["disagreement"]) > 0


def test_recalibration_undoes_stale_statistics(tmp_path):
    argv = ["model=resnet", "model.depth=8", "model.width=4", "epochs=3", "device=cpu", "prune=dense"]
    assert main(["train", *argv, f"results_dir={tmp_path}"]) == 0
    from safetensors.torch import load_file, save_file

    path = only(tmp_path, "dense")
    state = load_file(path / "model.safetensors")
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor += 3
    save_file(state, path / "model.safetensors")
    spoiled = (path / "model.safetensors").read_bytes()
    assert main(["evaluate", str(path), "evaluate=[bn_recalibration,calibration]"]) == 0
    (row,) = read_csv(path / "evaluation" / "bn_recalibration.csv")
    (as_is,) = read_csv(path / "evaluation" / "calibration.csv")
    assert float(row["test_loss_recalibrated"]) < float(as_is["nll"]) - 0.2
    assert (path / "model.safetensors").read_bytes() == spoiled


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["evaluate=nosuch"], "evaluate=nosuch: expected one of bn_recalibration"),
        (["evaluate=calibration", "evaluate.calibration.bins=0"], "evaluate.calibration.bins=0"),
        (["evaluate=calibration", "evaluate.calibration.bin=3"], "evaluate.calibration.bin=3"),
        (["evaluate=corruptions", "evaluate.corruptions.samples=half"], "evaluate.corruptions.samples=half"),
        (["evaluate=prunability", "evaluate.prunability.order=size"], "evaluate.prunability.order=size"),
        (["evaluate=prunability", "evaluate.prunability.beta=-1"], "evaluate.prunability.beta=-1"),
        (["evaluate=bn_recalibration", "evaluate.bn_recalibration.batches=0"], "evaluate.bn_recalibration.batches=0"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line_before_anything_is_written(argv, named, tmp_path, capsys):
    assert main(["train", *TINY, *argv, f"results_dir={tmp_path}/runs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sparsebench: error: {named}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("argv", "named"),
    [([], "FOLDER"), (["evaluate=calibration"], "path: "), (["/nowhere", "evaluate=calibration"], "path=/nowhere"),
     (["/nowhere"], "evaluate: "), (["seed=1", "evaluate=calibration"], "seed=1")],
)  # fmt: skip
def test_the_command_refuses_arguments_that_name_nothing(argv, named, capsys):
    assert main(["evaluate", *argv]) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
