"""Layer-wise sparsities from the literature: by shape, by position, or from a file."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence

from sparsebench.errors import SettingError, require_file
from sparsebench.paths import expanded
from sparsebench.pruning.allocation import LayerWise

Shapes = Mapping[str, tuple[int, ...]]


class ER(LayerWise):
    """Erdős-Rényi: density proportional to the sum of a layer's channels over their product.

    density_l = ε (n_in + n_out) / (n_in n_out); for convolutions, of the channels. ε gives the exact total; a layer
    whose density would exceed 1 is dense, and ε is recomputed for the others.

    Example:
        >>> ER().counts({"a": (4, 4), "b": (4, 12)}, 0.625)  # with ε = 1 they keep 8/16 and 16/48
        [8, 32]

    References:
        Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
        inspired by network science", Nature Communications 2018, arXiv 1707.04780.
    """

    def raw(self, shape: tuple[int, ...]) -> float:
        """Density before scaling by ε."""
        return sum(shape[:2]) / math.prod(shape[:2])

    def zeros(self, shapes: Shapes, sparsity: float) -> list[float]:
        """(1 - density_l) N_l."""
        numels = [math.prod(shape) for shape in shapes.values()]
        raw = [self.raw(shape) for shape in shapes.values()]
        free = set(range(len(raw)))
        while free:
            budget = (1 - sparsity) * sum(numels) - sum(n for i, n in enumerate(numels) if i not in free)
            epsilon = budget / sum(raw[i] * numels[i] for i in free)
            densest = max(raw[i] for i in free)
            if epsilon * densest <= 1:
                return [(1 - epsilon * raw[i]) * n if i in free else 0.0 for i, n in enumerate(numels)]
            free = {i for i in free if raw[i] != densest}
        return [0.0] * len(raw)


class ERK(ER):
    """Erdős-Rényi-Kernel: density proportional to the sum of a layer's dimensions over their product.

    density_l = ε (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w); without the kernel for linear layers.

    Differs from the paper:
        Counts are rounded so that the total is exact, instead of floored per layer.

    Example:
        >>> ERK().counts({"conv": (4, 4, 2, 2), "fc": (4, 2)}, 0.75)  # with ε = 1 they keep 12/64 and 6/8
        [52, 2]

    References:
        Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv 1911.11134, section 3.
    """

    def raw(self, shape: tuple[int, ...]) -> float:
        """Density before scaling by ε."""
        return sum(shape) / math.prod(shape)


class UniformPlus(LayerWise):
    """Uniform, but the first convolution is dense and the classifier keeps at least 20 % of its weights.

    The remaining layers make up for these two. A first layer that is not a convolution, or a last one that is not
    linear, is treated like the others.

    Example:
        >>> UniformPlus().counts({"first": (2, 1, 2, 2), "between": (5, 2, 2, 2), "fc": (4, 5)}, 0.75)  # of 8, 40, 20
        [0, 35, 16]

    References:
        Gale, Elsen and Hooker, "The State of Sparsity in Deep Neural Networks", 2019, arXiv 1902.09574, section 5.
    """

    def zeros(self, shapes: Shapes, sparsity: float) -> list[float]:
        """min(s', limit_l) N_l with one s' for all."""
        dims = list(shapes.values())
        limits = [1.0] * len(dims)
        limits[0] = 0.0 if len(dims[0]) > 2 else 1.0
        limits[-1] = min(limits[-1], 0.8) if len(dims[-1]) == 2 else limits[-1]
        numels = [math.prod(shape) for shape in dims]
        fraction = _level(sparsity * sum(numels), numels, limits)
        return [min(fraction, limit) * n for limit, n in zip(limits, numels, strict=True)]


class Balanced(LayerWise):
    """The same number of kept weights in every layer; layers with fewer weights are dense.

    Example:
        >>> Balanced().counts({"a": (2, 5), "b": (3, 10), "c": (6, 10)}, 0.6)  # 10, 15 and 15 weights are left
        [0, 15, 45]

    References:
        Vysogorets and Kempe, "Connectivity Matters: Neural Network Pruning Through the Lens of Effective
        Sparsity", JMLR 2023, arXiv 2107.02306 (ideal gas quotas as the comparison to it).
    """

    def zeros(self, shapes: Shapes, sparsity: float) -> list[float]:
        """N_l - min(N_l, c) with one c for all."""
        numels = [math.prod(shape) for shape in shapes.values()]
        kept = _level((1 - sparsity) * sum(numels), [1.0] * len(numels), [float(n) for n in numels])
        return [n - min(float(n), kept) for n in numels]


class SmartRatio(LayerWise):
    """Smart ratios: the kept fraction of convolutions falls quadratically with depth; that of linear layers is fixed.

    Convolution i of n, counted from the input, keeps a fraction proportional to (n - i + 1)² + (n - i + 1), divided by
    i² with ``decreasing``. A ratio above 1 spills over to the next layers.

    Args:
        linear: Fraction of weights that linear layers keep.
        decreasing: Divide by i², as the authors do for networks other than ResNets.
        allow_layer_collapse: As for every allocation.

    Example:
        >>> conv = (5, 1, 2, 2)  # the first of two keeps 2² + 2 where the second keeps 1² + 1
        >>> SmartRatio().counts({"conv1": conv, "conv2": conv, "fc": (2, 5)}, 0.78)  # 6, 2 and 30 % are left
        [14, 18, 7]

    References:
        Su, Chen, Cai, Wu, Gao, Wang and Lee, "Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot",
        NeurIPS 2020, arXiv 2009.11094, section 4.1.
    """

    def __init__(
        self,
        linear: float = 0.3,
        decreasing: bool = False,
        allow_layer_collapse: bool = False,
        compat: str | None = None,
    ) -> None:
        super().__init__(allow_layer_collapse, compat)
        if not 0 <= linear <= 1:
            raise SettingError("linear", linear, "a fraction of weights in [0, 1]")
        self.linear, self.decreasing = linear, decreasing

    def zeros(self, shapes: Shapes, sparsity: float) -> list[float]:
        """(1 - ratio_l) N_l; linear layers change only if the convolutions cannot reach the total."""
        dims, numels = list(shapes.values()), [math.prod(shape) for shape in shapes.values()]
        convs = [i for i, shape in enumerate(dims) if len(shape) > 2]
        in_convs = sum(numels[i] for i in convs)
        in_linears = sum(numels) - in_convs
        budget = (1 - sparsity) * sum(numels)
        for_linears = min(max(self.linear * in_linears, budget - in_convs), budget)
        kept = [for_linears * n / in_linears if i not in convs else 0.0 for i, n in enumerate(numels)]
        places = range(1, len(convs) + 1)
        raw = [
            ((len(convs) - i + 1) ** 2 + len(convs) - i + 1) / (i**2 if self.decreasing else 1)
            for i in places
        ]
        of_convs = _spilling(budget - for_linears, raw, [numels[i] for i in convs])
        for i, weights in zip(convs, of_convs, strict=True):
            kept[i] = weights
        return [n - k for n, k in zip(numels, kept, strict=True)]


class FromFile(LayerWise):
    r"""Layer sparsities from a CSV with columns ``layer`` and ``sparsity``, such as another run's layers.csv.

    Below the target sparsity, every layer's number of zeros is proportional to its final one.

    Args:
        path: The file.
        sparsity: Target sparsity, which the layers in the file have to add up to.
        allow_layer_collapse: As for every allocation.

    Raises:
        SettingError: The file is unreadable, lacks a layer, or adds up to a different sparsity.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "layers.csv")
        ...     _ = path.write_text("layer,sparsity\na,0.9\nb,0.5\n")
        ...     FromFile(str(path), sparsity=0.7).counts({"a": (2, 5), "b": (2, 5)}, 0.7)
        [9, 5]

    References:
        Frankle, Dziugaite, Roy and Carbin, "Pruning Neural Networks at Initialization: Why Are We Missing the
        Mark?", ICLR 2021, arXiv 2009.08576, section 5 (random masks with a method's layer sparsities).
    """

    def __init__(
        self, path: str, sparsity: float, allow_layer_collapse: bool = False, compat: str | None = None
    ) -> None:
        super().__init__(allow_layer_collapse, compat)
        self.path, self.sparsity = path, sparsity
        file_path = expanded(path)
        wanted = "a CSV with columns layer and sparsity, for example a run's layers.csv"
        require_file("path", path, file_path, wanted)
        try:
            with open(file_path, newline="", encoding="utf-8") as file:
                self.layers = {row["layer"]: float(row["sparsity"]) for row in csv.DictReader(file)}
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise SettingError("path", path, f"{wanted} ({type(error).__name__}: {error})") from error
        for layer, value in self.layers.items():
            if not 0 <= value <= 1:
                raise SettingError("path", path, f"fractions of zeros in [0, 1]; that of {layer} is {value}")

    def check(self, shapes: Shapes, sparsity: float) -> None:
        """Raise if the file lacks a layer or adds up to a different sparsity."""
        missing = [name for name in shapes if name not in self.layers]
        if missing:
            raise SettingError(
                "path", self.path, f"a row for every prunable layer; it lacks {', '.join(missing)}"
            )
        numel = sum(math.prod(shape) for shape in shapes.values())
        found = math.fsum(self.layers[name] * math.prod(shape) for name, shape in shapes.items())
        if abs(found - self.sparsity * numel) > 1 + len(shapes) / 2:  # one rounding per layer
            raise SettingError(
                "sparsity", self.sparsity, f"{found / numel:.6g}, what the layers in {self.path} add up to"
            )
        super().check(shapes, sparsity)

    def zeros(self, shapes: Shapes, sparsity: float) -> list[float]:
        """s_l N_l, scaled to the total."""
        own = [self.layers[name] * math.prod(shape) for name, shape in shapes.items()]
        target_zeros = sparsity * sum(math.prod(shape) for shape in shapes.values())
        scale = target_zeros / math.fsum(own) if any(own) else 0.0
        return [min(scale * z, math.prod(shape)) for z, shape in zip(own, shapes.values(), strict=True)]


def _level(total: float, rates: Sequence[float], limits: Sequence[float]) -> float:
    """Water-filling: the x with Σ min(x, limit_i) · rate_i = total; infinite if the limits are too low."""
    rate = math.fsum(rates)
    for limit, own in sorted(zip(limits, rates, strict=True)):
        if total <= limit * rate:
            return total / rate
        total -= limit * own
        rate -= own
    return math.inf


def _spilling(total: float, raw: Sequence[float], numels: Sequence[int]) -> list[float]:
    """Kept weights proportional to raw_i · numel_i with sum ``total``; what exceeds a layer spills to the next ones."""
    if not numels:
        return []

    def fill(scale: float) -> list[float]:
        kept, carry = [], 0.0
        for r, n in zip(raw, numels, strict=True):
            wanted = scale * r * n + carry
            kept.append(min(wanted, float(n)))
            carry = wanted - kept[-1]
        return kept

    low, high = 0.0, 1.0
    while math.fsum(fill(high)) < min(total, sum(numels)) and high < 1e18:
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if math.fsum(fill(middle)) < total else (low, middle)
    return fill(high)
