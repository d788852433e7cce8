"""Classifiers of images. Each has a ``name`` for result tables; none knows of pruning or data sets."""
