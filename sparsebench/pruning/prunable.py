"""Which parameters may be pruned: one rule for all methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from sparsebench.errors import SettingError

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SHORTCUTS = {"shortcut", "downsample"}  # our models' name, and torchvision's


@dataclass(frozen=True)
class Prunable:
    """Selects the weights of convolutions and linear layers, except those switched off here.

    The projections of attention are linear layers; the input projections of ``nn.MultiheadAttention`` are one weight,
    ``in_proj_weight`` [3 · width, width], and pruned as one.

    Biases, normalisation parameters and buffers are never prunable. The defaults follow the parameter counts in the DPF
    paper: every convolution, including the first and those in shortcuts, but not the classifier.

    Args:
        first_conv: Prune the first convolution.
        shortcut_convs: Prune convolutions in shortcuts (modules named ``shortcut`` or ``downsample``).
        fc: Prune linear layers other than the classifier.
        last_fc: Prune the classifier, the last linear layer.

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, arXiv 2006.07253, section 5.
    """

    first_conv: bool = True
    shortcut_convs: bool = True
    fc: bool = True
    last_fc: bool = False

    def select(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Name in the ``state_dict`` -> parameter, in the model's order.

        Raises:
            SettingError: Nothing is left to prune.
        """
        kinds = (*CONVS, nn.Linear, nn.MultiheadAttention)
        layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
        convs = [name for name, module in layers.items() if isinstance(module, CONVS)]
        linears = [name for name, module in layers.items() if isinstance(module, nn.Linear)]
        chosen: dict[str, nn.Parameter] = {}
        for name, module in layers.items():
            if isinstance(module, nn.MultiheadAttention):
                if self.fc and isinstance(module.in_proj_weight, nn.Parameter):
                    chosen[f"{name}.in_proj_weight".lstrip(".")] = module.in_proj_weight
                continue
            if name in linears:
                prune = self.last_fc if name == linears[-1] else self.fc
            elif name == convs[0]:
                prune = self.first_conv
            else:
                prune = self.shortcut_convs or not SHORTCUTS & set(name.split("."))
            if prune:
                chosen[f"{name}.weight" if name else "weight"] = cast(nn.Parameter, module.weight)
        if not chosen:
            raise SettingError(
                "prunable", None, "at least one prunable layer in this model, but there is none"
            )
        return chosen
