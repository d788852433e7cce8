"""Classifiers of images. Each has a ``name`` for result tables; none depends on pruning or data sets."""
