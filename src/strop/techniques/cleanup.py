"""Clean-up of the graph: the same function in fewer operators."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strop.errors import ModelError, NotApplicable
from strop.models import graph
from strop.models.model import Model
from strop.models.parity import parity
from strop.models.runner import Runner
from strop.models.sample import random_inputs
from strop.records import Applicability, Signature, Space, Target
from strop.techniques._base import Context, Technique
from strop.techniques.fusion import REWRITES, fuse

if TYPE_CHECKING:
    from onnx import ModelProto

BASIC = "onnxruntime"
"""Name of ONNX Runtime's offline pass among :data:`PASSES`."""
PASSES = (BASIC, *REWRITES)
"""What :func:`rewrite` does, in order."""

_BOUND = 1e-3
"""Relative error (see `strop.models.parity`) above which the rewrite counts as wrong."""


class Cleanup(Technique):
    """Constant folding, elimination and fusion, written back as standard ONNX.

    Engines do most of this when they load a model. Doing it before means that each quantiser and
    each engine sees one folded graph, and that what only one engine would fuse helps the other.

    Two passes: ONNX Runtime's offline optimiser at its basic level, which is independent of the
    hardware and writes standard operators (constant folding, common subexpressions, Identity and
    Dropout, transposes, Pad + Conv, Conv + BatchNorm + Mul + Add, LayerNorm, and GELU from opset
    20); then what it leaves out (`strop.techniques.fusion`): one-hot products that are lookups,
    pointwise work on looked-up rows, activations in any spelling, scales and shifts around
    convolutions, slices of everything, shape computations in front of Reshape, reshapes of
    reshapes.

    ONNX Runtime is a dependency already and is tested on more models than any rewriter of the
    ONNX world; another package (onnxslim, onnxsim) would add a dependency for passes that it has.

    Inputs and outputs keep names, types and free dimensions. The result is held against the
    original on seeded random inputs.
    """

    name = "cleanup"
    version = 3
    consumes = "onnx"
    produces = ("onnx",)
    packages = ("onnxruntime",)
    exact = True
    stage = 10

    def applies(self, model: Model, target: Target) -> Applicability:
        if "onnx" not in model.forms:
            return Applicability.no("needs an ONNX form")
        proto = graph.read(model.forms["onnx"])
        if graph.is_quantised(proto):
            return Applicability.no("already quantised: folding would move the quantisers")
        if foreign := graph.custom_domains(proto):
            return Applicability.no(f"custom operators of {', '.join(foreign)}")
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        return Space()

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        before = graph.read(model.forms["onnx"])
        after = rewrite(before, ctx.workdir / "scratch")
        facts = {
            "operators_before": sum(graph.operators(before).values()),
            "operators_after": sum(graph.operators(after).values()),
        }
        same_size = graph.weight_bytes(before) <= graph.weight_bytes(after)
        if graph.operators(before) == graph.operators(after) and same_size:
            raise NotApplicable("there is nothing to clean up")
        facts["verified"] = _verify(before, after, model.signature, ctx.seed)
        ctx.emit(f"{facts['operators_before']} → {facts['operators_after']} operators")
        graph.write(graph.infer_shapes(after), ctx.workdir / "onnx" / "model.onnx")
        return Model.seal(
            ctx.workdir, model.signature, source=model.source, meta={**model.meta, **facts}
        )


def rewrite(
    proto: ModelProto, scratch: Path, leave_out: Collection[str] = frozenset()
) -> ModelProto:
    """The cleaned-up graph: another object, with inputs, outputs and operator sets of `proto`.

    Parameters
    ----------
    scratch
        A directory that does not exist; it is made, and removed again.
    leave_out
        Names out of :data:`PASSES` to leave out, for finding out what one of them brings.

    Raises
    ------
    NotApplicable
        When ONNX Runtime refuses the graph, or its optimiser changes the border.
    """
    if BASIC in leave_out:
        after = type(proto).FromString(proto.SerializeToString())
    else:
        after = _optimise(proto, scratch)
        _restore_border(proto, after)
    return fuse(after, leave_out)


def _optimise(proto: ModelProto, scratch: Path) -> ModelProto:
    """`proto` as ONNX Runtime's basic level leaves it."""
    import onnxruntime

    source, result = scratch / "given" / "model.onnx", scratch / "optimised" / "model.onnx"
    graph.write(proto, source)
    result.parent.mkdir()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(result)
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if graph.weight_bytes(proto) > graph.INLINE_LIMIT:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "model.onnx.data"
        )
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        optimised = graph.read(result)
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions derive from Exception alone
        raise NotApplicable(f"ONNX Runtime refuses the graph: {graph.first_line(error)}") from error
    finally:
        # The model's digest is taken over the whole directory: nothing else may be left in it.
        shutil.rmtree(scratch)
    return optimised


def _restore_border(before: ModelProto, after: ModelProto) -> None:
    """Give `after` the inputs, outputs and operator sets that `before` declares.

    ONNX Runtime imports every operator set that it knows and narrows some declared dimensions.

    Raises
    ------
    NotApplicable
        When inputs or outputs got lost, or operators outside `before`'s operator sets came in.
    """
    stored = {tensor.name for tensor in before.graph.initializer}
    for field in ("input", "output"):
        declared = [v for v in getattr(before.graph, field) if v.name not in stored]
        found = getattr(after.graph, field)
        if [value.name for value in declared] != [value.name for value in found]:
            raise NotApplicable(f"ONNX Runtime's optimiser changes the model's {field}s")
        del found[:]
        found.extend(declared)
    allowed = {entry.domain: entry.version for entry in before.opset_import}
    used = {"" if node.domain == "ai.onnx" else node.domain for node in graph.nodes(after)}
    if foreign := used - allowed.keys():
        raise NotApplicable(f"the optimiser writes operators of {', '.join(sorted(foreign))}")
    del after.opset_import[:]
    for domain, version in allowed.items():
        after.opset_import.add(domain=domain, version=version)
    after.ir_version = before.ir_version
    # Where ONNX Runtime lists weights depends on a hash table.
    weights = sorted(after.graph.initializer, key=lambda tensor: str(tensor.name))
    copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in weights]
    del after.graph.initializer[:]
    after.graph.initializer.extend(copies)


def _verify(before: ModelProto, after: ModelProto, signature: Signature, seed: int) -> bool:
    """Whether both graphs were compared: the original may not run on random inputs.

    Raises
    ------
    NotApplicable
        When the graphs differ.
    """
    try:
        arrays = random_inputs(signature, rows=2, seed=seed)
        expected = Runner(before).run(arrays)
    except ModelError:
        return False
    result = parity(expected, Runner(after).run(arrays), bound=_BOUND)
    if not result.ok:
        raise NotApplicable(f"the clean-up would change the outputs: {result}")
    return True
