"""Calibration: whether confidence matches accuracy."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparsebench.errors import require_int
from sparsebench.evaluation.subject import Result, Subject, predicted_classes


class Calibration:
    """Expected calibration error and negative log-likelihood on the test set.

    ECE = Σ_b n_b / n · |accuracy_b - confidence_b| over equal-width bins (b/B, (b+1)/B] of the highest softmax
    probability, in float64.

    Args:
        bins: B.

    Raises:
        SettingError: ``bins`` is not an integer of at least 1.

    References:
        Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599,
        equation 3 (15 bins).
    """

    needs_dense = False

    def __init__(self, bins: int = 15) -> None:
        require_int("bins", bins, least=1)
        self.bins = bins

    def __call__(self, subject: Subject) -> Result:
        """Columns ``ece`` (in [0, 1]) and ``nll`` (nats per sample); details: one row per bin, accuracy in [0, 1]."""
        test = subject.dataset.test
        return self.of(subject.logits(test), test.labels)

    def of(self, logits: Tensor, labels: Tensor) -> Result:
        """The same for given ``logits`` [N, classes] and class indices ``labels`` [N]."""
        confidence = logits.double().softmax(1).amax(1)
        if not confidence.isfinite().all():
            return Result({"ece": "", "nll": math.nan})
        hits = (predicted_classes(logits) == labels).double()
        edges = torch.arange(1, self.bins, dtype=torch.float64, device=logits.device) / self.bins
        bin_index = torch.bucketize(confidence, edges)  # right-closed
        details, ece = [], 0.0
        for number in range(self.bins):
            inside = bin_index == number
            n = int(inside.sum())
            mean = float(confidence[inside].mean()) if n else ""
            accuracy = float(hits[inside].mean()) if n else ""
            if isinstance(mean, float) and isinstance(accuracy, float):
                ece += n / len(labels) * abs(accuracy - mean)
            details.append({
                "bin": number, "low": number / self.bins, "high": (number + 1) / self.bins, "n": n,
                "confidence": mean, "accuracy": accuracy,
            })  # fmt: skip
        return Result({"ece": ece, "nll": float(cross_entropy(logits.double(), labels))}, details)
