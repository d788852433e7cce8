"""Data sets of image files, opened with small settings."""

from __future__ import annotations

from sparsebench.data.folder import ImageNet

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SETTINGS = {
    "packed": None, "val_fraction": 0.25, "split_seed": 0, "train_samples": None, "mean": MEAN, "std": STD, "size": 24,
    "scale": 0.08, "flip": True, "augment": None, "magnitude": 9, "erase": 0.0, "repeats": 1, "test_resize": 32,
    "test_size": 24, "workers": 0,
}  # fmt: skip


def imagenet(root, **changed):
    return ImageNet(data_root=str(root), **{**SETTINGS, **changed})
