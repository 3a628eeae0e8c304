"""An ONNX graph as an `nn.Module`, so that models that come without one can be trained as well.

The result is a `torch.fx.GraphModule` whose weights sit in `torch.nn`'s own layers wherever they
can: fine-tuning, structured pruning and fake quantisation find what they look for. It is for
changing a network, not for running it: the original keeps the runtime that it came with.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import MissingExtra, ModelError, NotApplicable
from strop.models import graph
from strop.models.model import Model
from strop.models.module_form import ModuleForm
from strop.models.normal import normalise
from strop.models.onnx_ops.supported import SUPPORTED
from strop.models.parity import parity, relative_error
from strop.models.runner import Runner
from strop.models.sample import random_inputs
from strop.records import Applicability, Signature

if TYPE_CHECKING:
    import onnx
    from torch import fx, nn

    from strop.models.onnx_ops.builder import Builder, Call, Handler, Value

_LOST = "distillation, pruning and quantisation-aware training need it as a module"
_BOUND = 1e-2
"""Relative error (see `strop.models.parity`) up to which the module gives the graph's outputs.

Wide, because rounding is all that a graph may differ by and some divide it by next to nothing: a
normalisation whose variance is E[x²] − E[x]², over a column of padding."""
_FREE_SIZES = (8, 32, 64, 320)
"""Sizes of free dimensions to try: of too small an image nothing is left."""


def convertible(model: Model) -> Applicability:
    """Whether the onnx form of `model` looks as if it can become a module.

    It reads the graph and imports no torch. Every operator may have a translation and the
    conversion may fail all the same, over an attribute or a shape that is computed from data:
    :func:`to_module` has the last word.
    """
    if "onnx" not in model.forms:
        return Applicability.no("needs an ONNX form")
    if importlib.util.find_spec("torch") is None:
        return Applicability.no(str(MissingExtra("torch", extra="torch")))
    for spec in (*model.signature.inputs, *model.signature.outputs):
        if spec.dtype == "str":
            return Applicability.no(f"PyTorch has no strings ('{spec.name}')")
    proto = graph.read(model.forms["onnx"])
    if graph.is_quantised(proto):
        return Applicability.no("already quantised: its integer weights cannot be trained")
    if missing := unsupported(proto):
        shown = ", ".join(f"{kind} ('{node}')" for kind, node in list(missing.items())[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return Applicability.no(f"no translation to PyTorch for {shown}{more}: {_LOST}")
    return Applicability.yes()


def unsupported(proto: onnx.ModelProto) -> dict[str, str]:
    """The operators that have no translation, each with the first node that uses it."""
    missing: dict[str, str] = {}
    for node in graph.nodes(proto):
        kind = _kind(node)
        if kind not in SUPPORTED:
            missing.setdefault(kind, node.name)
    return missing


def to_module(
    source: onnx.ModelProto | str | Path,
    *,
    examples: Mapping[str, np.ndarray] | None = None,
    check: bool = True,
    translations: Mapping[str, Handler] | None = None,
) -> fx.GraphModule:
    """The graph as a module in evaluation mode, held against ONNX Runtime.

    ``forward`` takes the graph's inputs in their order, under names that Python allows, and
    returns the one output or a tuple of them; :func:`form_of` calls it by ONNX's names. Layers
    are named after their weights, or after their nodes; matrices that the graph shares are one
    parameter. Dimensions that are free in the graph stay free, and other constants that are
    floating and more than one number are parameters too.

    Parameters
    ----------
    source
        An ONNX model, or the path of one.
    examples
        Arrays to compare on; seeded random ones without.
    check
        Whether to compare at all. A graph that ONNX Runtime cannot run on random values is not
        compared.
    translations
        Of operators that the caller has put into the graph itself.

    Raises
    ------
    NotApplicable
        When an operator has no translation, or the module gives other outputs than the graph;
        the message names the node, or the first tensor that differs.
    ModelError
        When the graph cannot be read.

    Examples
    --------
    >>> import torch
    >>> from onnx import TensorProto, helper, numpy_helper
    >>> info = helper.make_tensor_value_info
    >>> proto = helper.make_model(
    ...     helper.make_graph(
    ...         [helper.make_node("MatMul", ["x:0", "fc.weight"], ["y"])],
    ...         "example",
    ...         [info("x:0", TensorProto.FLOAT, ["n", 2])],
    ...         [info("y", TensorProto.FLOAT, ["n", 3])],
    ...         [numpy_helper.from_array(np.ones((2, 3), np.float32), "fc.weight")],
    ...     ),
    ...     opset_imports=[helper.make_opsetid("", 17)],
    ... )
    >>> module = to_module(proto)
    >>> module.fc, module(torch.ones(1, 2)).tolist()
    (Linear(in_features=2, out_features=3, bias=False), [[2.0, 2.0, 2.0]])
    """
    proto = _normal(source)
    missing = {k: n for k, n in unsupported(proto).items() if k not in (translations or {})}
    if missing:
        kind, node = next(iter(missing.items()))
        raise NotApplicable(
            f"the graph cannot become a module: {kind} '{node}' is an operator without a "
            f"translation ({_LOST})"
        )
    module = _convert(proto, translations or {})
    if check:
        _compare(proto, module, examples)
    return module


def form_of(signature: Signature, plan: tuple[dict[str, Any], ...] = ()) -> ModuleForm:
    """How a converted module is called by ONNX's names."""
    from strop.models.module_form import flatten

    names = signature.output_names
    import torch

    empty = torch.zeros(0)
    keys = flatten(empty if len(names) == 1 else (empty,) * len(names))
    return ModuleForm(
        spec=None,
        live=False,
        inputs=signature.input_names,
        outputs=names,
        keys=tuple(key for key, _ in keys),
        digest="",
        plan=plan,
    )


def with_weights(source: onnx.ModelProto | Path, module: nn.Module) -> onnx.ModelProto | None:
    """The graph that `module` was converted from, with the weights that `module` has now.

    None where they do not fit into it: another network than the graph's, a weight that the graph
    computes, one constant for what are two different weights now.
    """
    import torch
    from onnx import numpy_helper

    proto = _normal(source)
    plain = _convert(proto, {})
    before, after = plain.state_dict(), module.state_dict()
    if {n: t.shape for n, t in before.items()} != {n: t.shape for n, t in after.items()}:
        return None
    origins = {
        name: getattr(held, "origin", ("", False))
        for name, held in plain.named_parameters(remove_duplicate=False)
    }
    held = graph.constants(proto)
    values: dict[str, np.ndarray] = {}
    for name, tensor in after.items():
        origin, transposed = origins.get(name, ("", False))
        if origin not in held:
            if torch.equal(before[name], tensor):
                continue
            return None
        shape = held[origin].shape
        old, new = (
            np.ascontiguousarray((one.T if transposed else one).detach().cpu().numpy())
            for one in (before[name], tensor)
        )
        if old.size != held[origin].size or (old.reshape(shape) != held[origin]).any():
            return None
        new = new.reshape(shape)
        if origin in values and (values[origin] != new).any():
            return None
        values[origin] = new
    for entry in proto.graph.initializer:
        if entry.name in values:
            entry.CopyFrom(numpy_helper.from_array(values[entry.name], entry.name))
    return proto


def first_difference(
    proto: onnx.ModelProto,
    module: fx.GraphModule,
    arrays: Mapping[str, np.ndarray],
    *,
    bound: float = 1e-3,
) -> str | None:
    """The first tensor, in the graph's order, that `module` computes otherwise than ONNX Runtime.

    None when all that both compute agrees, or when the graph does not run with its inner tensors
    exposed.
    """
    import onnx
    import torch
    from torch import fx

    found: dict[str, Any] = {}

    class Recorder(fx.Interpreter):  # type: ignore[misc]  # torch is untyped here
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if "onnx" in n.meta and isinstance(result, torch.Tensor):
                found[n.meta["onnx"]] = result.numpy()
            return result

    inputs = [torch.tensor(arrays[value.name]) for value in graph.inputs(proto)]
    with torch.no_grad():
        Recorder(module).run(*inputs)
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    shown = {value.name for value in exposed.graph.output}
    order = [name for node in proto.graph.node for name in node.output if name in found]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=n) for n in order if n not in shown)
    try:
        expected = Runner(exposed).run(arrays)
    except ModelError:
        return None
    differing = (n for n in order if relative_error(expected[n], found[n]) > bound)
    return next(differing, None)


def _normal(source: onnx.ModelProto | str | Path) -> onnx.ModelProto:
    if isinstance(source, str | Path):
        proto = graph.read(Path(source))
    else:
        proto = type(source)()
        proto.CopyFrom(source)
    proto, _ = normalise(proto)
    return proto


def _convert(proto: onnx.ModelProto, translations: Mapping[str, Handler]) -> fx.GraphModule:
    from torch import fx

    from strop.models.onnx_ops.builder import Builder, Constant
    from strop.models.onnx_ops.patterns import recognise

    shapes, dtypes = _facts(proto)
    proto = recognise(proto, shapes)
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in proto.graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = [value.name for value in proto.graph.output]
    builder = Builder(shapes, dtypes, readers, outputs, translations)
    for name, array in graph.constants(proto).items():
        builder.values[name] = Constant(array, name)
    for spec in graph.inputs(proto):
        builder.values[spec.name] = builder.input(spec.name)
    for node in proto.graph.node:
        if all(name in builder.values for name in node.output if name):
            continue  # a constant, or a bias that its product took in
        call = _call(builder, node)
        values = _folded(node, call, graph.default_opset(proto)) or builder.translate(call)
        for name, value in zip(node.output, values, strict=False):
            builder.name(value, name)
            builder.values[name] = value
    results = [builder.tensor(builder.values[name]) for name in outputs]
    builder.graph.output(results[0] if len(results) == 1 else tuple(results))
    module = fx.GraphModule(builder.root, builder.graph, class_name="Converted")
    module.graph.eliminate_dead_code()
    # A second time, because only what the graph still uses is taken over.
    return fx.GraphModule(module, module.graph, class_name="Converted").eval()


def _call(builder: Builder, node: onnx.NodeProto) -> Call:
    from onnx import helper

    from strop.models.onnx_ops.builder import Call

    return Call(
        _kind(node),
        node.name,
        tuple(builder.values[name] if name else None for name in node.input),
        tuple(node.input),
        tuple(node.output),
        {entry.name: helper.get_attribute_value(entry) for entry in node.attribute},
    )


def _folded(node: onnx.NodeProto, call: Call, opset: int) -> list[Value] | None:
    """The outputs of a node all of whose inputs are constant, by ONNX's own reference."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    from strop.models.onnx_ops.builder import Constant

    given = [value for value in call.inputs if value is not None]
    constants = [value for value in given if isinstance(value, Constant)]
    if len(constants) < len(given) or "." in call.kind:
        return None
    if call.kind in ("Identity", "Dropout"):
        return [constants[0]]
    if call.kind == "Transpose" and constants[0].array.ndim == 2:
        # The transpose of a weight is that weight still: tied embeddings come so.
        array = np.transpose(constants[0].array, call.attributes.get("perm"))
        turned = list(call.attributes.get("perm", [1, 0])) == [1, 0]
        return [Constant(array, constants[0].name, constants[0].transposed != turned)]
    arrays = {n: v.array for n, v in zip(node.input, call.inputs, strict=True) if v is not None}  # type: ignore[union-attr]
    part = helper.make_graph(
        [node],
        "constant",
        [helper.make_empty_tensor_value_info(name) for name in arrays],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )
    model = helper.make_model(part, opset_imports=[helper.make_opsetid("", opset)])
    try:
        results = ReferenceEvaluator(model).run(None, arrays)
    except Exception:  # the reference lacks the operator or the type: PyTorch computes it each time
        return None
    return [Constant(np.asarray(result)) for result in results]


def _facts(proto: onnx.ModelProto) -> tuple[dict[str, Any], dict[str, str]]:
    """The shapes and dtypes that ONNX's inference knows."""
    with contextlib.suppress(ModelError):  # ONNX's inference is stricter than runtimes are
        proto = graph.infer_shapes(proto)
    dtypes = {
        value.name: graph.dtype_name(value.type.tensor_type.elem_type)
        for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
        if value.type.tensor_type.elem_type
    }
    return graph.shapes_by_name(proto), dtypes


def _compare(
    proto: onnx.ModelProto, module: fx.GraphModule, examples: Mapping[str, np.ndarray] | None
) -> None:
    import torch

    from strop.models.module_export import as_arrays, as_tensors

    form = form_of(graph.signature(proto))
    failure: Exception | None = None
    for arrays, expected in _trials(proto, examples):
        try:
            with torch.no_grad():
                found = as_arrays(form.run(module, as_tensors(arrays, form.inputs)))
        except Exception as error:  # whatever torch raises, at a size that is none of the network's
            failure = failure or error
            continue
        result = parity(expected, found, bound=_BOUND)
        if result.ok:
            return
        first = first_difference(proto, module, arrays, bound=_BOUND)
        raise NotApplicable(
            f"the graph as a module gives other outputs: {result}"
            + (f", first at '{first}'" if first else "")
            + f" ({_LOST})"
        )
    if failure is not None:
        raise NotApplicable(
            f"the graph cannot become a module, which fails: {graph.first_line(failure)} ({_LOST})"
        ) from failure


def _trials(
    proto: onnx.ModelProto, examples: Mapping[str, np.ndarray] | None
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Inputs and ONNX Runtime's outputs for them; random inputs of sizes that it runs on."""
    runner = Runner(proto)
    if examples is not None:
        yield dict(examples), runner.run(examples)
        return
    signature = graph.signature(proto)
    for size in _FREE_SIZES:
        shapes = {
            spec.name: [dim if isinstance(dim, int) else size for dim in spec.shape or ()]
            for spec in signature.inputs
        }
        try:
            arrays = random_inputs(signature, rows=2, shapes=shapes)
            expected = runner.run(arrays)
        except ModelError:
            continue
        if all(array.size for array in expected.values()):
            yield arrays, expected


def _kind(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
