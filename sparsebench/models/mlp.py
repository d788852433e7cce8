"""Fully connected network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from sparsebench.errors import SettingError, is_int
from sparsebench.models.initialization import initialize


class MLP(nn.Module):
    """Fully connected network; with the default widths, LeNet-300-100.

    Args:
        input_shape: Channels, height, width of the images.
        num_classes: Number of classes.
        hidden: Widths of the hidden layers.

    References:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
        Proceedings of the IEEE 1998.
    """

    def __init__(
        self, input_shape: tuple[int, int, int], num_classes: int, hidden: Sequence[int] = (300, 100)
    ) -> None:
        if not isinstance(hidden, (list, tuple)) or not hidden or any(not is_int(w) or w < 1 for w in hidden):
            raise SettingError("hidden", hidden, "a list of widths, for example [300,100]")
        super().__init__()
        self.name = "mlp" if tuple(hidden) == (300, 100) else "mlp" + "-".join(map(str, hidden))
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise((prod(input_shape), *hidden)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.fc = nn.Linear(hidden[-1], num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] -> logits [N, classes]."""
        return self.fc(self.hidden(x))
