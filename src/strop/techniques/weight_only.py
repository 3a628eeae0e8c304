"""Weights in INT8 and INT4, a scale a block; activations stay as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import NotApplicable
from strop.models import graph
from strop.models.model import Model
from strop.records import Applicability, Choice, Space, Target
from strop.techniques._base import Context, Technique
from strop.techniques.block_layout import Table, find_tables, write_blocks
from strop.techniques.blockwise import Blocks, quantise_blocks
from strop.techniques.calibration import Arrays, check_deadline, digest_of, open_session
from strop.techniques.calibration_rows import Rows
from strop.techniques.float_graph import float_graph
from strop.techniques.folding import prepare
from strop.techniques.onnx_view import GraphView
from strop.techniques.quantisable import find_layers
from strop.techniques.rounding import moments_of
from strop.techniques.sensitivity import cached, output_error

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATION_ROWS = 48
"""Rows that second moments are taken over at most: each gives up to 64 positions of a sequence."""
_WORTHWHILE = 0.2
"""The share of the file that must be weights which can be stored in blocks."""
_ENGINES = ("onnxruntime", "openvino")
"""What was seen to keep the weights in few bits when it runs them."""
_STANDARD_OPSET = 21
"""From here on DequantizeLinear has blocks and 4 bits."""


class WeightOnly(Technique):
    """Matrices and embeddings in 8 or 4 bits, with a scale for each block of a row.

    Where weights have 4 bits, ranges are searched for the least squared error, weighted by what
    meets each weight, and integers are chosen for the least change of each product (Frantar et
    al., *GPTQ*, ICLR 2023).
    Between 4 and 8 bits on average, each matrix takes one of the two: 8 bits go where 4 cost the
    outputs most, measured one matrix at a time.

    Parameters of the space
    -----------------------
    bits
        Bits a weight, on average over all that is stored in blocks: 8, 4, or between.
    block
        Weights that share a scale; a power of two, 16 or more.
    symmetric
        Whether zero is the middle of the integers. False gives each block a zero of its own.
    search
        Whether ranges are searched; False covers what each block holds.
    rounding
        Of 4 bits: ``compensated`` (GPTQ) or ``nearest``. 8 bits are rounded to nearest.
    products
        ``int8`` lets ONNX Runtime round activations to INT8, block by block of each row, where
        they meet the weights; ``float`` has it multiply in FP32, as OpenVINO does in any case.
    layout
        ``nbits`` or ``standard`` (see strop.techniques.block_layout).
    """

    name = "weight-only"
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
        tables = find_tables(GraphView(prepare(proto)))
        if not tables:
            return Applicability.no("no large matrix product or embedding with constant weights")
        share = sum(4 * table.size for table in tables) / max(graph.weight_bytes(proto), 1)
        if share < _WORTHWHILE:
            return Applicability.no(
                f"matrix products and embeddings hold {share:.0%} of the weights' bytes"
            )
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        return Space(
            choices=(
                Choice(name="bits", values=(8.0, 6.0, 4.0)),
                Choice(name="block", values=(128, 32)),
                Choice(name="symmetric", values=(False,)),
                Choice(name="search", values=(True,)),
                Choice(name="rounding", values=("compensated",)),
                Choice(name="products", values=("int8",)),
                Choice(name="layout", values=("nbits",)),
            )
        )

    def deploys(self, engine: str, options: Mapping[str, Any]) -> bool:
        return engine in _ENGINES

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        rows = Rows.of(model, ctx.data["calibrate"], ctx.seed, CALIBRATION_ROWS)
        digest = digest_of(rows.batches)
        network = prepare(graph.read(model.forms["onnx"]))
        if params["layout"] == "standard":
            network = _upgraded(network)
        tables = find_tables(GraphView(network), params["layout"])
        moments: Mapping[str, np.ndarray] = {}
        if params["rounding"] == "compensated" and params["bits"] < 8:
            ctx.emit(f"second moments for {len(tables)} matrices")
            moments = _moments(
                network, tables, rows, (model.digest, digest, params["layout"]), ctx.deadline
            )
        key = _key(model.digest, digest, params)
        packer = _Packer(network, tables, params, moments, ctx)
        bits = packer.bits_of(float(params["bits"]), rows.sample(), key)
        result = write_blocks(
            network,
            {table: packer.blocks(table, bits[table.weight]) for table in tables},
            params["layout"],
            integer_products=params["products"] == "int8",
        )
        # Shapes cannot be inferred through ONNX Runtime's own operators: those known stay.
        graph.write(result, ctx.workdir / "onnx" / "model.onnx")
        return Model.seal(
            ctx.workdir,
            model.signature,
            meta={
                **model.meta,
                "quantised": True,
                "opset": graph.default_opset(result),
                "calibration": {"rows": rows.source_rows, "digest": digest, "seed": ctx.seed},
                "weight_bits": bits,
            },
        )


class _Packer:
    """Turns the tables of one network into integers."""

    def __init__(
        self,
        network: ModelProto,
        tables: Sequence[Table],
        params: Mapping[str, Any],
        moments: Mapping[str, np.ndarray],
        ctx: Context,
    ) -> None:
        self._network = network
        self._view = GraphView(network)
        self._tables = tables
        self._params = params
        self._moments = moments
        self._ctx = ctx

    def blocks(self, table: Table, bits: int) -> Blocks:
        check_deadline(self._ctx.deadline)
        return quantise_blocks(
            table.as_rows(self._weight(table)),
            bits=bits,
            block=table.block(int(self._params["block"]), self._params["layout"]),
            symmetric=bool(self._params["symmetric"]),
            search=bool(self._params["search"]),
            # 8 bits change a product by less than what compensating for it would cost.
            moments=self._moments.get(table.weight) if bits == 4 else None,
        )

    def bits_of(self, average: float, sample: Arrays, key: str) -> dict[str, int]:
        """4 or 8 by weight, `average` at most over all elements (4 and 8 themselves exactly)."""
        if not 4 <= average <= 8:
            raise NotApplicable(f"bits is {average:g}, but weights take from 4 to 8")
        bits = {table.weight: 8 if average == 8 else 4 for table in self._tables}
        if average in (4, 8):
            return bits
        file = self._ctx.workdir.parent / f"narrowing-{key[:16]}.json"
        errors = cached(file, key, lambda: self._errors(sample))
        spare = (average - 4) / 4 * sum(table.size for table in self._tables)
        for table in sorted(self._tables, key=lambda t: (-errors[t.weight] / t.size, t.weight)):
            if table.size <= spare:
                bits[table.weight] = 8
                spare -= table.size
        return bits

    def _errors(self, sample: Arrays) -> dict[str, Any]:
        """What each table alone costs the outputs in 4 bits, by weight.

        One session serves all: the tables are inputs of the float network, of which one at a
        time is fed as its integers have it.
        """
        self._ctx.emit(f"measuring what 4 bits cost in each of {len(self._tables)} matrices")
        opened = type(self._network)()
        opened.CopyFrom(self._network)
        names = {table.weight for table in self._tables}
        kept = []
        for tensor in opened.graph.initializer:
            if tensor.name in names:
                opened.graph.input.append(_declared(tensor.name, list(tensor.dims)))
            else:
                kept.append(type(tensor).FromString(tensor.SerializeToString()))
        del opened.graph.initializer[:]
        opened.graph.initializer.extend(kept)
        session = open_session(opened)
        weights = {table.weight: self._weight(table) for table in self._tables}
        reference = session.run(None, {**sample, **weights})
        errors = {}
        for table in self._tables:
            narrow = table.as_stored(self.blocks(table, 4).real())
            outputs = session.run(None, {**sample, **weights, table.weight: narrow})
            errors[table.weight] = output_error(reference, outputs)
        return errors

    def _weight(self, table: Table) -> np.ndarray:
        weight = self._view.constant(table.weight)
        assert weight is not None
        return weight


_recent: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
"""Recipes that differ in their parameters alone follow one another in a search and share the
second moments: the last ones are kept, in this process only, by model, rows and layout, which
decides what is stored in blocks."""


def _moments(
    network: ModelProto,
    tables: Sequence[Table],
    rows: Rows,
    key: tuple[str, ...],
    deadline: float | None,
) -> dict[str, np.ndarray]:
    """float64[width, width] of what each table's first reader multiplies it with, by weight."""
    if key not in _recent:
        first = {table.readers[0]: table.weight for table in tables if not table.gathered}
        layers = [layer for layer in find_layers(GraphView(network)) if layer.name in first]
        found = moments_of(network, layers, rows.batches, about_mean=False, deadline=deadline)
        _recent.clear()
        _recent[key] = {first[name]: value[0] for name, value in found.items()}
    return _recent[key]


def _upgraded(network: ModelProto) -> ModelProto:
    """The network in an opset that has blocks."""
    import onnx

    if graph.default_opset(network) < _STANDARD_OPSET:
        try:
            network = onnx.version_converter.convert_version(network, _STANDARD_OPSET)
        except Exception as error:  # the converter raises whatever it comes upon
            raise NotApplicable(
                f"the graph cannot be brought to opset {_STANDARD_OPSET}: {graph.first_line(error)}"
            ) from error
    network.ir_version = graph.MAX_IR
    return network


def _declared(name: str, dims: list[int]) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def _key(model: str, rows: str, params: Mapping[str, Any]) -> str:
    shaping = {name: value for name, value in params.items() if name not in ("bits", "products")}
    text = json.dumps([WeightOnly.version, model, rows, shaping], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
