"""Lookups in disguise: one-hot products, and pointwise work repeated on every row looked up.

Networks written for accelerators without a gather (JAX on TPUs) multiply a one-hot matrix by an
embedding table; on a CPU that is a table's size of work for each row. And whatever is done to each
element of a looked-up row can be done to the table once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from strop.errors import ModelError
from strop.models.runner import run
from strop.techniques.activations import POINTWISE
from strop.techniques.onnx_view import GraphView, attribute

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def look_up_one_hot_products(model: ModelProto) -> None:
    """``MatMul(one_hot(ids), table)`` to ``Gather(table, ids)``, in place.

    The one-hot matrix is recognised as a comparison with 0, 1, 2 … along the last axis. A number
    outside the table gives a row of zeros, before and after: the table gets one at either end.
    """
    from onnx import helper, numpy_helper

    view = GraphView(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        table = view.constant(node.input[1]) if node.op_type == "MatMul" else None
        ids = None
        if table is not None and table.ndim == 2 and table.dtype == np.float32:
            ids = _one_hot_source(view, node.input[0], len(table))
        if table is None or ids is None:
            nodes.append(node)
            continue
        source, dtype = ids
        prefix = f"{node.name}:lookup"
        edge = np.zeros((1, table.shape[1]), table.dtype)
        constants = {
            "axes": np.array([-1], np.int64),
            "one": np.array(1, dtype),
            "first": np.array(0, dtype),
            "last": np.array(len(table) + 1, dtype),
            "table": np.concatenate([edge, table, edge]),
        }
        model.graph.initializer.extend(
            numpy_helper.from_array(value, f"{prefix}_{name}") for name, value in constants.items()
        )
        named = {name: f"{prefix}_{name}" for name in (*constants, "flat", "shifted", "kept")}
        steps = (
            ("Squeeze", [source, named["axes"]], named["flat"]),
            ("Add", [named["flat"], named["one"]], named["shifted"]),
            ("Clip", [named["shifted"], named["first"], named["last"]], named["kept"]),
            ("Gather", [named["table"], named["kept"]], node.output[0]),
        )
        for op, inputs, output in steps:
            nodes.append(helper.make_node(op, inputs, [output], name=f"{node.name}:{op}"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def move_into_tables(model: ModelProto) -> None:
    """Do what is done to each element of looked-up rows to the table instead, in place.

    Only where it leaves one table of the same size: all that reads the rows as they are stored
    must be pointwise and end in one tensor, and nothing else may read the table.
    """
    from onnx import numpy_helper

    view = GraphView(model)
    for gather in list(view.nodes.values()):
        if gather.op_type != "Gather" or attribute(gather, "axis", 0) != 0:
            continue
        table = view.constant(gather.input[0])
        if (
            table is None
            or table.ndim < 2
            or table.dtype != np.float32
            or view.constant(gather.input[1]) is not None
            or view.sole_consumer(gather.input[0]) is None
        ):
            continue
        names, last = _followers(view, gather, table.shape[1:])
        if last is None:
            continue
        try:
            value = _on_table(model, gather.output[0], table, names, last)
        except ModelError:
            continue
        if value.shape != table.shape:
            continue
        stored = f"{gather.name}:table"
        model.graph.initializer.append(numpy_helper.from_array(value, stored))
        kept = [node for node in model.graph.node if node.name not in names]
        gather.input[0], gather.output[0] = stored, last
        del model.graph.node[:]
        model.graph.node.extend(kept)


def _one_hot_source(view: GraphView, name: str, depth: int) -> tuple[str, np.dtype] | None:
    """The tensor of numbers, its last axis of size 1, that `name` is the one-hot matrix of."""
    cast = view.nodes.get(view.producer.get(name, ""))
    if cast is None or cast.op_type != "Cast" or name not in view.floats:
        return None
    equal = view.nodes.get(view.producer.get(cast.input[0], ""))
    if equal is None or equal.op_type != "Equal":
        return None
    for source, counted in (tuple(equal.input), tuple(reversed(equal.input))):
        count = view.constant(counted)
        if count is None or count.dtype.kind != "i" or count.shape[-1:] != (depth,):
            continue
        rank = len(view.shapes.get(source, ()))
        if (
            rank >= count.ndim
            and _last_dim(view, source) == 1
            and np.array_equal(count.ravel(), np.arange(depth))
        ):
            return source, count.dtype
    return None


def _last_dim(view: GraphView, name: str) -> int | None:
    """The size of a tensor's last axis; through an Expand to a computed shape, which inference
    gives up on.
    """
    shape = view.shapes.get(name, ())
    if shape and shape[-1] is not None:
        return shape[-1]
    node = view.nodes.get(view.producer.get(name, ""))
    if node is None or node.op_type != "Expand":
        return None
    target = view.nodes.get(view.producer.get(node.input[1], ""))
    while target is not None and target.op_type in ("Cast", "Identity"):
        target = view.nodes.get(view.producer.get(target.input[0], ""))
    if target is None or target.op_type != "Concat":
        return None
    last = view.constant(target.input[-1])
    return 1 if last is not None and last[-1] == 1 and _last_dim(view, node.input[0]) == 1 else None


def _followers(
    view: GraphView, gather: NodeProto, row: tuple[int, ...]
) -> tuple[set[str], str | None]:
    """The pointwise nodes that read only looked-up rows and numbers of a row's shape, and the one
    tensor of theirs that others read; None where there is none or more than one.
    """
    inside = {str(gather.output[0])}
    names: set[str] = set()
    rank = len(view.shapes.get(gather.output[0], ()))
    for node in view.nodes.values():
        variable = [name for name in node.input if name and view.constant(name) is None]
        if (
            node.op_type in POINTWISE
            and variable
            and inside.issuperset(variable)
            and all(
                _fits_row(view.constant(name), row, rank)
                for name in node.input
                if name and name not in variable
            )
        ):
            names.add(node.name)
            inside.update(node.output)
    read = [
        name
        for name in inside
        if not view.is_private(name) or any(r not in names for r in view.consumers.get(name, ()))
    ]
    if not names or len(read) != 1 or read[0] == gather.output[0] or read[0] in view.outputs:
        return set(), None
    return names, read[0]


def _fits_row(constant: np.ndarray | None, row: tuple[int, ...], rank: int) -> bool:
    """Whether the constant varies along a row's own axes only."""
    if constant is None or constant.ndim > rank:
        return False
    leading = constant.shape[: max(constant.ndim - len(row), 0)]
    trailing = constant.shape[len(leading) :]
    return all(dim == 1 for dim in leading) and all(
        dim in (1, size) for dim, size in zip(trailing[::-1], row[::-1], strict=False)
    )


def _on_table(
    model: ModelProto, rows: str, table: np.ndarray, names: set[str], last: str
) -> np.ndarray:
    """What the nodes make of the whole table."""
    from onnx import TensorProto, helper

    nodes = [node for node in model.graph.node if node.name in names]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info(rows, TensorProto.FLOAT, list(table.shape))],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [entry for entry in model.graph.initializer if entry.name in read],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    value = run(part, {rows: table})[last]
    # Constants such as [1, 1, 64] lend the table axes that rows have and the table has not.
    while value.ndim > table.ndim and value.shape[0] == 1:
        value = value[0]
    return value
