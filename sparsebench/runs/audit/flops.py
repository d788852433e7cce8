"""The FLOPs of a training, from the history of its masks as far as that follows from the schedule and metrics.csv."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from sparsebench.pruning.pruner import Pruner
from sparsebench.runs.audit.findings import Report, number, same
from sparsebench.runs.audit.history import first_step
from sparsebench.runs.build import RunComponents
from sparsebench.runs.result import Network, training_layers

CLOSE = 1e-9
COLUMNS = ("train_flops", "train_flops_ratio", "train_flops_ratio_dense_gradient")

Triple = tuple[float, float, float]
Range = tuple[float, float]
"""The least and the most multiply-accumulates of the kept weights for one sample."""


class TrainingCost:
    """The cost of a training as it is counted: 3 for the kept weights, with a dense gradient or forward pass more.

    Args:
        components: Of the run, freshly built.
        net: With the final weights.
        rows: Of metrics.csv.
        finished: Whether it went on to the end, and not to the last row.
        fixed: Multiply-accumulates of the kept weights, if masks never changed.
    """

    def __init__(
        self,
        components: RunComponents,
        net: Network,
        rows: Sequence[Mapping[str, str]],
        finished: bool,
        fixed: float | None,
    ) -> None:
        self.pruner, self.size, self.fixed = components.pruner, components.data.size, fixed
        self.start, self.end = first_step(rows), int(rows[-1]["step"])
        self.total = components.clock.total_steps
        if finished:
            self.end = self.total
        layers = {layer.name: layer for layer in training_layers(net.model, net.dataset, net.layers)}
        self.layers = sorted((layers[name].positions, layers[name].weights) for name in net.prunable)
        self.prunable = sum(positions * weights for positions, weights in self.layers)
        self.dense = sum(layer.macs for layer in layers.values())
        self.samples = sum(self.size(step) for step in range(self.start, self.end))
        training = self.pruner.training
        whole = sum(self.size(step) for step in range(self.total))
        self.before = (whole + (training - 1) * sum(self.size(s) for s in range(self.start, self.total))
                       if training else 0)  # fmt: skip
        self.reference = 3 * (whole if training else self.samples) * self.dense

    def kept(self, zeros: int | None) -> Range:
        """The cost of a sample with that many pruned weights; between two bounds, if layers differ in cost."""
        if zeros is None:
            return 0, self.prunable
        if self.fixed is not None:
            return self.fixed, self.fixed
        return _cost(self.layers, zeros), _cost(self.layers[::-1], zeros)

    def ranges(self, zeros_of: Callable[[int], int | None]) -> list[Range]:
        """(least, most) of each of :data:`COLUMNS`, with so many weights pruned when a step is counted."""
        found: list[Range] = []
        for most in (0, 1):
            macs = dense_gradient_macs = 0.0
            for samples, kept, dense_forward, dense_gradient in self._steps(zeros_of, most):
                unprunable = 3 * samples * (self.dense - self.prunable)
                if dense_forward:
                    macs += unprunable + 3 * samples * self.prunable
                    dense_gradient_macs += unprunable + 3 * samples * self.prunable
                    continue
                gradient = self.prunable if dense_gradient or (most and self.pruner.gradient_masks) else kept
                macs += unprunable + samples * (2 * kept + gradient)
                dense_gradient_macs += unprunable + samples * (2 * kept + self.prunable)
            found.append((macs, dense_gradient_macs))
        (low, low_dense), (high, high_dense) = found
        return [
            (2 * low, 2 * high),
            (low / self.reference, high / self.reference),
            (low_dense / self.reference, high_dense / self.reference),
        ]

    def _steps(
        self, zeros_of: Callable[[int], int | None], most: int
    ) -> Iterator[tuple[int, float, bool, bool]]:
        """(samples, kept cost, dense forward, dense gradient) of all steps, those of earlier trainings included."""
        last = self.pruner.training
        try:
            for training in range(last + 1):
                self.pruner.training = training
                end = self.end if training == last else self.total
                for step in range(self.start if training else 0, end):
                    kept = self.kept(zeros_of(step))[most]
                    yield (
                        self.size(step),
                        kept,
                        self.pruner.dense_forward(step),
                        self.pruner.dense_gradient(step),
                    )
        finally:
            self.pruner.training = last


def check_flops(
    components: RunComponents,
    net: Network,
    rows: Sequence[Mapping[str, str]],
    kept: Mapping[str, int] | None,
    report: Report,
) -> None:
    """Compare the training FLOPs with those of the masks.

    Where layers differ in cost and their masks between are not known, two bounds are. The ratio follows from the FLOPs
    in any case.

    Args:
        components: Of the run, freshly built.
        net: With the final weights.
        rows: Of metrics.csv.
        kept: Layer -> weights that the final masks keep, if that is known.
        report: Where findings go.
    """
    pruner = components.pruner
    if pruner.trainings > 1 and pruner.scheduled_sparsity(0) is None:
        report.unchecked(COLUMNS, "of several trainings without a target; --retrain compares it")
        return
    fixed = None
    if kept is not None and _never_changed(rows) and pruner.training == 0:
        positions = {
            layer.name: layer.positions for layer in training_layers(net.model, net.dataset, net.layers)
        }
        fixed = float(sum(positions[name] * count for name, count in kept.items()))
    cost = TrainingCost(components, net, rows, report.row.get("status") == "finished", fixed)
    claimed = [number(report.row.get(column)) for column in COLUMNS]
    for column, value in zip(COLUMNS, claimed, strict=True):
        if value is None:
            report.fail(column, report.row.get(column), "a number")
            return
    flops = float(report.row["train_flops"])
    report.compare(
        {"train_flops_ratio": flops / 2 / cost.reference},
        CLOSE * flops / cost.reference,
        " (train_flops)",
        False,
    )
    for ranges in (hypotheses := [cost.ranges(zeros) for zeros in _hypotheses(pruner)]):
        if all(_within(value or 0, *limits) for value, limits in zip(claimed, ranges, strict=True)):
            break
    else:
        for column, value, limits in zip(COLUMNS, claimed, hypotheses[0], strict=True):
            if not _within(value or 0, *limits):
                between = (
                    f"{limits[0]}" if same(str(limits[0]), limits[1], CLOSE * limits[1]) else "from {} to {}"
                )
                report.fail(column, value, between.format(*limits))
        return
    for column, (low, high) in zip(COLUMNS, ranges, strict=True):
        if low >= high * (1 - CLOSE):
            report.holds(column)
        else:
            report.unchecked(column, f"masks between are not kept; possible are {low:.6g} to {high:.6g}")


def _hypotheses(pruner: Pruner) -> list[Callable[[int], int | None]]:
    """Numbers of zeros that a step may be counted with: masks change before the forward pass, or after the step."""
    zeros = pruner.target_zeros

    def before(step: int) -> int | None:
        return zeros(max(step - 1, 0))

    def before_from_dense(step: int) -> int | None:
        return zeros(step - 1) if step else 0

    return [zeros, before, before_from_dense]


def _never_changed(rows: Sequence[Mapping[str, str]]) -> bool:
    """Whether masks were the same from before the first step to the end: no other weight was ever kept."""
    explored = {round(1 - float(row["explored"]), 12) for row in rows}
    return explored == {round(float(rows[-1]["sparsity"]), 12)} and len({r["sparsity"] for r in rows}) == 1


def _cost(layers: Sequence[tuple[int, int]], zeros: int) -> float:
    """The cost of the kept weights if the zeros are in the last of the layers, as far as they fit."""
    left, cost = sum(weights for _, weights in layers) - zeros, 0.0
    for positions, weights in layers:
        cost += positions * min(weights, left)
        left -= min(weights, left)
    return cost


def _within(value: float, low: float, high: float) -> bool:
    return low * (1 - CLOSE) <= value <= high * (1 + CLOSE)
