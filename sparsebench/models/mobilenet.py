"""MobileNetV2 for CIFAR."""

from __future__ import annotations

from math import inf

from torch import Tensor, nn

from sparsebench.errors import SettingError
from sparsebench.models.initialization import check_size, initialize

# expansion, channels, blocks, stride of the first; two strides less than for ImageNet's 224 pixels
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias, "same" padding, and batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; identity shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [*conv_bn(inputs, hidden, 1), nn.ReLU6()] if expansion != 1 else []
        layers += [
            *conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU6(),
            *conv_bn(hidden, outputs, 1),
        ]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Body, plus the input where shapes agree."""
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """MobileNetV2 for CIFAR: torchvision's layers with stride 1 in the stem and in the second stage.

    Args:
        input_shape: Channels, height, width of the images; at least 8 pixels.
        num_classes: Number of classes.
        width: Multiplier of the channels, rounded to multiples of 8; with 1 and 10 classes, 2,236,682
            parameters.

    References:
        Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: Inverted Residuals and Linear
        Bottlenecks", CVPR 2018, arXiv 1801.04381.
    """

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int, width: float = 1.0) -> None:
        if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < inf:
            raise SettingError("width", width, "a multiplier above 0, for example 1.0")
        check_size("mobilenet", input_shape, 8)
        super().__init__()
        self.name = "mobilenet" + ("" if width == 1 else f"_w{width:g}")
        inputs = _round(32 * width)
        layers = [*conv_bn(input_shape[0], inputs, 3), nn.ReLU6()]
        for expansion, channels, blocks, stride in STAGES:
            for block in range(blocks):
                outputs = _round(channels * width)
                layers.append(InvertedResidual(inputs, outputs, 1 if block else stride, expansion))
                inputs = outputs
        last = _round(1280 * max(1.0, width))
        self.features = nn.Sequential(*layers, *conv_bn(inputs, last, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(last, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] -> logits [N, classes]."""
        return self.fc(self.dropout(self.pool(self.features(x)).flatten(1)))


def _round(channels: float) -> int:
    """To the nearest multiple of 8, at least 8, never down by more than 10 %: as the authors' code does."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
