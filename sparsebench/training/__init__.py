"""The loop, and what it is made of: metrics, FLOPs, averages, checkpoints, progress, signals."""
