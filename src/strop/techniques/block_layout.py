"""Which weights of a graph can be stored in blocks, and the nodes that read them so.

Two layouts. ``nbits`` is what ONNX Runtime has kernels for (`MatMulNBits` and
`GatherBlockQuantized` of the domain com.microsoft) and OpenVINO reads as well. ``standard`` is
DequantizeLinear with blocks, opset 21, in front of the nodes as they were: for whatever else reads
ONNX. Both runtimes keep the weights of a matrix product in few bits in either layout; of a table
that Gather reads in the ``standard`` one, ONNX Runtime makes floats of all rows in every call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from strop.techniques.blockwise import Blocks
from strop.techniques.folding import drop_unused_initializers
from strop.techniques.onnx_view import GraphView, attribute
from strop.techniques.quantisable import find_layers

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Layout = Literal["nbits", "standard"]

SMALLEST = 4096
"""Elements below which a weight stays in float: there is no space to win."""
_LEAST_BLOCK = 16
"""What the kernels take at least."""


@dataclass(frozen=True)
class Table:
    """A constant matrix that only matrix products read, or only Gather along its rows.

    Attributes
    ----------
    weight
        The initialiser's name.
    readers
        Names of the nodes that read it.
    transposed
        Whether its columns, not its rows, are what one output is computed from.
    rows, width
        Outputs, and weights of one of them.
    gathered
        Whether Gather reads it.
    """

    weight: str
    readers: tuple[str, ...]
    transposed: bool
    rows: int
    width: int
    gathered: bool

    @property
    def size(self) -> int:
        return self.rows * self.width

    def as_rows(self, weight: np.ndarray) -> np.ndarray:
        """The initialiser as float32[rows, width]."""
        return np.ascontiguousarray(weight.T if self.transposed else weight)

    def as_stored(self, rows: np.ndarray) -> np.ndarray:
        """[rows, width] in the initialiser's own order."""
        return np.ascontiguousarray(rows.T if self.transposed else rows)

    def block(self, wanted: int, layout: Layout) -> int:
        """`wanted`, or less where rows are shorter or must be divided without a rest."""
        if layout == "nbits" and not self.gathered:
            while wanted > _LEAST_BLOCK and wanted >= 2 * self.width:
                wanted //= 2
            return wanted
        while self.width % wanted:
            wanted //= 2
        return wanted


def find_tables(view: GraphView, layout: Layout = "nbits") -> list[Table]:
    """Every float32 matrix of `SMALLEST` elements or more that can be stored in blocks."""
    # OpenVINO reads blocks of DequantizeLinear only where they divide a row without a rest.
    multiple = 1 if layout == "nbits" else _LEAST_BLOCK // 2
    layers = {layer.name: layer for layer in find_layers(view) if layer.op != "Conv"}
    found = []
    for name, tensor in view.initializers.items():
        readers = view.consumers.get(name, [])
        if len(tensor.dims) != 2 or tensor.dims[0] * tensor.dims[1] < SMALLEST:
            continue
        if not readers or not view.is_private(name) or tensor.data_type != 1:
            continue
        unique = tuple(dict.fromkeys(readers))
        if len(unique) != len(readers):
            continue
        first, second = (int(dim) for dim in tensor.dims)
        if all(_gathers(view.nodes[reader], name) for reader in unique):
            if second % _LEAST_BLOCK == 0:
                found.append(Table(name, unique, False, first, second, True))
            continue
        if not all(reader in layers and layers[reader].weight == name for reader in unique):
            continue
        axes = {layers[reader].channel_axis for reader in unique}
        if len(axes) == 1:
            transposed = axes == {1}
            rows, width = (second, first) if transposed else (first, second)
            if width % multiple == 0:
                found.append(Table(name, unique, transposed, rows, width, False))
    return found


def write_blocks(
    model: ModelProto,
    blocks: Mapping[Table, Blocks],
    layout: Layout,
    *,
    integer_products: bool,
) -> ModelProto:
    """A copy of `model` with these tables in few bits.

    Parameters
    ----------
    integer_products
        Whether ONNX Runtime may round what meets the weights to INT8, a block of a row at a time,
        to multiply integers (its ``accuracy_level`` 4; ``nbits`` only).
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    writer = _Writer(result, integer_products)
    for table, found in blocks.items():
        if layout == "standard":
            writer.dequantise(table, found)
        elif table.gathered:
            writer.gather(table, found)
        else:
            writer.multiply(table, found)
    writer.finish(layout)
    return result


class _Writer:
    def __init__(self, model: ModelProto, integer_products: bool) -> None:
        self._model = model
        self._view = GraphView(model)
        self._integer_products = integer_products
        self._instead: dict[str, list[NodeProto]] = {}
        self._first: list[NodeProto] = []

    def multiply(self, table: Table, blocks: Blocks) -> None:
        from onnx import helper

        constants = [
            self._constant(f"{table.weight}:blocks", _blobs(blocks)),
            self._constant(f"{table.weight}:scales", blocks.scales.reshape(-1)),
        ]
        if not blocks.symmetric:
            zeros = _packed(blocks.zeros, blocks.bits).reshape(-1)
            constants.append(self._constant(f"{table.weight}:zeros", zeros))
        for reader in table.readers:
            node = self._view.nodes[reader]
            biased = len(node.input) > 2 and bool(node.input[2])
            product = f"{node.output[0]}:product" if biased else node.output[0]
            nodes = [
                helper.make_node(
                    "MatMulNBits",
                    [node.input[0], *constants],
                    [product],
                    node.name,
                    domain="com.microsoft",
                    bits=blocks.bits,
                    K=table.width,
                    N=table.rows,
                    block_size=blocks.block,
                    accuracy_level=4 if self._integer_products else 1,
                )
            ]
            if biased:
                nodes.append(
                    helper.make_node(
                        "Add", [product, node.input[2]], list(node.output), f"{node.name}:bias"
                    )
                )
            self._instead[reader] = nodes

    def gather(self, table: Table, blocks: Blocks) -> None:
        from onnx import helper

        packed = _packed(blocks.stored, blocks.bits)
        constants = [self._constant(f"{table.weight}:blocks", packed)]
        scales = [self._constant(f"{table.weight}:scales", blocks.scales)]
        if not blocks.symmetric:
            zeros = _packed(blocks.zeros, blocks.bits)
            scales.append(self._constant(f"{table.weight}:zeros", zeros))
        for reader in table.readers:
            node = self._view.nodes[reader]
            self._instead[reader] = [
                helper.make_node(
                    "GatherBlockQuantized",
                    [*constants, node.input[1], *scales],
                    list(node.output),
                    node.name,
                    domain="com.microsoft",
                    bits=blocks.bits,
                    block_size=blocks.block,
                    gather_axis=0,
                    quantize_axis=1,
                )
            ]

    def dequantise(self, table: Table, blocks: Blocks) -> None:
        from onnx import TensorProto, helper

        # One sign for both kinds: signed integers where zero is the middle, unsigned elsewhere.
        signed = blocks.symmetric
        middle = 2 ** (blocks.bits - 1) if signed else 0
        kinds = {4: (TensorProto.UINT4, TensorProto.INT4), 8: (TensorProto.UINT8, TensorProto.INT8)}
        kind = kinds[blocks.bits][signed]
        name = table.weight
        stored = table.as_stored(blocks.stored.astype(np.int16) - middle)
        inputs = [self._integers(f"{name}:blocks", stored, kind, blocks.bits)]
        inputs.append(self._constant(f"{name}:scales", table.as_stored(blocks.scales)))
        if not signed:
            zeros = table.as_stored(blocks.zeros).astype(np.int16)
            inputs.append(self._integers(f"{name}:zeros", zeros, kind, blocks.bits))
        self._first.append(
            helper.make_node(
                "DequantizeLinear",
                inputs,
                [f"{name}:real"],
                f"DQ:{name}",
                axis=0 if table.transposed else 1,
                block_size=blocks.block,
            )
        )
        for reader in table.readers:
            node = self._view.nodes[reader]
            for slot, source in enumerate(node.input):
                if source == name:
                    node.input[slot] = f"{name}:real"

    def finish(self, layout: Layout) -> None:
        from onnx import helper

        graph = self._model.graph
        nodes = list(self._first)
        for node in graph.node:
            nodes.extend(self._instead.get(node.name, [node]))
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        drop_unused_initializers(self._model)
        known = {entry.domain for entry in self._model.opset_import}
        if layout == "nbits" and "com.microsoft" not in known:
            self._model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    def _constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self._model.graph.initializer.append(tensor)
        return name

    def _integers(self, name: str, value: np.ndarray, kind: TensorProto.DataType, bits: int) -> str:
        """Integers of `bits`, packed as the file format wants them: along the flat array."""
        from onnx import helper

        raw = _packed((value.reshape(1, -1) & (2**bits - 1)).astype(np.uint8), bits).tobytes()
        tensor = helper.make_tensor(name, kind, value.shape, raw, raw=True)
        self._model.graph.initializer.append(tensor)
        return name


def _gathers(node: NodeProto, name: str) -> bool:
    return (
        node.op_type == "Gather"
        and node.domain in ("", "ai.onnx")
        and node.input[0] == name
        and attribute(node, "axis", 0) == 0
    )


def _blobs(blocks: Blocks) -> np.ndarray:
    """uint8[rows, blocks, bytes of a block], the last block filled up with zeros' integer."""
    rows, width = blocks.stored.shape
    count = blocks.scales.shape[1]
    full = np.repeat(blocks.zeros, blocks.block, axis=1)
    full[:, :width] = blocks.stored
    return _packed(full.reshape(rows, count, blocks.block), blocks.bits)


def _packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Bytes along the last axis: of two integers of 4 bits the first in the low half."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.pad(values, [*[(0, 0)] * (values.ndim - 1), (0, 1)])
    packed: np.ndarray = values[..., 0::2] | (values[..., 1::2] << 4)
    return packed
