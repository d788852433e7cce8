"""LeNet-5."""

from __future__ import annotations

from torch import Tensor, nn

from sparsebench.models.initialization import check_size, initialize


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max pooling: two 5x5 convolutions and three linear layers.

    Args:
        input_shape: Channels, height, width of the images; at least 12 pixels.
        num_classes: Number of classes.

    Differs from the paper:
        All channels are connected, ReLU for tanh, max for mean pooling, a linear output: the common form, with
        61,706 parameters for grey 28x28 images. The first convolution pads, so that 28 pixels do as 32 there.

    References:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
        Proceedings of the IEEE 1998.
    """

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        check_size("lenet", input_shape, 12)
        super().__init__()
        self.name = "lenet"
        channels, height, width = input_shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        self.hidden = nn.Sequential(nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())
        self.fc = nn.Linear(84, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] -> logits [N, classes]."""
        return self.fc(self.hidden(self.features(x)))
