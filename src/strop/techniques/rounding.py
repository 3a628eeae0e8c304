"""Round weights so that each layer's *output* changes least, not each weight.

Column by column, the error of a rounded weight is made up for by the weights not yet rounded,
through the second moments of what the layer reads: optimal brain quantisation in the fixed order
of Frantar et al., *GPTQ* (ICLR 2023, algorithm 1), here for convolutions of any grouping as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strop.techniques.calibration import Batches, Observer, watch
from strop.techniques.onnx_view import GraphView, attribute
from strop.techniques.quantisable import Layer

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

GREATEST_FAN_IN = 2304
"""Weights an output channel beyond which a layer is rounded to nearest: the work grows with the
cube, and the error of each output averages out anyway."""

PATCHES = 512
"""Positions of one batch that a layer's second moments are taken over at most."""

MOMENT_BYTES = 256 << 20
"""Second moments kept at once; more layers take another pass over the rows."""

DAMPING = 0.01
"""Share of the mean second moment added to each: few rows leave the moments singular."""


class Moments:
    """Mean and second moments of the patches that a layer multiplies with its weights.

    Attributes
    ----------
    total
        float64[groups, fan_in], sum of the patches.
    products
        float64[groups, fan_in, fan_in], sum of their outer products.
    """

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self.count = 0
        self.total = np.zeros((patches.groups, patches.fan_in))
        self.products = np.zeros((patches.groups, patches.fan_in, patches.fan_in))

    def update(self, values: np.ndarray) -> None:
        patches = self._patches.of(values)
        self.count += patches.shape[1]
        self.total += patches.sum(axis=1)
        self.products += np.matmul(patches.transpose(0, 2, 1), patches)

    def covariance(self) -> np.ndarray:
        """float64[groups, fan_in, fan_in] about the mean: a bias takes the mean's share."""
        mean = self.total / self.count
        return self.about_zero() - mean[:, :, None] * mean[:, None, :]

    def about_zero(self) -> np.ndarray:
        """float64[groups, fan_in, fan_in], for layers whose bias stays as it is."""
        return self.products / self.count


@dataclass(frozen=True)
class Patches:
    """How a layer cuts what it reads into rows that meet its weights."""

    groups: int
    fan_in: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()

    @classmethod
    def of_layer(cls, layer: Layer, node: NodeProto, weight: np.ndarray) -> Patches | None:
        """None for what is not cut here (automatic padding)."""
        if layer.op != "Conv":
            return cls(1, weight.shape[1 - layer.channel_axis])
        if attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
            return None
        kernel = weight.shape[2:]
        ones, zeros = [1] * len(kernel), [0] * (2 * len(kernel))
        return cls(
            layer.groups,
            int(np.prod(weight.shape[1:])),
            kernel,
            tuple(attribute(node, "strides", ones)),
            tuple(attribute(node, "pads", zeros)),
            tuple(attribute(node, "dilations", ones)),
        )

    def of(self, values: np.ndarray) -> np.ndarray:
        """float64[groups, patches, fan_in], at most `PATCHES` of them, evenly spread."""
        if not self.kernel:
            rows = values.reshape(-1, values.shape[-1])
            return np.asarray(rows[_spread(len(rows))][None], np.float64)
        rank = len(self.kernel)
        pads = [(0, 0), (0, 0), *zip(self.pads[:rank], self.pads[rank:], strict=True)]
        padded = np.pad(values, pads)
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        axes = tuple(range(2, 2 + rank))
        windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
        for axis, step in enumerate((*self.strides, *self.dilations), start=2):
            windows = windows[(slice(None),) * axis + (slice(None, None, step),)]
        positions = (windows.shape[0], *windows.shape[2 : 2 + rank])
        chosen = np.unravel_index(_spread(int(np.prod(positions))), positions)
        by_position = np.moveaxis(windows, 1, 1 + rank)
        cut = by_position[chosen].reshape(-1, self.groups, self.fan_in)
        return cut.transpose(1, 0, 2).astype(np.float64)


def moments_of(
    model: ModelProto,
    layers: Sequence[Layer],
    batches: Batches,
    *,
    about_mean: bool = True,
    deadline: float | None = None,
) -> dict[str, np.ndarray]:
    """Covariance of what each layer reads in the float model, by layer name.

    About zero instead of the mean where `about_mean` is False. Layers with a fan-in above
    `GREATEST_FAN_IN` are left out.
    """
    view = GraphView(model)
    result: dict[str, np.ndarray] = {}
    waiting: dict[str, tuple[str, Patches]] = {}
    held = 0

    def flush() -> None:
        # Layers that read the same in the same way (an attention's three) share their moments.
        shared = {place: Moments(place[1]) for place in waiting.values()}
        moments = {name: shared[place] for name, place in waiting.items()}
        observers: dict[str, list[Observer]] = {}
        for (data, _), found in shared.items():
            observers.setdefault(data, []).append(found)
        if observers:
            watch(model, observers, batches, deadline=deadline)
        for name, entry in moments.items():
            result[name] = entry.covariance() if about_mean else entry.about_zero()
        waiting.clear()

    for layer in layers:
        weight = view.constant(layer.weight)
        assert weight is not None
        patches = Patches.of_layer(layer, view.nodes[layer.name], weight)
        if patches is None or patches.fan_in > GREATEST_FAN_IN:
            continue
        size = 8 * patches.groups * patches.fan_in**2
        if held + size > MOMENT_BYTES:
            flush()
            held = 0
        waiting[layer.name] = (layer.data, patches)
        held += size
    flush()
    return result


def compensated(
    weight: np.ndarray, scales: np.ndarray, layer: Layer, covariance: np.ndarray, *, bits: int = 8
) -> np.ndarray:
    """int8 weights of the shape of `weight`, each output channel in its own scale.

    Parameters
    ----------
    covariance
        float64[groups, fan_in, fan_in] of what the layer reads.
    """
    limit = 2 ** (bits - 1) - 1
    moved = np.moveaxis(weight, layer.channel_axis, 0)
    rows = moved.reshape(layer.groups, moved.shape[0] // layer.groups, -1).astype(np.float64)
    steps = scales.astype(np.float64).reshape(layer.groups, -1, 1)
    stored = compensate(rows, steps, -limit, limit, covariance)
    return np.moveaxis(stored.reshape(moved.shape), 0, layer.channel_axis).astype(np.int8)


def compensate(
    rows: np.ndarray,
    steps: np.ndarray,
    low: np.ndarray | float,
    high: np.ndarray | float,
    moments: np.ndarray,
) -> np.ndarray:
    """Integers for weights, each rounded error made up for by the weights after it.

    Parameters
    ----------
    rows
        float64[groups, rows, fan_in].
    steps, low, high
        float64, of that shape or broadcast to it: the step of each weight, and the least and the
        greatest integer that it may take.
    moments
        float64[groups, fan_in, fan_in], second moments of what the rows are multiplied with.

    Returns
    -------
    float64[groups, rows, fan_in] of whole numbers.
    """
    groups, _, fan_in = rows.shape
    bounds = (steps, np.float64(low), np.float64(high))
    steps, low, high = (np.broadcast_to(each, rows.shape) for each in bounds)
    stored = np.empty_like(rows)
    diagonal = np.einsum("gii->gi", moments)
    damped = moments + np.eye(fan_in) * (DAMPING * diagonal.mean(axis=1)[:, None, None] + 1e-12)
    # Great second moments first: their errors still find others to make up for them.
    order = np.argsort(-diagonal, axis=1, kind="stable")
    group = np.arange(groups)[:, None]
    damped = damped[group[:, :, None], order[:, :, None], order[:, None, :]]
    rows = np.take_along_axis(rows, order[:, None, :], axis=2)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    for start in range(0, fan_in, 64):
        stop = min(start + 64, fan_in)
        errors = np.empty((*rows.shape[:2], stop - start))
        for column in range(start, stop):
            value = rows[:, :, column]
            place = order[:, None, column : column + 1]
            step, least, most = (
                np.take_along_axis(each, place, axis=2)[:, :, 0] for each in (steps, low, high)
            )
            rounded = np.clip(np.round(value / step), least, most)
            stored[:, :, column] = rounded
            error = (value - rounded * step) / upper[:, None, column, column]
            rows[:, :, column:stop] -= error[:, :, None] * upper[:, None, column, column:stop]
            errors[:, :, column - start] = error
        rows[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    restored = np.empty_like(stored)
    np.put_along_axis(restored, np.broadcast_to(order[:, None, :], stored.shape), stored, axis=2)
    return restored


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, PATCHES)).astype(np.int64))
