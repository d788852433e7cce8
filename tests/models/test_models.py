from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsebench.config.build import build
from sparsebench.errors import SettingError
from sparsebench.models.lenet import LeNet
from sparsebench.models.mlp import MLP
from sparsebench.models.mobilenet import MobileNet
from sparsebench.models.resnet import ResNet, ZeroPadShortcut, resnet
from sparsebench.models.torchvision import classifier
from sparsebench.models.vgg import VGG
from sparsebench.models.wide_resnet import WideResNet
from sparsebench.pruning.prunable import Prunable
from sparsebench.training.flops import count_layers
from tests.support.configs import options

CIFAR = (3, 32, 32)

# parameters, weights of convolutions and linear layers, MACs: computed by hand from the published architectures
PUBLISHED = [
    (ResNet, {}, 269_722, 268_336, 40_551_040),
    (ResNet, {"depth": 32}, 464_154, 461_872, 68_862_592),
    (ResNet, {"depth": 44}, 658_586, 655_408, 97_174_144),
    (ResNet, {"depth": 56}, 853_018, 848_944, 125_485_696),
    (ResNet, {"depth": 110}, 1_727_962, 1_719_856, 252_887_680),
    (ResNet, {"variant": "b"}, 272_474, 270_896, 40_813_184),
    (ResNet, {"depth": 32, "variant": "b"}, 466_906, 464_432, 69_124_736),
    (ResNet, {"depth": 56, "variant": "bottleneck"}, 869_530, 856_496, 127_322_624),
    (ResNet, {"depth": 32, "width": 32, "variant": "b"}, 1_860_522, 1_855_584, 275_612_928),
    (ResNet, {"depth": 104, "width": 32, "variant": "b"}, 6_516_138, 6_500_448, 955_090_176),
    (WideResNet, {"depth": 22}, 1_079_642, 1_076_912, 157_730_048),
    (WideResNet, {}, 1_467_610, 1_463_984, 214_353_152),
    (WideResNet, {"width": 4}, 5_849_050, 5_841_840, 845_597_184),
    (WideResNet, {"width": 8}, 23_354_842, 23_340_464, 3_360_084_992),
    (WideResNet, {"width": 10}, 36_479_194, 36_461_232, 5_243_328_768),
    (VGG, {"depth": 11}, 9_228_362, 9_222_848, 152_769_536),
    (VGG, {"depth": 11, "conv_bias": True}, 9_231_114, 9_222_848, 152_769_536),
    (VGG, {}, 14_724_042, 14_715_584, 313_201_664),
    (VGG, {"conv_bias": True}, 14_728_266, 14_715_584, 313_201_664),
    (VGG, {"depth": 19}, 20_035_018, 20_024_000, 398_136_320),
]  # fmt: skip


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("cls", "arguments", "count", "weights", "macs"), PUBLISHED)
def test_counts_are_the_published_ones(cls, arguments, count, weights, macs):
    with torch.device("meta"):
        model = cls(CIFAR, 10, **arguments)
    layers = count_layers(model, CIFAR)
    assert (parameters(model), sum(x.weights for x in layers), sum(x.macs for x in layers)) == (
        count,
        weights,
        macs,
    )


@pytest.mark.parametrize(
    ("cls", "arguments", "count"),
    [
        (ResNet, {"depth": 32, "width": 32, "variant": "b"}, 1_872_132),
        (WideResNet, {"width": 10}, 36_536_884),
    ],
)
def test_counts_for_100_classes(cls, arguments, count):
    with torch.device("meta"):
        assert parameters(cls(CIFAR, 100, **arguments)) == count


def test_mobilenet_has_the_parameters_of_torchvisions():
    from torchvision.models import mobilenet_v2

    with torch.device("meta"):
        for width in (1.0, 0.5, 1.4):
            ours, theirs = MobileNet(CIFAR, 10, width=width), mobilenet_v2(num_classes=10, width_mult=width)
            assert parameters(ours) == parameters(theirs)
        assert parameters(MobileNet(CIFAR, 10)) == 2_236_682


def test_lenet_300_100():
    assert parameters(MLP((1, 28, 28), 10)) == 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10


def test_lenet_5():
    assert parameters(LeNet((1, 28, 28), 10)) == 61_706


def test_torchvision_resnet50():
    with torch.device("meta"):
        assert parameters(classifier((3, 224, 224), 1000)) == 25_557_032


@pytest.mark.parametrize(
    ("name", "count", "macs"),
    [  # parameters and MACs are torchvision's own; of ViT, 16.85 of its 17.56 G: not what is between projections
        ("resnet18", 11_689_512, 1_814_073_344), ("resnet34", 21_797_672, 3_663_761_408),
        ("resnet50", 25_557_032, 4_089_184_256), ("mobilenet_v2", 3_504_872, 300_774_272),
        ("mobilenet_v3_large", 5_483_032, 216_589_760), ("vit_b_16", 86_567_656, 16_848_500_736),
        ("convnext_tiny", 28_589_128, 4_455_531_264), ("efficientnet_b0", 5_288_548, 385_814_752),
    ],
)  # fmt: skip
def test_torchvisions_classifiers_have_its_counts_and_a_cost_for_every_prunable_weight(name, count, macs):
    with torch.device("meta"):
        model = classifier((3, 224, 224), 1000, name)
    layers = count_layers(model, (3, 224, 224))
    assert (parameters(model), sum(x.macs for x in layers)) == (count, macs)
    prunable = Prunable(last_fc=True).select(model)
    assert prunable.keys() == {layer.name for layer in layers}


def test_the_projections_of_attention_are_pruned_with_the_linear_layers():
    with torch.device("meta"):
        model = classifier((3, 224, 224), 1000, "vit_b_16")
    of_block = "encoder.layers.encoder_layer_0."
    parts = {"self_attention.in_proj_weight": (2304, 768), "self_attention.out_proj.weight": (768, 768),
             "mlp.0.weight": (3072, 768), "mlp.3.weight": (768, 3072)}  # fmt: skip
    chosen = Prunable().select(model)
    found = {name: tuple(p.shape) for name, p in chosen.items() if name.startswith(of_block)}
    assert found == {of_block + name: shape for name, shape in parts.items()}
    assert len(chosen) == 1 + 12 * 4 and "heads.head.weight" not in chosen
    assert Prunable(fc=False).select(model).keys() == {"conv_proj.weight"}
    layers = {layer.name: layer for layer in count_layers(model, (3, 224, 224))}
    assert all(layers[of_block + name].positions == 197 for name in parts)  # tokens


@pytest.mark.parametrize(("sparsity", "overall"), [(0.9, 0.8260), (0.8, 0.7342)])
def test_what_papers_call_82_6_per_cent_of_resnet_50_is_90_of_its_convolutions(sparsity, overall):
    with torch.device("meta"):
        model = classifier((3, 224, 224), 1000)
    prunable = Prunable().select(model)  # the default: every convolution, no classifier
    weights = sum(p.numel() for p in prunable.values())
    assert weights == 23_454_912
    assert round(sparsity * weights) / parameters(model) == pytest.approx(overall, abs=5e-5)


@pytest.mark.parametrize("option", options("model"))
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_every_model_takes_every_image_or_says_why_not(hydra_config, option, shape):
    cfg, _ = hydra_config(f"model={option}")
    if (option == "lenet" and shape[1] < 12) or (option == "torchvision" and shape[0] != 3):
        with pytest.raises(SettingError, match=r"^model=\S+: expected images of"):
            build(cfg.model, "model", input_shape=shape, num_classes=7)
        return
    with torch.device("meta"):  # shapes, no numbers
        model = build(cfg.model, "model", input_shape=shape, num_classes=7)
        assert model.eval()(torch.zeros(2, *shape)).shape == (2, 7)
    assert model.name


def test_vgg_leaves_out_the_poolings_that_small_images_have_no_pixels_for():
    def pools(pixels):
        return sum(isinstance(m, nn.MaxPool2d) for m in VGG((3, pixels, pixels), 10).modules())

    assert [pools(pixels) for pixels in (8, 16, 32, 64)] == [3, 4, 5, 5]
    assert parameters(VGG((3, 8, 8), 10)) == parameters(VGG(CIFAR, 10))


def test_only_resnets_of_torchvision_take_images_of_fewer_than_32_pixels():
    with pytest.raises(SettingError, match=r"^model=densenet121: expected images of at least 32 pixels"):
        classifier((3, 8, 8), 10, name="densenet121")
    assert classifier((3, 8, 8), 10, name="resnext50_32x4d").eval()(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ResNet(CIFAR, 10), "resnet20"),
        (lambda: resnet((3, 224, 224), 10, depth=18, variant="imagenet"), "resnet18"),
        (lambda: ResNet(CIFAR, 10, depth=32, width=32, variant="b"), "resnet32_b_w32"),
        (lambda: ResNet(CIFAR, 10, depth=56, variant="bottleneck"), "resnet56_bottleneck"),
        (lambda: WideResNet(CIFAR, 10, depth=22), "wrn22-2"),
        (lambda: WideResNet(CIFAR, 10, depth=10, dropout=0.3), "wrn10-2_dropout0.3"),
        (lambda: VGG(CIFAR, 10, depth=11), "vgg11"),
        (lambda: MLP(CIFAR, 10, hidden=[8]), "mlp8"),
        (lambda: LeNet(CIFAR, 10), "lenet"),
        (lambda: MobileNet(CIFAR, 10, width=0.5), "mobilenet_w0.5"),
        (lambda: classifier(CIFAR, 10, name="resnet18"), "resnet18"),
    ],
)
def test_names_tell_variants_apart(make, name):
    with torch.device("meta"):
        assert make().name == name


@pytest.mark.parametrize(
    ("make", "setting", "hint"),
    [
        (lambda: ResNet(CIFAR, 10, depth=21), "depth", "20, 32, 44, 56 or 110"),
        (lambda: ResNet(CIFAR, 10, depth=2), "depth", "6n"),
        (lambda: ResNet(CIFAR, 10, depth=57, variant="bottleneck"), "depth", "6n"),
        (lambda: ResNet(CIFAR, 10, depth="deep"), "depth", "6n"),
        (lambda: ResNet(CIFAR, 10, variant="A"), "variant", "a, b"),
        (lambda: ResNet(CIFAR, 10, width=0), "width", "at least 1"),
        (lambda: resnet(CIFAR, 10, variant="v2"), "variant", "a, b, bottleneck, imagenet"),
        (lambda: resnet(CIFAR, 10, depth=20, variant="imagenet"), "depth", "18, 34, 50, 101, 152"),
        (lambda: resnet(CIFAR, 10, depth=50, variant="imagenet", width=32), "width", "16"),
        (lambda: resnet(CIFAR, 10, depth=50, variant="imagenet", stable=True), "stable", "false"),
        (lambda: WideResNet(CIFAR, 10, depth=20), "depth", "28"),
        (lambda: WideResNet(CIFAR, 10, dropout=1.5), "dropout", "[0, 1)"),
        (lambda: VGG(CIFAR, 10, depth=13), "depth", "11, 16, 19"),
        (lambda: VGG(CIFAR, 10, depth=[16]), "depth", "11, 16, 19"),
        (lambda: VGG(CIFAR, 10, conv_bias="abc"), "conv_bias", "true or false"),
        (lambda: MLP(CIFAR, 10, hidden=[]), "hidden", "[300,100]"),
        (lambda: MLP(CIFAR, 10, hidden=[0]), "hidden", "[300,100]"),
        (lambda: MobileNet(CIFAR, 10, width=0), "width", "above 0"),
        (lambda: MobileNet(CIFAR, 10, width=math.nan), "width", "above 0"),
        (lambda: MobileNet(CIFAR, 10, width=math.inf), "width", "above 0"),
        (lambda: MobileNet((3, 7, 7), 10), "model", "8 pixels"),
        (lambda: ResNet((1, 3, 3), 10), "model", "4 pixels"),
        (lambda: WideResNet((1, 3, 3), 10), "model", "4 pixels"),
        (lambda: LeNet((1, 8, 8), 10), "model", "12 pixels"),
        (lambda: classifier(CIFAR, 10, name="resnet05"), "name", "did you mean 'resnet50'"),
        (lambda: classifier((3, 40, 40), 10, name="vit_b_16"), "name", "multiple of 16"),
        (lambda: classifier(CIFAR, 10, name="maxvit_t"), "name", "224x224"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, setting, hint):
    with pytest.raises(SettingError) as refused:
        make()
    assert refused.value.setting == setting and hint in str(refused.value)


def test_convolutions_start_with_the_standard_deviation_of_he():
    torch.manual_seed(0)
    for module in ResNet(CIFAR, 10).modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (9 * module.out_channels))
            tolerance = 4 * expected / math.sqrt(2 * module.weight.numel())
            assert abs(module.weight.std().item() - expected) < tolerance


def test_option_a_pads_with_zeros_and_has_no_parameters():
    shortcut = ZeroPadShortcut(2, 4, 2)
    x = torch.arange(2 * 3 * 3, dtype=torch.float32).view(1, 2, 3, 3) + 1
    y = shortcut(x)
    assert parameters(shortcut) == 0 and y.shape == (1, 4, 2, 2)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert (y[:, [0, 3]] == 0).all()


@pytest.mark.parametrize(
    "make", [lambda: ResNet(CIFAR, 10, depth=8), lambda: WideResNet(CIFAR, 10, depth=10, width=1)]
)
def test_bf16_and_channels_last_train(make):
    model = make().to(memory_format=torch.channels_last)
    inputs = torch.randn(2, *CIFAR).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(inputs).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
