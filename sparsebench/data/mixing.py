"""Mixup and CutMix: batches of mixed images with mixed targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsebench.data.batching import derive_seed
from sparsebench.errors import SettingError


class Mix:
    """Mixes every image of a training batch, and its target, with the preceding one, using torchvision.

    Random numbers are a function of (seed, step). If both are on, each step uses one of them with probability 1/2.
    With several ranks, each mixes its own slice.

    Args:
        mixup: α of mixup's Beta(α, α); 0 for none.
        cutmix: α of CutMix's Beta(α, α); 0 for none.
        num_classes: Number of classes.
        seed: Seed of the run.

    Raises:
        SettingError: An α is negative.

    References:
        Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv 1710.09412.
        Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019,
        arXiv 1905.04899.
    """

    def __init__(self, mixup: float, cutmix: float, num_classes: int, seed: int) -> None:
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha < float("inf"):
                raise SettingError(name, alpha, "0 for none, or α of a Beta distribution, for example 0.2")
        self.seed = seed
        self.kinds: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
        if not (mixup or cutmix):
            return
        from torchvision.transforms import v2  # imported here: it is slow, and only mixup and CutMix need it

        if mixup:
            self.kinds.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            self.kinds.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))

    def __call__(self, step: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix inputs [B, C, H, W] and class indices [B] to inputs and target probabilities [B, classes]."""
        if not self.kinds or not len(inputs):
            return inputs, targets
        before = torch.random.get_rng_state()
        try:
            torch.default_generator.manual_seed(derive_seed(self.seed, step))
            kind = self.kinds[int(torch.randint(len(self.kinds), ()))]
            return kind(inputs, targets)
        finally:
            torch.random.set_rng_state(before)
