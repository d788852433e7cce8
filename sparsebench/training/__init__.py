"""The training loop and its parts: metrics, FLOPs, weight averages, checkpoints, progress, signals."""
