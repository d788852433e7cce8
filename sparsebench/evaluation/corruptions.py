"""Accuracy on corrupted test images."""

from __future__ import annotations

import torch

from sparsebench.data.arrays import stratified
from sparsebench.errors import require_int
from sparsebench.evaluation.corrupt import CORRUPTIONS, SEVERITIES, corrupted
from sparsebench.evaluation.subject import Result, Subject, percent, predicted_classes


class Corruptions:
    """Test accuracy under CIFAR-10-C style corruptions, generated from the test images at five severities.

    Differs from the paper: these are not the published files, so compare within sparsebench only. Of the 19 published
    kinds 15 are implemented, with the published constants, which are for 32x32 pixels; frost and snow need photographs
    and a renderer, glass blur and spatter are omitted. Images come from tensor operations with a generator seeded by
    kind and severity; motion blur is a half-Gaussian along whole pixels. ``top1_corrupted`` is a plain mean, not the
    mCE, which is relative to AlexNet. Colour saturation is omitted for grey images.

    Args:
        samples: Number of test images, stratified; ``null`` for all.
        seed: Seed of the corruptions.

    Raises:
        SettingError: A value is out of range.

    References:
        Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
        ICLR 2019, arXiv 1903.12261.
    """

    needs_dense = False

    def __init__(self, samples: int | None = 1000, seed: int = 0) -> None:
        require_int("samples", samples, least=1, optional=True)
        require_int("seed", seed, least=0)
        self.samples, self.seed = samples, seed

    def __call__(self, subject: Subject) -> Result:
        """Column ``top1_corrupted`` (percent, mean over kinds and severities); details: one row for each."""
        test = subject.dataset.test
        if self.samples is not None and self.samples < len(test):
            test = test.take(stratified(test.labels, self.samples, 0).to(test.labels.device))
        originals = torch.cat(list(test.chunks(subject.eval_batch_size)))
        details = []
        for kind in CORRUPTIONS:
            if kind == "saturate" and originals.shape[1] == 1:
                continue
            for severity in SEVERITIES:
                images = corrupted(originals, kind, severity, self.seed)
                top1 = percent(predicted_classes(subject.logits(images)) == test.labels)
                details.append({"corruption": kind, "severity": severity, "top1": top1})
        mean = float(torch.tensor([row["top1"] for row in details], dtype=torch.float64).mean())
        return Result({"top1_corrupted": mean}, details)
