"""sparsebench: an experiment runner for sparse-training benchmarks."""

__version__ = "0.1.0"
