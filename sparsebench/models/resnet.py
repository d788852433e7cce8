"""Residual networks for CIFAR, in the variants that the literature mixes up."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad

from sparsebench.errors import SettingError, is_int, one_of, require_int
from sparsebench.models.initialization import check_size, initialize
from sparsebench.models.torchvision import classifier

VARIANTS = ("a", "b", "bottleneck")
IMAGENET_DEPTHS = (18, 34, 50, 101, 152)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, "same" padding, and batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ZeroPadShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, and zeros for the channels that are missing on either side."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, ⌈H / stride⌉, ⌈W / stride⌉]."""
        front = self.missing // 2
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.missing - front))


class Block(nn.Module):
    """Two 3x3 convolutions, or with ``expansion`` 4 the bottleneck of 1x1, 3x3 and 1x1, and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, variant: str, scale: float | None) -> None:
        super().__init__()
        self.scale = scale
        outputs = width * 4 if variant == "bottleneck" else width
        self.relu = nn.ReLU()
        if variant == "bottleneck":
            self.body = nn.Sequential(
                conv_bn(inputs, width, 1),
                nn.ReLU(),
                conv_bn(width, width, 3, stride),
                nn.ReLU(),
                conv_bn(width, outputs, 1),
            )
        else:
            self.body = nn.Sequential(conv_bn(inputs, width, 3, stride), nn.ReLU(), conv_bn(width, width, 3))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            make = ZeroPadShortcut if variant == "a" else lambda i, o, s: conv_bn(i, o, 1, s)
            self.shortcut = make(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Body plus shortcut, then ReLU."""
        body = self.body(x) if self.scale is None else self.scale * self.body(x)
        return self.relu(body + self.shortcut(x))


class ResNet(nn.Module):
    """Residual network for CIFAR: a 3x3 stem, three stages of 1, 2 and 4 times the width, mean pooling.

    Args:
        input_shape: Channels, height, width of the images; at least 4 pixels.
        num_classes: Number of classes.
        depth: 6n + 2 for n blocks a stage (20, 32, 44, 56, 110): the number of layers where blocks have two.
        width: Channels of the first stage.
        variant: ``a``, He's parameter-free shortcuts (ResNet-20 has 269,722 parameters); ``b``, 1x1
            convolution and batch norm as shortcut (272,474); ``bottleneck``, as many blocks with three layers
            and expansion 4, and such shortcuts: the DPF code base's "ResNet-56", of 83 layers (869,530).
        stable: Stable ResNet: every block's body times 1 / √L, with L blocks.

    References:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385,
        section 4.2.
        Hayou, Ton, Doucet and Teh, "Robust Pruning at Initialization", ICLR 2021, arXiv 2002.08797, section 3.2.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        depth: int = 20,
        width: int = 16,
        variant: str = "a",
        stable: bool = False,
    ) -> None:
        if variant not in VARIANTS:
            raise SettingError("variant", variant, one_of(VARIANTS, variant))
        require_int("width", width, least=1)
        if not is_int(depth) or depth <= 2 or (depth - 2) % 6:
            raise SettingError("depth", depth, "6n + 2, for example 20, 32, 44, 56 or 110")
        check_size("resnet", input_shape, 4)
        super().__init__()
        suffix = ("" if variant == "a" else f"_{variant}") + ("_stable" if stable else "")
        scale = ((depth - 2) // 2) ** -0.5 if stable else None
        self.name = f"resnet{depth}{suffix}" + ("" if width == 16 else f"_w{width}")
        self.stem = conv_bn(input_shape[0], width, 3)
        self.relu = nn.ReLU()
        channels, stages = width, []
        for stage in range(3):
            blocks = []
            for block in range((depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Block(channels, width * 2**stage, stride, variant, scale))
                channels = width * 2**stage * (4 if variant == "bottleneck" else 1)
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] -> logits [N, classes]."""
        return self.fc(self.pool(self.stages(self.relu(self.stem(x)))).flatten(1))


def resnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    depth: int = 20,
    width: int = 16,
    variant: str = "a",
    stable: bool = False,
) -> nn.Module:
    """Residual network: for CIFAR (20, 32, ..., 110 layers), or for ImageNet as torchvision has it (ResNet-50 v1.5).

    Args:
        input_shape: Channels, height, width of the images.
        num_classes: Number of classes.
        depth: 6n + 2 of those for CIFAR; 18, 34, 50, 101 or 152 of those for ImageNet.
        width: See `ResNet`.
        variant: ``a``, ``b`` or ``bottleneck``, see `ResNet`; ``imagenet``: a 7x7 stem, four stages, and where blocks
            have three layers the stride in the 3x3 convolution ("v1.5").
        stable: See `ResNet`.

    References:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385.
    """
    if variant != "imagenet":
        if variant not in VARIANTS:
            raise SettingError("variant", variant, one_of((*VARIANTS, "imagenet"), variant))
        return ResNet(input_shape, num_classes, depth, width, variant, stable)
    if depth not in IMAGENET_DEPTHS:
        raise SettingError(
            "depth", depth, f"one of {', '.join(map(str, IMAGENET_DEPTHS))} of variant=imagenet"
        )
    for name, given, only in (("width", width, 16), ("stable", stable, False)):
        if given != only:
            raise SettingError(
                name, given, f"{only}: variant=imagenet has no other".replace("False", "false")
            )
    return classifier(input_shape, num_classes, f"resnet{depth}")
