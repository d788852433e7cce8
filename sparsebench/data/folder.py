"""Data sets on disk: ImageNet, and any folder of classes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsebench.data import listing
from sparsebench.data.arrays import splits_of, stratified
from sparsebench.data.batching import Normalize
from sparsebench.data.dataset import SplitName
from sparsebench.data.decoding import EvalTransform, TrainTransform
from sparsebench.data.listing import INDEX, ImageIndex, ImageSource
from sparsebench.data.packed import packed
from sparsebench.data.streaming import Failures, Reader, StreamedLoader, read_in_order
from sparsebench.errors import RunError, SettingError, printable, require_int
from sparsebench.paths import expanded

TEST_FRACTION, TEST_SEED = 0.2, 0  # for a folder of classes without test images
SHOWN = 10  # unreadable images to report while training


class FolderSplit:
    """A split of a data set on disk, with its labels.

    Args:
        dataset: The data set.
        source: Source of the image files.
        indices: Indices into the source, int64 [N].
        labels: Class indices, int64 [N], on the device.
        view: Transform for evaluation.
    """

    def __init__(
        self,
        dataset: FolderDataset,
        source: ImageSource,
        indices: Tensor,
        labels: Tensor,
        view: EvalTransform,
    ) -> None:
        self.dataset = dataset
        self.source = source
        self.indices = indices
        self.labels = labels
        self.view = view

    @property
    def reader(self) -> Reader:
        """Reader for training images."""
        return Reader(self.source, self.dataset.train_transform, self.dataset.fill)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.indices)

    def take(self, indices: Tensor) -> FolderSplit:
        """The images at ``indices``."""
        chosen = self.indices[indices.cpu()], self.labels[indices.to(self.labels.device)]
        return FolderSplit(self.dataset, self.source, *chosen, self.view)

    def chunks(self, size: int) -> Iterator[Tensor]:
        """The raw images in order, ``size`` at a time, uint8 [n, 3, H, W], on the device."""
        require_int("batch_size", size, least=1)
        return self.parts(self.indices.split(size), size)

    def identifying_parts(self) -> Iterator[tuple[str, bytes]]:
        """The list of all files of the source, and the indices and labels of these."""
        yield "files", self.source.listing()
        yield "indices", self.indices.numpy().tobytes()
        yield "labels", self.labels.cpu().numpy().tobytes()

    def parts(self, parts: Sequence[Tensor], size: int) -> Iterator[Tensor]:
        """The raw images at each of ``parts`` (indices into the source, at most ``size`` each)."""
        reader = Reader(self.source, self.view, self.dataset.fill)
        for images, failures in read_in_order(self.dataset, reader, parts, size):
            self.dataset.record_failures(self, failures)
            yield images


class FolderDataset:
    """Images on disk, split into ``train``, ``val`` and ``test``; read, decoded and augmented by worker processes.

    The official validation images are the test set, because no other labelled ones are published; ``val`` is taken
    from the training images with ``split_seed``, independent of the seed of a run. Unreadable images are replaced by
    single-coloured ones with the same label, reported while training and counted in the result; grey and CMYK images
    are converted to RGB.

    Args:
        data_root: Folder of the images; see `find`.
        packed: Shorter side of the packed images to read, from ``sparsebench data pack``; None reads the files.
        val_fraction: Fraction of the training images held out as ``val``, stratified, in (0, 1).
        split_seed: Seed of that split.
        train_samples: Number of (stratified) training images to keep after the split; None keeps all.
        mean: Mean of each channel, of pixels scaled to [0, 1].
        std: Standard deviation of each channel, same scale.
        size: Side of a training image, in pixels.
        scale: Smallest fraction of an image's area that a training image shows.
        flip: Whether training images are flipped horizontally with probability 1/2.
        augment: ``rand``, ``trivial``, ``auto`` or None; see `decoding.TrainTransform`, also for the next two.
        magnitude: Magnitude of RandAugment.
        erase: Probability of random erasing.
        repeats: Views per image and epoch (repeated augmentation), of correspondingly fewer images.
        test_resize: Length of the shorter side for evaluation, in pixels.
        test_size: Side of the centre crop for evaluation; the cost of models is counted at this size.
        workers: Number of reader processes; None for one per core, 0 for none.
        name: Name in results.
        device: Device of the batches.

    Raises:
        SettingError: A value is out of range, or images are missing.
    """

    def __init__(
        self,
        *,
        data_root: str,
        packed: int | None,
        val_fraction: float,
        split_seed: int,
        train_samples: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        size: int,
        scale: float,
        flip: bool,
        augment: str | None,
        magnitude: int,
        erase: float,
        repeats: int,
        test_resize: int,
        test_size: int,
        workers: int | None = None,
        name: str = "",
        device: torch.device | str = "cpu",
    ) -> None:
        for setting, value, least in (
            ("size", size, 1),
            ("test_resize", test_resize, 1),
            ("test_size", test_size, 1),
            ("repeats", repeats, 1),
            ("workers", 0 if workers is None else workers, 0),
            ("packed", 1 if packed is None else packed, 1),
        ):
            require_int(setting, value, least)
        if test_resize < test_size:
            raise SettingError("test_resize", test_resize, f"at least test_size, {test_size}")
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        if len(self.mean) != 3:
            raise SettingError("mean", list(mean), "one number for each of 3 channels")
        if len(self.std) != 3 or min(self.std) <= 0:
            raise SettingError("std", list(std), "one positive number for each of 3 channels")
        self.train_transform = TrainTransform(size, scale, bool(flip), augment, magnitude, erase, self.mean)
        self.fill = tuple(round(255 * x) for x in self.mean)
        self.input_shape, self.train_shape = (3, test_size, test_size), (3, size, size)
        self.repeats, self.workers, self.device = repeats, workers, torch.device(device)
        self.unreadable: dict[str, str] = {}  # name of the image -> reason
        self.world_size = 1  # ranks that share the cores of this machine, at most

        found = self.listing(expanded(data_root, "data_root"), packed)
        self.found = found
        self.num_classes = len(found.classes)
        self.name, self.note = self.dataset_name(name, found)
        self._split(found, val_fraction, split_seed, train_samples, EvalTransform(test_resize, test_size))

    def _split(
        self,
        found: ImageIndex,
        val_fraction: float,
        split_seed: int,
        train_samples: int | None,
        view: EvalTransform,
    ) -> None:
        def split(source: ImageSource, indices: Tensor, labels: Tensor) -> FolderSplit:
            return FolderSplit(self, source, indices, labels[indices].to(self.device), view)

        official, labels = torch.arange(len(found.train)), found.train_labels
        if found.test is None:
            in_test = torch.zeros(len(official), dtype=torch.bool)
            in_test[stratified(labels, round(TEST_FRACTION * len(labels)), TEST_SEED)] = True
            official = (~in_test).nonzero().squeeze(1)
            self.test = split(found.train, in_test.nonzero().squeeze(1), labels)
        else:
            self.test = split(found.test, torch.arange(len(found.test)), found.test_labels)
        train, val = splits_of(labels[official], self.num_classes, val_fraction, split_seed, train_samples)
        self.train, self.val = (
            split(found.train, official[train], labels),
            split(found.train, official[val], labels),
        )

    @classmethod
    def listing(cls, root: Path, packed_side: int | None = None) -> ImageIndex:
        """The images under ``root``, or the packed ones with shorter side ``packed_side``.

        Raises:
            SettingError: They are missing or invalid.
        """
        if packed_side is None:
            there = [
                index.parent
                for folder in cls.candidate_folders(root)
                for index in folder.glob(f"packed-*/{INDEX}")
            ]
            if there and not any(set(listing.folders_in(index.parent)) for index in there):
                side = there[0].name.removeprefix("packed-")
                raise SettingError("packed", None, f"{side}: {root} contains only packed images")
            return cls.find(root)
        candidate_folders = [folder / f"packed-{packed_side}" for folder in cls.candidate_folders(root)]
        found = next((folder for folder in candidate_folders if (folder / INDEX).is_file()), None)
        if found is None:
            looked = ", ".join(map(str, candidate_folders))
            allowed = f"a shorter side that sparsebench data pack has been run with (looked for {INDEX} in {looked})"
            raise SettingError("packed", packed_side, allowed)
        return packed(found)

    @classmethod
    def candidate_folders(cls, root: Path) -> list[Path]:
        """The folders that may hold the data set, in order of preference."""
        raise TypeError(f"{cls.__name__} does not implement candidate_folders()")

    @classmethod
    def find(cls, root: Path) -> ImageIndex:
        """The images under one of the `candidate_folders`."""
        raise TypeError(f"{cls.__name__} does not implement find()")

    def dataset_name(self, name: str, found: ImageIndex) -> tuple[str, str]:
        """The name in results, and a remark to print at the start of a run."""
        return name, ""

    def loader(self, batch_size: int, seed: int, *, channels_last: bool = False) -> StreamedLoader:
        """Training batches by step."""
        return StreamedLoader(self, batch_size, seed, channels_last=channels_last)

    def batches(
        self,
        split: SplitName,
        batch_size: int,
        *,
        channels_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All of a split once, in order, normalised, not augmented, on the device; with several ranks, this rank's."""
        require_int("batch_size", batch_size, least=1)
        self.world_size = max(self.world_size, world_size)
        chosen = {"train": self.train, "val": self.val, "test": self.test}[split]
        normalize = Normalize(self, channels_last)
        parts = chosen.indices.split(batch_size)[rank::world_size]
        labels = chosen.labels.split(batch_size)[rank::world_size]
        for images, targets in zip(chosen.parts(parts, batch_size), labels, strict=True):
            yield normalize(images), targets

    def summary(self) -> dict[str, Any]:
        """Column ``unreadable_images``: their number in all splits."""
        return {"unreadable_images": len(self.unreadable)}

    def record_failures(self, split: FolderSplit, failures: Failures) -> None:
        """Record unreadable images, and report the first ones.

        Raises:
            RunError: There are too many, so the cause is probably not the images.
        """
        for index, reason in failures.items():
            image = f"{'test' if split.source is self.found.test else 'train'}:{split.source.name(index)}"
            if image in self.unreadable:
                continue
            self.unreadable[image] = reason
            if len(self.unreadable) <= SHOWN:
                more = "; further ones are not reported" if len(self.unreadable) == SHOWN else ""
                print(printable(f"sparsebench: unreadable image {image}: {reason}{more}"), file=sys.stderr)
        everything = len(self.train) + len(self.val) + len(self.test)
        if len(self.unreadable) > max(SHOWN, everything // 100):
            image, reason = list(self.unreadable.items())[-1]
            raise RunError(f"{len(self.unreadable)} images are unreadable, the last one {image}: {reason}")


class ImageNet(FolderDataset):
    """ILSVRC 2012: 1,281,167 photographs in 1,000 classes for training, 50,000 for test.

    Searched in ``data_root`` and its subfolder imagenet: train/ with one folder per class, and val/ with the same
    folders, or flat next to the development kit (ILSVRC2012_devkit_t12, or its archive) or Kaggle's
    LOC_val_solution.csv; Kaggle's layout is supported too. A subset is called ``imagenet_subset`` in results.

    References:
        Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015, arXiv 1409.0575.
    """

    TRAIN, TEST, CLASSES = 1_281_167, 50_000, 1000

    @classmethod
    def candidate_folders(cls, root: Path) -> list[Path]:
        """The folders that may hold train and val."""
        kaggle = Path("ILSVRC/Data/CLS-LOC")
        return [root, root / "imagenet", root / kaggle, root / "imagenet" / kaggle]

    @classmethod
    def find(cls, root: Path) -> ImageIndex:
        """The images in any of the layouts."""
        candidate_folders = cls.candidate_folders(root)
        folder = next(listing.folders_containing(candidate_folders, "train", "val"), None)
        if folder is None:
            looked = ", ".join(map(str, candidate_folders))
            raise SettingError("data_root", root, f"a folder that holds train and val (looked in {looked})")
        return listing.imagenet(folder / "train", folder / "val", [folder, root, root / "imagenet"])

    def dataset_name(self, name: str, found: ImageIndex) -> tuple[str, str]:
        """``imagenet`` if it is complete."""
        assert found.test is not None
        here = len(found.classes), len(found.train), len(found.test)
        if here == (self.CLASSES, self.TRAIN, self.TEST):
            return "imagenet", ""
        classes, train, test = here
        note = (
            f"{classes:,} classes with {train:,} and {test:,} images; ImageNet has {self.CLASSES:,} with "
            f"{self.TRAIN:,} and {self.TEST:,}: results are called "
            "imagenet_subset and are not comparable with published ones"
        )
        return "imagenet_subset", note


class ImageFolder(FolderDataset):
    """Any folder of images, in subfolders named by class.

    ``data_root`` contains train/ and test/ (or val/, which is then the test set), each with one folder per class; or
    the class folders themselves, of which a stratified fifth, drawn with a fixed seed, is ``test``.

    References:
        Marcel and Rodriguez, "Torchvision the machine-vision package of torch", ACM Multimedia 2010 (the layout).
    """

    @classmethod
    def candidate_folders(cls, root: Path) -> list[Path]:
        """The folder itself."""
        return [root]

    @classmethod
    def find(cls, root: Path) -> ImageIndex:
        """The images, including test images if there are any."""
        if not root.is_dir():
            raise SettingError("data_root", root, "an existing folder")
        for test in ("test", "val"):
            if next(listing.folders_containing([root], "train", test), None):
                return listing.train_and_test(root / "train", root / test)
        train = root / "train" if (root / "train").is_dir() else root
        classes = listing.classes_of(train)
        return ImageIndex(classes, *listing.by_class(train, classes), None, torch.empty(0, dtype=torch.int64))

    def dataset_name(self, name: str, found: ImageIndex) -> tuple[str, str]:
        """The setting ``dataset.name``."""
        if not name:
            raise SettingError("name", name, "the name of this data set in results")
        return (
            name,
            ""
            if found.test is not None
            else "there is no test folder: a fifth of the images is held out for test",
        )
