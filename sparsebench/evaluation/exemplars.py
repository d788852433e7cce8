"""Test examples on which the sparse and the dense network disagree."""

from __future__ import annotations

from sparsebench.evaluation.subject import Result, Subject, percent, predicted_classes


class Exemplars:
    """Fraction of test examples that this network and its dense counterpart classify differently.

    The counterpart is the finished run with ``prune=dense`` and otherwise the same configuration and seed.

    Differs from the paper: there an example is pruning-identified (PIE) if the modal labels of two populations of about
    30 networks differ, which removes the noise between seeds. This is one pair: two dense runs with different seeds
    disagree too, so compare with their disagreement before attributing the number to pruning.

    References:
        Hooker, Courville, Clark, Dauphin and Frome, "What Do Compressed Deep Neural Networks Forget?", 2019,
        arXiv 1911.05248.
    """

    needs_dense = True

    def __call__(self, subject: Subject) -> Result:
        """Column ``disagreement`` (percent); details: ``index`` in the test set, ``label``, ``dense``, ``sparse``."""
        if subject.dense is None:
            return Result({"disagreement": ""})
        test = subject.dataset.test
        sparse = predicted_classes(subject.logits(test))
        dense = predicted_classes(subject.logits(test, subject.dense()))
        differ = sparse != dense
        details = [
            {"index": i, "label": int(test.labels[i]), "dense": int(dense[i]), "sparse": int(sparse[i])}
            for i in differ.nonzero().flatten().tolist()
        ]
        return Result({"disagreement": percent(differ)}, details)
