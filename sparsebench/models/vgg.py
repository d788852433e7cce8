"""VGG for CIFAR."""

from __future__ import annotations

from torch import Tensor, nn

from sparsebench.errors import SettingError, is_int, one_of
from sparsebench.models.initialization import initialize

CONVS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # per stage
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """VGG with batch norm for CIFAR: five stages of 3x3 convolutions and max pooling, one linear layer.

    Args:
        input_shape: Channels, height, width of the images. Of fewer than 32 pixels, the poolings that would leave
            less than one pixel are left out.
        num_classes: Number of classes.
        depth: 11, 16 (14,724,042 parameters) or 19, named by the layers of the ImageNet network.
        conv_bias: Biases in convolutions: redundant before batch norm, but some published counts have them.

    References:
        Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        ICLR 2015, arXiv 1409.1556.
    """

    def __init__(
        self, input_shape: tuple[int, int, int], num_classes: int, depth: int = 16, conv_bias: bool = False
    ) -> None:
        if not is_int(depth) or depth not in CONVS:
            raise SettingError("depth", depth, one_of(CONVS, depth))
        if not isinstance(conv_bias, bool):
            raise SettingError("conv_bias", conv_bias, "true or false")
        super().__init__()
        self.name = f"vgg{depth}" + ("_bias" if conv_bias else "")
        layers: list[nn.Module] = []
        inputs, pixels = input_shape[0], min(input_shape[1:])
        for count, outputs in zip(CONVS[depth], CHANNELS, strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=conv_bias))
                layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            if pixels > 1:
                layers.append(nn.MaxPool2d(2))
            pixels //= 2
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] -> logits [N, classes]."""
        return self.fc(self.pool(self.features(x)).flatten(1))
