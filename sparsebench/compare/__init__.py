"""Comparison of runs: joins, statistics, differences to dense runs and to published numbers."""
