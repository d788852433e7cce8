"""Weight initialisation of our models, and checks of their settings."""

from __future__ import annotations

from torch import nn

from sparsebench.errors import SettingError


def initialize(model: nn.Module) -> None:
    """Convolutions N(0, 2 / (k² c_out)), linear layers N(0, 2 / fan_in), biases 0, batch norm 1 and 0.

    References:
        He, Zhang, Ren and Sun, "Delving Deep into Rectifiers", ICCV 2015, arXiv 1502.01852, section 2.2.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)


def check_size(model: str, input_shape: tuple[int, int, int], least: int) -> None:
    """Check that images have at least ``least`` pixels, for an architecture that halves them several times."""
    _, height, width = input_shape
    if min(height, width) < least:
        raise SettingError(
            "model", model, f"images of at least {least} pixels for it; these have {height}x{width}"
        )
