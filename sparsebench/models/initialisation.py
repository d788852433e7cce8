"""How the weights of our models start."""

from __future__ import annotations

import math

from torch import nn


def initialise(model: nn.Module) -> None:
    """Draw all weights of ``model`` anew, in place, in the order of its modules.

    Convolutions: normal with mean 0 and variance 2 / (k · k · c_out), k the kernel size and c_out the number of
    output channels. Linear layers: normal with variance 2 / inputs. Normalisation: γ = 1, β = 0. Biases: 0.

    References:
        He, Zhang, Ren and Sun, "Delving Deep into Rectifiers", ICCV 2015, arXiv 1502.01852, equations 10 and 14.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, std=math.sqrt(2 / (height * width * module.out_channels)))
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
