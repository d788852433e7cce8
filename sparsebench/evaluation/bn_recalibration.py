"""Accuracy with re-estimated batch-norm statistics."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sparsebench.data.batching import Normalize
from sparsebench.errors import require_int
from sparsebench.evaluation.subject import Result, Subject, percent, predicted_classes

NORMS = nn.modules.batchnorm._BatchNorm


class BNRecalibration:
    """Accuracy of a copy whose batch-norm statistics are re-estimated on training images; weights are unchanged.

    Running statistics lag behind the weights, and pruning changes the weights abruptly: the mean and variance of
    each batch-norm layer are reset, and set to their cumulative average over batches of unaugmented training images,
    drawn once with ``seed``. ``top1`` stays the main result; this shows how much of the accuracy gap the statistics
    explain.

    Args:
        batches: Number of batches to average over, of the run's batch size; at most one pass over the training images.
        seed: Seed of the draw.

    Raises:
        SettingError: A value is out of its range.

    References:
        Li, Wu, Su and Wang, "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020,
        arXiv 2007.02491 (adaptive batch normalisation).
    """

    needs_dense = False

    def __init__(self, batches: int = 50, seed: int = 0) -> None:
        require_int("batches", batches, least=1)
        require_int("seed", seed, least=0)
        self.batches, self.seed = batches, seed

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        """Columns ``top1_recalibrated`` (percent) and ``test_loss_recalibrated`` (nats per sample)."""
        model, train, test = copy.deepcopy(subject.model), subject.dataset.train, subject.dataset.test
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))
        order = order[: self.batches * subject.batch_size].to(train.labels.device)
        for module in model.eval().modules():
            if isinstance(module, NORMS):
                module.reset_running_stats()
                module.momentum = None  # the cumulative average
        sampled = train.take(order)
        with subject.device.autocast():
            normalize = Normalize(subject.dataset, subject.device.channels_last)
            for module in model.modules():
                module.train(isinstance(module, NORMS))  # and dropout stays off
            for part in sampled.chunks(subject.batch_size):
                if len(part) > 1 or len(sampled) == 1:
                    model(normalize(part))
        logits = subject.logits(test, model)
        return Result({
            "top1_recalibrated": percent(predicted_classes(logits) == test.labels),
            "test_loss_recalibrated": float(cross_entropy(logits.double(), test.labels)),
        })  # fmt: skip
