"""Accuracy by class."""

from __future__ import annotations

from sparsebench.evaluation.subject import Result, Subject, percent, predicted_classes


class PerClass:
    """Test accuracy of each class: pruning may cost some classes far more than the mean shows.

    References:
        Hooker, Courville, Clark, Dauphin and Frome, "What Do Compressed Deep Neural Networks Forget?", 2019,
        arXiv 1911.05248.
    """

    needs_dense = False

    def __call__(self, subject: Subject) -> Result:
        """Column ``top1_worst_class`` (percent); details: ``class``, ``n``, ``top1``."""
        test = subject.dataset.test
        hits = predicted_classes(subject.logits(test)) == test.labels
        details = [
            {"class": label, "n": int(own.sum()), "top1": percent(hits[own])}
            for label in range(subject.dataset.num_classes)
            if (own := test.labels == label).any()
        ]
        return Result({"top1_worst_class": min(row["top1"] for row in details)}, details)
