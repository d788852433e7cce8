"""Wide residual networks."""

from __future__ import annotations

from torch import Tensor, nn

from sparsebench.errors import SettingError, is_int, require_int
from sparsebench.models.initialization import check_size, initialize


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias, "same" padding."""
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class Block(nn.Module):
    """Pre-activation block; where the shape changes, the shortcut starts after the first activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.body = nn.Sequential(
            conv(inputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Dropout(dropout),
            conv(outputs, outputs, 3),
        )
        self.changes = stride != 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride) if self.changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Body plus shortcut."""
        active = self.activate(x)
        return self.body(active) + self.shortcut(active if self.changes else x)


class WideResNet(nn.Module):
    """Wide residual network: pre-activation blocks, ``width`` times as many channels as a ResNet.

    Args:
        input_shape: Channels, height, width of the images; at least 4 pixels.
        num_classes: Number of classes.
        depth: Layers with weights, shortcuts not counted: 6n + 4 (16, 22, 28, 40).
        width: Widening factor k: WRN-28-2 has 1,467,610 parameters.
        dropout: Probability of a zero between the two convolutions of a block, in [0, 1).

    References:
        Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        depth: int = 28,
        width: int = 2,
        dropout: float = 0.0,
    ) -> None:
        require_int("width", width, least=1)
        if not is_int(depth) or depth < 10 or (depth - 4) % 6:
            raise SettingError("depth", depth, "6n + 4, for example 16, 22, 28 or 40")
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise SettingError("dropout", dropout, "a probability in [0, 1)")
        check_size("wide_resnet", input_shape, 4)
        super().__init__()
        self.name = f"wrn{depth}-{width}" + (f"_dropout{dropout:g}" if dropout else "")
        self.stem = conv(input_shape[0], 16, 3)
        channels, stages = 16, []
        for stage in range(3):
            blocks = []
            for block in range((depth - 4) // 6):
                blocks.append(
                    Block(channels, 16 * width * 2**stage, 2 if stage and not block else 1, dropout)
                )
                channels = 16 * width * 2**stage
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] -> logits [N, classes]."""
        return self.fc(self.head(self.stages(self.stem(x))))
