"""Images per second and core: our loader of ImageNet's files, of packed ones, and torchvision's, interleaved.

All in one process and one thread, so that the ratio holds for any number of workers. torchvision's is the pipeline of
its reference training: ImageFolder (Pillow), RandomResizedCrop, RandomHorizontalFlip, PILToTensor, float, Normalize.
Without --data-root the images are synthetic: JPEGs of noise, 500 pixels wide and about 110 kB large, as ImageNet's
are. --memory measures instead what a training step of ResNet-50 saves for its backward pass.

    python scripts/bench_imagenet.py --data-root /data/imagenet
    python scripts/bench_imagenet.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torchvision import datasets, transforms
from torchvision.models import resnet50

from sparsebench.data.decoding import decode, decode_with_pillow
from sparsebench.data.folder import ImageNet
from sparsebench.data.packed import pack

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS = {
    "val_fraction": 0.1,
    "split_seed": 0,
    "train_samples": None,
    "mean": MEAN,
    "std": STD,
    "size": 224,
    "scale": 0.08,
    "flip": True,
    "augment": None,
    "magnitude": 9,
    "erase": 0.0,
    "repeats": 1,
    "test_resize": 256,
    "test_size": 224,
    "workers": 0,
}


def reference(root: Path) -> datasets.ImageFolder:
    return datasets.ImageFolder(
        root / "train",
        transforms.Compose(
            [
                transforms.RandomResizedCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.PILToTensor(),
                transforms.ConvertImageDtype(torch.float32),
                transforms.Normalize(MEAN, STD),
            ]
        ),
    )


def milliseconds(work: Callable[[int], object], count: int) -> float:
    """Milliseconds per image."""
    start = time.perf_counter()
    for index in range(count):
        work(index)
    return (time.perf_counter() - start) / count * 1e3


def epoch(loader, batches: int) -> float:
    """Milliseconds per image of whole batches, from disk to normalised floats."""
    start, seen = time.perf_counter(), 0
    for step in range(batches):
        seen += len(loader.batch(step)[0])
    return (time.perf_counter() - start) / seen * 1e3


def torchvision_batches(dataset, batches: int, batch_size: int) -> float:
    start = time.perf_counter()
    order = torch.randperm(len(dataset)).tolist()
    for step in range(batches):
        torch.stack([dataset[i][0] for i in order[step * batch_size : (step + 1) * batch_size]])
    return (time.perf_counter() - start) / (batches * batch_size) * 1e3


def made(folder: Path, images: int) -> Path:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.support import imagenet_tree

    drawn = {"sides": (333, 418), "noise": 26}
    root = os.environ.get("SPARSEBENCH_DATA")
    cifar10 = Path(root) if root and (Path(root) / "cifar-10-batches-bin").is_dir() else None
    return imagenet_tree.imagenet(
        folder, classes=10, train=images // 10, val=1, cifar10_root=cifar10, **drawn
    )


def kept_for_backward(precision: str, images: int) -> int:
    """Bytes that autograd saves in a forward pass of ResNet-50."""
    model, sizes, alive = resnet50(), dict[int, int](), list[torch.Tensor]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)  # otherwise its address may be reused by another tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        model(torch.zeros(images, 3, 224, 224)).float().sum()
    return sum(sizes.values())


def memory(precision: str, batch_size: int) -> None:
    """Print the memory of a training step: per-image activations plus batch-independent state."""
    two, six = kept_for_backward(precision, 2), kept_for_backward(precision, 6)
    by_image = (six - two) / 4
    weights = 4 * 25_557_032
    # Weights, gradients, momentum, DPF's dense copy; two masks of a byte; for bf16 the weights cast.
    state = 4 * weights + weights // 2 + (weights // 2 if precision == "bf16" else 0)
    total = batch_size * (by_image + 3 * 224 * 224) + state  # the raw images too
    print(
        f"ResNet-50, {precision}: {by_image / 2**20:.1f} MiB per image saved for the backward pass;", end=" "
    )
    print(f"batch {batch_size} with DPF {total / 1e9:.1f} GB, plus the largest temporary tensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-root", type=Path, help="folder of ImageNet in class folders; synthetic images if not given"
    )
    parser.add_argument("--images", type=int, default=300, help="number of images to measure")
    parser.add_argument("--side", type=int, default=256, help="shorter side of the packed images")
    parser.add_argument("--quality", type=int, default=95)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="measure the memory of a training step instead")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        for precision in ("fp32", "bf16"):
            memory(precision, 1024)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = given.data_root or made(Path(temporary) / "made", given.images)
        measure(root, Path(temporary), given)


def measure(root: Path, temporary: Path, given: argparse.Namespace) -> None:
    files = ImageNet(data_root=str(root), packed=None, **SETTINGS)
    pack(
        files.found,
        temporary / f"packed-{given.side}",
        given.side,
        given.quality,
        {"source": ""},
        1,
        lambda _: None,
    )
    small = ImageNet(data_root=str(temporary), packed=given.side, **SETTINGS)
    theirs = reference(root)
    count = min(given.images, len(files.train))
    batches, batch_size = max(count // 50, 1), 50
    size = sum(len(files.found.train.read(i)) for i in range(count)) / count / 1e3
    small_size = sum(len(small.found.train.read(i)) for i in range(count)) / count / 1e3
    print(
        f"{count} images, {size:.0f} kB each; packed with a shorter side of {given.side}, {small_size:.0f} kB"
    )

    raw, raw_small = files.found.train.read, small.found.train.read
    decoded, decoded_small = [decode(raw(i)) for i in range(50)], [decode(raw_small(i)) for i in range(50)]

    def their_decoder(index: int) -> object:
        return theirs.loader(theirs.samples[index][0])

    def view(dataset: ImageNet, images: list[torch.Tensor]) -> Callable[[int], object]:
        return lambda index: dataset.train_transform(images[index % len(images)], index)

    work: dict[str, Callable[[], float]] = {
        "decode, torchvision's reference (Pillow)": lambda: milliseconds(their_decoder, count),
        "decode, Pillow to a tensor": lambda: milliseconds(lambda i: decode_with_pillow(raw(i)), count),
        "decode, ours": lambda: milliseconds(lambda i: decode(raw(i)), count),
        "decode, ours, packed": lambda: milliseconds(lambda i: decode(raw_small(i)), count),
        "crop, resize, mirror, ours": lambda: milliseconds(view(files, decoded), count),
        "crop, resize, mirror, ours, packed": lambda: milliseconds(view(small, decoded_small), count),
        "end to end, torchvision's reference": lambda: torchvision_batches(theirs, batches, batch_size),
        "end to end, ours": lambda: epoch(files.loader(batch_size, 0), batches),
        "end to end, ours, packed": lambda: epoch(small.loader(batch_size, 0), batches),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(given.repeats + 1):
        for name, measured in work.items():
            times[name].append(measured())
    medians = {name: statistics.median(measured[1:]) for name, measured in times.items()}
    for name, median in medians.items():
        low, high = min(times[name][1:]), max(times[name][1:])
        print(f"{name:42} {1e3 / median:7.0f} images/s  ({1e3 / high:.0f} to {1e3 / low:.0f})")
    theirs_end = medians["end to end, torchvision's reference"]
    for name in ("end to end, ours", "end to end, ours, packed"):
        print(f"{name + ' / reference':42} {theirs_end / medians[name]:7.2f}")


if __name__ == "__main__":
    main()
