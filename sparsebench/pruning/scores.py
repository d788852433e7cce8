"""Scores of weights: higher means keep. Scores have no side effects."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsebench.errors import SettingError, require_file
from sparsebench.paths import expanded
from sparsebench.transfer import send


class Score:
    """Maps weights to scores of the same shapes; higher means keep."""

    recordable = False
    """Whether scores follow from the weights by operations on their device alone."""

    def __call__(
        self, weights: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Scores of ``weights`` (name -> tensor); ``generator`` is a CPU generator for random scores."""
        raise TypeError(f"{type(self).__name__} does not implement __call__()")

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise before training if a layer (name -> shape) has no score."""


class Magnitude(Score):
    """The absolute value of the weight, |w|.

    Example:
        >>> Magnitude()({"w": torch.tensor([0.5, -2.0])})["w"].tolist()
        [0.5, 2.0]

    References:
        Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks",
        NeurIPS 2015, arXiv 1506.02626.
    """

    recordable = True

    def __call__(
        self, weights: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """|w| in float32, because half precision would cause ties; of all layers at once, in one tensor."""
        flat = torch.cat([weight.detach().float().reshape(-1) for weight in weights.values()]).abs_()
        sizes = flat.split([weight.numel() for weight in weights.values()])
        return {
            name: size.view(weight.shape) for (name, weight), size in zip(weights.items(), sizes, strict=True)
        }


class Trained(Score):
    """The magnitude of another run's final weights, whose mask or largest weights are kept.

    Args:
        path: A run folder, or its ``model.safetensors``.

    Raises:
        SettingError: There is no such file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from safetensors.torch import save_file
        >>> with TemporaryDirectory() as folder:
        ...     save_file({"w": torch.tensor([3.0, 0.0, -4.0])}, f"{folder}/model.safetensors")
        ...     Trained(folder)({"w": torch.ones(3)})["w"].tolist()
        [3.0, 0.0, 4.0]

    References:
        Frankle and Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR 2019,
        arXiv 1803.03635 (a mask found by training, trained again).
    """

    recordable = True

    def __init__(self, path: str) -> None:
        from safetensors.torch import load_file

        self.path, file = path, expanded(path)
        file = file / "model.safetensors" if file.is_dir() else file
        require_file("path", path, file, "a run folder or its model.safetensors")
        try:
            self.trained = load_file(file)
        except Exception as error:  # safetensors raises its own exception
            raise SettingError("path", path, f"a run folder or its model.safetensors ({error})") from error

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise if the run has another model."""
        for name, shape in shapes.items():
            if name not in self.trained or tuple(self.trained[name].shape) != shape:
                raise SettingError(
                    "score.path", self.path, f"weights of this model; it has no {name} of this shape"
                )

    def __call__(
        self, weights: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """|w| of the other run."""
        for name, weight in weights.items():
            self.trained[name] = send(self.trained[name], weight.device)  # once; it stays there
        return {name: self.trained[name].float().abs() for name in weights}


class Random(Score):
    """Standard normal scores: random pruning.

    Example:
        >>> seeds = (torch.Generator().manual_seed(seed) for seed in (0, 0, 1))
        >>> one, same, other = (Random()({"w": torch.ones(3)}, seed)["w"].tolist() for seed in seeds)
        >>> one == same, one == other
        (True, False)

    References:
        Liu et al., "The Unreasonable Effectiveness of Random Pruning", ICLR 2022, arXiv 2202.02643.
    """

    def __call__(
        self, weights: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Drawn on the CPU, so that every device and rank gets the same numbers."""
        return {
            name: send(torch.randn(weight.shape, generator=generator), weight.device)
            for name, weight in weights.items()
        }
