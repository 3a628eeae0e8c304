"""Static INT8, strop's own: one file that ONNX Runtime and OpenVINO both run in integers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strop.errors import NotApplicable
from strop.models import graph
from strop.models.model import Model
from strop.records import Applicability, Choice, Space, Step, Target
from strop.techniques._base import Context, Technique
from strop.techniques.bias_correction import bias_shifts
from strop.techniques.calibration import Arrays, Batches, digest_of, watch
from strop.techniques.calibration_rows import Rows
from strop.techniques.equalisation import absorb, absorbable, equalise, find_pairs
from strop.techniques.float_graph import float_graph
from strop.techniques.folding import prepare
from strop.techniques.observers import Extremes, Histogram
from strop.techniques.onnx_view import GraphView
from strop.techniques.qdq import Ranges, round_weights, write_qdq
from strop.techniques.quantisable import Plan, Reach, plan
from strop.techniques.rounded_floats import as_floats
from strop.techniques.rounding import moments_of
from strop.techniques.sensitivity import cached, layer_errors, layer_microseconds, rank_layers
from strop.techniques.smoothquant import find_spots, smooth

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

KEPT_IN_FLOAT = (0.05, 0.1, 0.2, 0.4)
"""Shares of the layers that are tried in float."""
_RARELY_KEPT = 0.1
"""The largest of those shares that is tried with what departs from the defaults."""
_WIDE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "neon", "asimd"})
"""Instruction sets whose integer products do not saturate 16-bit sums."""


class StaticINT8(Technique):
    """Weights and activations in INT8 with ranges from calibration rows, as a QDQ graph.

    Weights are rounded for the least change of each layer's output (GPTQ), what that leaves in
    the mean goes to the bias, and the layers that lose most stay in float; `keep_float` says how
    many, as a share of all.

    Parameters of the space
    -----------------------
    calibrator
        ``mse``, ``entropy``, ``percentile`` or ``minmax``: how ranges are read from histograms.
    equalise
        ``scale`` evens out the channels between layers beforehand (cross-layer equalisation),
        ``absorb`` also moves what channels always carry to the next bias, ``none`` neither.
    keep_float
        Share of the layers kept in float, the most sensitive ones (strop.techniques.sensitivity).
    smooth
        Alpha of SmoothQuant, 0 for none; only where matrix products follow a normalisation.
    bias_correction
        Whether biases take up the mean error.
    rounding
        ``compensated`` (GPTQ), ``adaround`` or ``nearest``.
    reach
        How far int8 spreads beyond the layers: ``wide`` or ``narrow``
        (see strop.techniques.quantisable); tried only where they differ.
    rank
        ``error``, or ``error-per-microsecond``, which measures times and so may rank otherwise
        the next time.
    """

    name = "int8-static"
    version = 2
    consumes = "onnx"
    produces = ("onnx",)
    roles = ("calibrate",)
    packages = ("onnx", "onnxruntime")
    stage = 60
    family = "int8"

    def applies(self, model: Model, target: Target) -> Applicability:
        proto = float_graph(model, target)
        if isinstance(proto, Applicability):
            return proto
        if not plan(GraphView(prepare(proto))).layers:
            return Applicability.no(
                "no float32 convolution or matrix product with constant weights between the "
                "model's input and its output"
            )
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        view = GraphView(prepare(graph.read(model.forms["onnx"])))
        alphas = (0.5, 0.0) if find_spots(view) else (0.0,)
        pairs = find_pairs(view)
        # A Clip between two layers becomes Max and Min, which have no integer kernel: those pairs
        # cost more time than a little quality is worth, so they are not tried unasked.
        rectified = any(pair.clip is None for pair in pairs) and not any(
            pair.clip for pair in pairs
        )
        count = len(plan(view).layers)
        # Shares that keep no layer, or as many as a smaller share does, say nothing new.
        kept = {math.floor(share * count): share for share in reversed(KEPT_IN_FLOAT)}
        shares = tuple(sorted({0.0, *(share for number, share in kept.items() if number)}))
        reaches = ("wide", "narrow") if plan(view, reach="wide") != plan(view) else ("wide",)
        return Space(
            choices=(
                Choice(name="calibrator", values=("mse", "minmax", "entropy")),
                Choice(name="keep_float", values=shares),
                Choice(name="smooth", values=alphas),
                Choice(name="bias_correction", values=(True,)),
                Choice(name="rounding", values=("compensated", "adaround")),
                Choice(name="equalise", values=("none", "scale") if rectified else ("none",)),
                Choice(name="rank", values=("error",)),
                Choice(name="reach", values=reaches),
            )
        )

    def follows(self, earlier: Sequence[Step], params: Mapping[str, Any]) -> bool:
        # One departure from the defaults at a time, and the rarer ones with few layers in float:
        # all with all would be sixty recipes that differ by less than they cost to try.
        rare = [
            params.get("calibrator") == "entropy",
            params.get("rounding") == "adaround",
            params.get("equalise", "none") != "none",
            params.get("reach", "wide") != "wide",
        ]
        if not any(rare):
            return True
        departures = sum(rare) + (params.get("calibrator") == "minmax")
        return departures == 1 and float(params["keep_float"]) <= _RARELY_KEPT

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        rows = Rows.of(model, ctx.data["calibrate"], ctx.seed)
        digest = digest_of(rows.batches)
        bits = weight_bits(ctx.target)
        key = calibration_key(model.digest, digest, params, bits)
        quantiser = _recent.get(key)
        if quantiser is None:
            # Recipes that differ in `keep_float` alone follow one another in a search and share
            # all the calibration: the last one is kept, in this process only.
            network = prepare(graph.read(model.forms["onnx"]))
            _recent.clear()
            quantiser = Quantiser(network, rows.batches, rows.sample(), params, bits=bits, ctx=ctx)
            _recent[key] = quantiser
        quantiser.ctx = ctx
        keep = quantiser.most_sensitive(float(params["keep_float"]), key)
        result = quantiser.build(keep)
        graph.write(result, ctx.workdir / "onnx" / "model.onnx")
        kept = set(keep)
        return Model.seal(
            ctx.workdir,
            model.signature,
            meta={
                **model.meta,
                "quantised": True,
                "calibration": {
                    "rows": rows.source_rows,
                    "digest": digest,
                    "seed": ctx.seed,
                },
                "weight_bits": bits,
                "int8_layers": [n for n in quantiser.layer_names if n not in kept],
                "float_layers": sorted(kept),
            },
        )


def weight_bits(target: Target) -> int:
    """Bits of the weights: 7 where integer products saturate 16-bit sums, else 8."""
    return 8 if _WIDE_SUMS & set(target.machine.isa) else 7


def calibration_key(model: str, rows: str, params: Mapping[str, Any], bits: int) -> str:
    """Of all that shapes a `Quantiser`, as hexadecimal digits: digests of model and rows."""
    shaping = {name: value for name, value in params.items() if name != "keep_float"}
    text = json.dumps([StaticINT8.version, model, rows, shaping, bits], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Start:
    """A network that rounds to what `Quantiser.build` writes, for training to go on from.

    Attributes
    ----------
    network
        In float, each weight the float that its integer stands for, biases corrected.
    plan
        Of that network.
    ranges
        (low, high) of every tensor of the plan.
    scales
        float32[channels], the step of each layer's weights, by layer name.
    """

    network: ModelProto
    plan: Plan
    ranges: Ranges
    scales: Mapping[str, np.ndarray]


class Quantiser:
    """Everything about one model and its calibration rows that quantised versions share.

    Parameters
    ----------
    network
        Prepared by :func:`strop.techniques.folding.prepare`.
    batches
        Starts a pass over the calibration rows.
    sample
        One batch of them, which layers are ranked on.
    params
        As `StaticINT8.space` has them.
    bits
        Of the weights.
    """

    def __init__(
        self,
        network: ModelProto,
        batches: Batches,
        sample: Arrays,
        params: Mapping[str, Any],
        *,
        bits: int = 8,
        ctx: Context,
    ) -> None:
        self._batches = batches
        self._sample = sample
        self._params = params
        self.ctx = ctx
        network = self._equalised(network, str(params.get("equalise", "none")))
        self.network = self._smoothed(network, float(params["smooth"]))
        self._view = GraphView(self.network)
        self._reach: Reach = params.get("reach", "narrow")
        self._plan = plan(self._view, reach=self._reach)
        if not self._plan.layers:
            raise NotApplicable("no layer can run in int8")
        ctx.emit(f"calibrating {len(self._plan.tensors)} tensors")
        self._ranges = self._observed_ranges()
        covariances = (
            moments_of(self.network, self._plan.layers, batches, deadline=ctx.deadline)
            if params["rounding"] != "nearest"
            else {}
        )
        self._rounded = round_weights(
            self.network,
            self._plan,
            self._ranges,
            bits=bits,
            covariances=covariances,
            learned=params["rounding"] == "adaround",
            deadline=ctx.deadline,
        )
        self._shifts = (
            bias_shifts(
                self.network,
                self._plan,
                self._ranges,
                self._rounded,
                batches,
                deadline=ctx.deadline,
            )
            if params["bias_correction"]
            else {}
        )

    @property
    def layer_names(self) -> list[str]:
        """The layers that run in int8 when none is kept in float, in the graph's order."""
        return [layer.name for layer in self._plan.layers]

    def build(self, keep_float: Collection[str]) -> ModelProto:
        """The quantised model with the layers of the given names in float."""
        chosen = plan(self._view, keep_float=keep_float, reach=self._reach)
        return write_qdq(self.network, chosen, self._ranges, self._rounded, bias_shift=self._shifts)

    def start(self, keep_float: Collection[str]) -> Start:
        """Where training goes on from, with the layers of the given names in float."""
        chosen = plan(self._view, keep_float=keep_float, reach=self._reach)
        network = as_floats(self.network, chosen.layers, self._rounded, self._shifts)
        scales = {layer.name: self._rounded[layer.name].scales for layer in chosen.layers}
        chosen = plan(GraphView(network), keep_float=keep_float, reach=self._reach)
        return Start(network, chosen, self._ranges, scales)

    def most_sensitive(self, share: float, key: str) -> list[str]:
        """The names of a share of the layers, those that cost most first; one at least unless
        `share` is 0. The ranking is kept beside the working directory under `key`.
        """
        if share <= 0:
            return []
        file = self.ctx.workdir.parent / f"sensitivity-{key[:16]}.json"
        ranking = cached(file, key, self._ranking)
        return list(ranking["order"][: max(1, math.floor(share * len(self.layer_names)))])

    def _ranking(self) -> dict[str, Any]:
        self.ctx.emit(f"ranking {len(self.layer_names)} layers by what int8 costs in each")
        layers = self._plan.layers
        errors = layer_errors(
            self.network, layers, self.build, self._sample, deadline=self.ctx.deadline
        )
        microseconds = None
        if self._params["rank"] == "error-per-microsecond":
            microseconds = layer_microseconds(
                self.network,
                self.build(()),
                layers,
                next(iter(self._batches())),
                threads=self.ctx.target.thread_count,
            )
        return {
            "order": rank_layers(errors, microseconds),
            "errors": errors,
            "microseconds": microseconds,
        }

    def _equalised(self, network: ModelProto, how: str) -> ModelProto:
        if how == "none":
            return network
        network = equalise(network)
        pairs = absorbable(GraphView(network)) if how == "absorb" else []
        if not pairs:
            return network
        seen = {pair.first.raw_output: Extremes(axis=1) for pair in pairs}
        observers = {name: [observer] for name, observer in seen.items()}
        watch(network, observers, self._batches, deadline=self.ctx.deadline)
        lows = {name: entry.low for name, entry in seen.items() if entry.low is not None}
        return absorb(network, lows)

    def _smoothed(self, network: ModelProto, alpha: float) -> ModelProto:
        spots = find_spots(GraphView(network)) if alpha else []
        if not spots:
            return network
        seen = {spot.tensor: Extremes(axis=-1) for spot in spots}
        observers = {name: [observer] for name, observer in seen.items()}
        watch(network, observers, self._batches, deadline=self.ctx.deadline)
        return smooth(network, {name: seen[name].magnitude() for name in seen}, alpha)

    def _observed_ranges(self) -> dict[str, tuple[float, float]]:
        seen = {name: Histogram() for name in self._plan.tensors}
        observers = {}
        for name, histogram in seen.items():
            value = self._view.constant(name)
            if value is None:
                observers[name] = [histogram]
            else:
                # Of a table all rows count: others may be asked for than these batches ask for.
                histogram.update(value)
        try:
            watch(self.network, observers, self._batches, deadline=self.ctx.deadline)
        except ValueError as error:
            raise NotApplicable(f"calibration failed: {error}") from error
        calibrator = self._params["calibrator"]
        return {name: histogram.range(calibrator) for name, histogram in seen.items()}


_recent: dict[str, Quantiser] = {}
