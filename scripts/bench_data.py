"""Images per second of our training loader and of torchvision's, interleaved in one run.

Both deliver the same CIFAR images as normalised float32 batches, padded by 4, cropped and mirrored at random:
ours from memory in one thread, torchvision's transforms through a DataLoader with persistent worker
processes. More threads (``--threads``) make ours faster on idle cores only.

    python scripts/bench_data.py --data-root ~/.cache/sparsebench
    python scripts/bench_data.py --synthetic
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from sparsebench.data.arrays import ArrayDataset, Content, Split
from sparsebench.data.cifar import CIFAR10
from sparsebench.data.loader import TrainLoader

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def synthetic(**settings) -> ArrayDataset:
    """Random images in the shape and number of CIFAR-10."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8, generator=random)
    split = Split(images, torch.arange(50_000) % 10)
    return ArrayDataset(content=Content("synthetic", 10, split, split), **settings)


class OneByOne(Dataset):
    """A split as torchvision's data sets serve it: one PIL image and its transforms per call."""

    def __init__(self, split: Split) -> None:
        self.images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One augmented image and its label."""
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def images_per_second(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Images per second over one epoch of batches."""
    start, count = time.perf_counter(), 0
    for inputs, _ in batches:
        count += len(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-root", default=os.environ.get("SPARSEBENCH_DATA", "~/.cache/sparsebench"))
    parser.add_argument("--synthetic", action="store_true", help="random images instead of CIFAR-10")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1, help="of our loader")
    parser.add_argument("--workers", type=int, default=2, help="of torchvision's loader")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each, after one for warm-up")
    parser.add_argument("--device", default="cpu", help="device on which our loader keeps the images")
    parser.add_argument("--channels-last", action="store_true", help="our batches in this memory format")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)  # torchvision's worker processes always use one

    settings = {"val_fraction": 0.1, "split_seed": 0, "train_samples": None, "device": arguments.device}
    settings |= {"mean": MEAN, "std": STD, "pad": 4, "flip": True}
    real = {} if arguments.synthetic else {"data_root": arguments.data_root}
    dataset = (synthetic if arguments.synthetic else CIFAR10)(**real, **settings)
    ours = TrainLoader(dataset, arguments.batch_size, seed=0, channels_last=arguments.channels_last)
    theirs = DataLoader(
        OneByOne(Split(dataset.train.images.cpu(), dataset.train.labels.cpu())),
        arguments.batch_size,
        shuffle=True,
        num_workers=arguments.workers,
        persistent_workers=arguments.workers > 0,
    )

    rates: dict[str, list[float]] = {"sparsebench": [], "torchvision": []}
    for epoch in range(arguments.repeats + 1):
        steps = range(epoch * ours.steps_per_epoch, (epoch + 1) * ours.steps_per_epoch)
        rates["sparsebench"].append(images_per_second(map(ours.batch, steps)))
        rates["torchvision"].append(images_per_second(theirs))

    setting = f"batch {arguments.batch_size}, {arguments.device}, {arguments.threads} thread(s)"
    print(f"{len(dataset.train)} images of {dataset.name}, {setting}, {arguments.workers} workers,", end=" ")
    print(f"median of {arguments.repeats} epochs")
    medians = {}
    for name, measured in rates.items():
        kept = sorted(measured[1:])
        medians[name] = statistics.median(kept)
        print(f"{name:12} {medians[name]:9.0f} images/s  (from {kept[0]:.0f} to {kept[-1]:.0f})")
    print(f"{'ratio':12} {medians['sparsebench'] / medians['torchvision']:9.1f}")


if __name__ == "__main__":
    main()
