"""The normal form of an imported graph: one way to store a weight, one opset range, no luggage."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from strop.errors import ModelError
from strop.models.graph import (
    MAX_IR,
    OPSETS,
    constant_tensor,
    default_opset,
    first_line,
    graphs,
    nodes,
    strip,
    with_weights,
    without_weights,
)

if TYPE_CHECKING:
    import onnx

_OLDEST_OPSET = 7
_IR_OF_OPSET = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}


def normalise(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """`proto` in normal form, and a line for each change a reader may want to know.

    Local functions are inlined, the opset is brought into 17–21 and the IR to at most 10,
    Constant nodes become initialisers, initialisers are no longer inputs, every node has a
    name of its own, and metadata, doc strings and training graphs are gone.

    Raises
    ------
    ModelError
        When the graph is invalid or of an opset that cannot be brought into the range.
    """
    changes: list[str] = []
    strip(proto)
    _drop_initialiser_inputs(proto, changes)
    proto = _inline_functions(proto, changes)
    proto = _bring_opset(proto, changes)
    _lift_constants(proto)
    _name_nodes(proto)
    check(proto)
    return proto, changes


def check(proto: onnx.ModelProto) -> None:
    """Run ONNX's checker (weights left out, so that size is no matter).

    Raises
    ------
    ModelError
        With the checker's first line.
    """
    import onnx

    try:
        onnx.checker.check_model(without_weights(proto))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"the ONNX graph is invalid: {first_line(error)}") from error


def raise_opset(proto: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """The model in operator set `target` of the default domain, one newer than its own.

    Raises
    ------
    ModelError
        When `target` is beyond what strop writes, or ONNX's converter cannot bring it there.
    """
    found = default_opset(proto)
    if not found < target <= OPSETS[-1]:
        raise ModelError(f"opset {found} cannot be raised to {target}")
    if _same_operators(proto, found, target):
        _set_opset(proto, target)
    else:
        proto = _convert(proto, found, target)
    proto.ir_version = min(max(_IR_OF_OPSET[target], proto.ir_version), MAX_IR)
    return proto


def _inline_functions(proto: onnx.ModelProto, changes: list[str]) -> onnx.ModelProto:
    from onnx import inliner

    if not proto.functions:
        return proto
    count = len(proto.functions)
    try:
        result = inliner.inline_local_functions(without_weights(proto))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"local functions cannot be inlined: {first_line(error)}") from error
    if result.functions:
        raise ModelError("local functions cannot be inlined: they import another opset")
    changes.append(f"{count} local functions inlined")
    return with_weights(result, proto)


def _drop_initialiser_inputs(proto: onnx.ModelProto, changes: list[str]) -> None:
    stored = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.input if value.name not in stored]
    dropped = len(proto.graph.input) - len(kept)
    if dropped:
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
        changes.append(f"{dropped} weights declared as inputs are plain weights now")


def _bring_opset(proto: onnx.ModelProto, changes: list[str]) -> onnx.ModelProto:
    found = default_opset(proto)
    _merge_default_imports(proto)
    if found == 0 and any(node.domain in ("", "ai.onnx") for node in nodes(proto)):
        raise ModelError("the model imports no default operator set", hint="export it again")
    target = min(max(found, OPSETS[0]), OPSETS[-1])
    if found != target:
        if 0 < found < _OLDEST_OPSET:
            raise ModelError(
                f"the model is of opset {found}, older than {_OLDEST_OPSET}",
                hint=f"export it again with opset {OPSETS[0]} or newer",
            )
        if found == 0 or _same_operators(proto, found, target):
            _set_opset(proto, target)
        else:
            proto = _convert(proto, found, target)
        changes.append(f"opset {found} converted to {target}")
    proto.ir_version = min(max(_IR_OF_OPSET[target], proto.ir_version), MAX_IR)
    return proto


def _merge_default_imports(proto: onnx.ModelProto) -> None:
    imports = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in proto.opset_import}
    used = {node.domain for node in nodes(proto)}
    for domain in used - set(imports) - {"", "ai.onnx"}:
        imports[domain] = 1  # ONNX Runtime reads a missing import so; the checker refuses it
    del proto.opset_import[:]
    for domain, version in imports.items():
        proto.opset_import.add(domain=domain, version=version)


def _same_operators(proto: onnx.ModelProto, found: int, target: int) -> bool:
    """Whether no operator in use was changed between the two opsets: then only the number is."""
    import onnx

    for node in nodes(proto):
        if node.domain in ("", "ai.onnx"):
            try:
                before = onnx.defs.get_schema(node.op_type, found).since_version
                after = onnx.defs.get_schema(node.op_type, target).since_version
            except onnx.defs.SchemaError:
                return False
            if before != after:
                return False
    return True


def _convert(proto: onnx.ModelProto, found: int, target: int) -> onnx.ModelProto:
    """Let ONNX's converter rewrite the nodes; weights stay where they are."""
    import onnx
    from onnx import version_converter

    small = without_weights(proto)
    small.ir_version = max(small.ir_version, 4)
    try:
        onnx.checker.check_model(small)
        converted = version_converter.convert_version(small, target)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"the ONNX graph is invalid: {first_line(error)}") from error
    except RuntimeError as error:
        raise ModelError(
            f"the model is of opset {found} and cannot be converted to {target}: "
            f"{first_line(error)}",
            hint=f"export it again with opset {OPSETS[0]}–{OPSETS[-1]}",
        ) from error
    result = with_weights(converted, proto)
    weights = {tensor.name for tensor in proto.graph.initializer}
    # The converter rewrites border values too: names and types are the user's, keep them.
    for field in ("input", "output"):
        original = [v for v in getattr(proto.graph, field) if v.name not in weights]
        if [v.name for v in original] != [v.name for v in getattr(result.graph, field)]:
            raise ModelError(f"the conversion of opset {found} to {target} loses an {field}")
        del getattr(result.graph, field)[:]
        getattr(result.graph, field).extend(original)
    return result


def _set_opset(proto: onnx.ModelProto, target: int) -> None:
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = target
            return
    proto.opset_import.add(domain="", version=target)


def _lift_constants(proto: onnx.ModelProto) -> None:
    for graph in graphs(proto.graph):
        outputs = {value.name for value in graph.output}
        kept = []
        for node in graph.node:
            tensor = None
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                # A constant that is itself an output stays a node: runtimes disagree about
                # initialisers that are outputs.
                tensor = constant_tensor(node) if node.output[0] not in outputs else None
            if tensor is None:
                kept.append(node)
            else:
                graph.initializer.append(tensor)
        if len(kept) < len(graph.node):
            copies = [type(node).FromString(node.SerializeToString()) for node in kept]
            del graph.node[:]
            graph.node.extend(copies)


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Give nameless and namesake nodes names of their own: techniques exclude nodes by name."""
    taken: set[str] = set()
    for node in nodes(proto):
        taken.add(node.name)
    seen: set[str] = {""}
    for node in nodes(proto):
        if node.name in seen:
            names = (f"{node.name or node.op_type}_{i}" for i in itertools.count())
            node.name = next(name for name in names if name not in taken)
            taken.add(node.name)
        seen.add(node.name)
