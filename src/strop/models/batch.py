"""A fixed batch made free, where the graph computes each row on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import ModelError
from strop.models import graph
from strop.models.parity import parity
from strop.models.runner import Runner
from strop.models.sample import Shapes, random_inputs
from strop.records import Signature

if TYPE_CHECKING:
    import onnx

Facts = dict[str, Any]

_RECURRENT_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_ROWS_LIMIT = 256


def free_batch(
    proto: onnx.ModelProto,
    *,
    examples: Mapping[str, np.ndarray] | None = None,
    shapes: Shapes | None = None,
) -> tuple[onnx.ModelProto, Facts]:
    """`proto` with dimension 0 of all inputs and outputs free, if that is proven to be safe.

    Exporters often fix the batch (1, or that of their example) although nothing depends on it.
    The first dimension is declared a symbol, Reshapes to a constant leading dimension are
    loosened, and the result must give, row by row, what the given graph gives: at batch 1, at
    the given batch and at twice that. Otherwise the graph stays as it was.

    Returns
    -------
    The graph, and the facts: ``declared`` (the fixed batch, None when it was free or there is
    none), ``freed`` and ``reason`` (why it stayed fixed).
    """
    signature = graph.signature(proto)
    declared, reason = _declared_batch(signature)
    if declared is None or reason:
        return proto, {"declared": declared, "freed": False, "reason": reason}
    try:
        arrays = _rows(signature, declared, examples, shapes)
        expected = _run_in_chunks(Runner(proto), arrays, declared)
    except ModelError as error:
        return proto, {"declared": declared, "freed": False, "reason": error.message}
    reason = ""
    for loosen in (False, True):
        candidate = _with_symbol(proto, declared, loosen=loosen)
        reason = _difference(candidate, arrays, expected, declared)
        if not reason:
            return candidate, {"declared": declared, "freed": True, "reason": ""}
    return proto, {"declared": declared, "freed": False, "reason": reason}


def _declared_batch(signature: Signature) -> tuple[int | None, str]:
    leading = [spec.shape[0] if spec.shape else None for spec in signature.inputs]
    fixed = [dim for dim in leading if isinstance(dim, int)]
    if not fixed:
        return None, ""
    if len(fixed) < len(leading) or len(set(fixed)) > 1:
        shown = ", ".join("?" if dim is None else str(dim) for dim in leading)
        return None, f"the inputs' first dimensions differ ({shown})"
    for spec in signature.outputs:
        if not spec.shape or (isinstance(spec.shape[0], int) and spec.shape[0] != fixed[0]):
            return fixed[0], f"output {spec} has no batch dimension"
    if not 1 <= fixed[0] <= _ROWS_LIMIT:
        return fixed[0], f"a first dimension of {fixed[0]} is hardly a batch"
    return fixed[0], ""


def _rows(
    signature: Signature,
    declared: int,
    examples: Mapping[str, np.ndarray] | None,
    shapes: Shapes | None,
) -> dict[str, np.ndarray]:
    """Two batches of rows: examples where they fit, else random ones."""
    arrays = {}
    drawn = [random_inputs(signature, shapes=shapes, seed=seed) for seed in (0, 1)]
    for spec in signature.inputs:
        name = spec.name
        arrays[name] = np.concatenate([batch[name] for batch in drawn])
        if examples is not None and name in examples:
            given = np.asarray(examples[name])
            if given.ndim == arrays[name].ndim and len(given) > 1:
                arrays[name] = np.resize(given, (2 * declared, *given.shape[1:]))
    return arrays


def _run_in_chunks(
    runner: Runner, arrays: Mapping[str, np.ndarray], size: int, rows: int | None = None
) -> dict[str, np.ndarray]:
    total = rows or len(next(iter(arrays.values())))
    parts = []
    for start in range(0, total, size):
        chunk = {name: array[start : start + size] for name, array in arrays.items()}
        outputs = runner.run(chunk)
        for name, output in outputs.items():
            if output.ndim == 0 or len(output) != size:
                raise ModelError(
                    f"output '{name}' has the shape {list(output.shape)} for {size} rows"
                )
        parts.append(outputs)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _difference(
    candidate: onnx.ModelProto,
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    declared: int,
) -> str:
    """Why the candidate is not the given graph with a free batch; empty when it is."""
    try:
        runner = Runner(candidate)
        for size in sorted({1, declared, 2 * declared}):
            rows = min(2 * declared, 2 * size)
            found = _run_in_chunks(runner, arrays, size, rows)
            result = parity({name: rest[:rows] for name, rest in expected.items()}, found)
            if not result.ok:
                return f"rows are not independent: {result} at batch {size}"
    except ModelError as error:
        return error.message
    return ""


def _with_symbol(proto: onnx.ModelProto, declared: int, *, loosen: bool) -> onnx.ModelProto:
    import onnx

    shapes = graph.shapes_by_name(graph.infer_shapes(proto)) if loosen else {}
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    result.graph.ClearField("value_info")  # inferred for the fixed batch
    if loosen:
        _loosen_reshapes(result.graph, declared, shapes)
        _drop_zero_states(result.graph)
    symbol = _free_symbol(result)
    for value in (*result.graph.input, *result.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims):
            dims[0].ClearField("dim_value")
            dims[0].dim_param = symbol
    return result


def _free_symbol(proto: onnx.ModelProto) -> str:
    taken = {
        dim.dim_param
        for value in (*proto.graph.input, *proto.graph.output)
        for dim in value.type.tensor_type.shape.dim
    }
    return "batch" if "batch" not in taken else "batch_dimension"


def _loosen_reshapes(
    main: onnx.GraphProto, declared: int, shapes: Mapping[str, tuple[Any, ...]]
) -> None:
    """Let Reshapes to constant shapes follow the batch, without changing the given one.

    Where no other entry is −1, a leading −1 means what the constant meant. Where another is, a
    leading 0 copies the input's first dimension, which then must be the batch itself.
    """
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in main.initializer}
    for index, node in enumerate(main.node):
        if node.op_type != "Reshape" or node.input[1] not in stored:
            continue
        zero_is_zero = any(a.name == "allowzero" and a.i for a in node.attribute)
        target = numpy_helper.to_array(stored[node.input[1]]).copy()
        if not target.size or target[0] <= 0 or target[0] % declared:
            continue
        source = shapes.get(node.input[0])
        if (target[1:] > 0).all():
            target[0] = -1
        elif not zero_is_zero and target[0] == declared and source and source[0] == declared:
            target[0] = 0
        else:
            continue
        tensor = numpy_helper.from_array(target, f"{node.input[1]}__batch_{index}")
        main.initializer.append(tensor)
        node.input[1] = tensor.name


def _drop_zero_states(main: onnx.GraphProto) -> None:
    """Initial states of zeros are what a recurrent layer starts from anyway, at any batch."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in main.initializer}
    for node in main.node:
        for position in _RECURRENT_STATES.get(node.op_type, ()):
            if len(node.input) > position and node.input[position] in stored:
                state = numpy_helper.to_array(stored[node.input[position]])
                if not state.any():
                    node.input[position] = ""
