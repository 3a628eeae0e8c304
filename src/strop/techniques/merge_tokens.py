"""Tokens that say the same, merged from layer to layer of a transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from strop.errors import NotApplicable
from strop.models import graph, module_plan
from strop.models.model import Model
from strop.models.onnx_converter import convertible, form_of, to_module
from strop.models.onnx_importer import few_examples
from strop.records import Applicability, Choice, Space, Step, Target
from strop.techniques._base import Context, Technique
from strop.techniques.onnx_view import GraphView, attribute, name_nodes
from strop.techniques.token_flow import follow
from strop.techniques.token_merging import PREFIX, Merging

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_SHARES = {"all": (10, 15, 20), "first": (20, 30)}
"""What is tried: merging takes time itself, which is better spent once where the rest is fast."""
_ROWS = 2
_WEIGHED = ("MatMul", "Gemm")


class MergeTokens(Technique):
    """In each block of a transformer, the tokens that are most alike become one.

    Token merging (Bolya et al., 2023, arXiv:2210.09461) behind each attention: the later layers
    work on fewer tokens, each of which counts in attention and in the mean over all as often as
    it has parts, so that padding, which counts for nothing, goes first. Made for images there; here
    for every network whose tokens are mixed by attention alone and whose outputs are one for an
    example, read off a mean, a weighted sum or the first token.

    It needs no training, and what it loses `distil` wins back in part: the merged network is
    written as a module too.

    Parameters of the space
    -----------------------
    percent
        Of the tokens that a block merges away, of those that the block before left.
    blocks
        ``all``, or the ``first`` alone.
    """

    name = "merge-tokens"
    version = 1
    consumes = "onnx"
    produces = ("module", "onnx")
    roles = ("calibrate",)
    packages = ("onnx", "onnxruntime", "torch")
    stage = 2

    def applies(self, model: Model, target: Target) -> Applicability:
        if "onnx" not in model.forms:
            return Applicability.no("needs an ONNX form")
        proto = graph.read(model.forms["onnx"])
        if any(node.name.startswith(PREFIX) for node in proto.graph.node):
            return Applicability.no("its tokens are merged already")
        verdict = convertible(model)
        if not verdict:
            return verdict
        try:
            _points(_view(proto))
        except NotApplicable as error:
            return Applicability.no(error.message)
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        shares = sorted({share for values in _SHARES.values() for share in values})
        return Space(
            choices=(
                Choice(name="percent", values=tuple(shares)),
                Choice(name="blocks", values=tuple(_SHARES)),
            )
        )

    def follows(self, earlier: Sequence[Step], params: Mapping[str, Any]) -> bool:
        return params["percent"] in _SHARES[params["blocks"]]

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        import numpy as np

        proto = graph.read(model.forms["onnx"])
        count = merge(proto, int(params["percent"]), str(params["blocks"]))
        ctx.emit(f"merges {params['percent']}% of the tokens in {count} blocks, one by one")
        data = ctx.data["calibrate"]
        rows = data.inputs(np.arange(min(_ROWS, len(data))))
        # The module is held against the graph here: what cannot be trained is not proposed.
        to_module(proto, examples=few_examples(model.signature, rows, None, _ROWS))
        graph.write(proto, ctx.workdir / "onnx" / "model.onnx")
        form = form_of(model.signature, plan=(module_plan.CONVERT,))
        form.write(ctx.workdir / "module" / "module.json")
        graph.write(proto, ctx.workdir / "module" / module_plan.BASE)
        facts = {"merged_tokens": params["percent"], "merging_blocks": count}
        return Model.seal(ctx.workdir, model.signature, meta={**model.meta, **facts})


def merge(proto: ModelProto, percent: int, blocks: str = "all") -> int:
    """Merge that share of the tokens behind each attention, in place; behind how many it was.

    Parameters
    ----------
    percent
        Below 50, of the tokens that there are at each.
    blocks
        ``all``, or ``first`` for the first attention alone.

    Raises
    ------
    NotApplicable
        When there is no attention behind which all goes on with fewer tokens.
    """
    points = _points(_view(proto))
    if blocks == "first":
        points = points[:1]
    mass = None
    for number, tensor in enumerate(points):
        view = _view(proto)
        merging = Merging(proto, view, tensor, percent, f"{PREFIX}{number}/", mass)
        mass = merging.apply(follow(view, tensor))
    proto.CopyFrom(graph.infer_shapes(proto))
    return len(points)


def _view(proto: ModelProto) -> GraphView:
    name_nodes(proto.graph)
    return GraphView(proto)


def _points(view: GraphView) -> list[str]:
    """For each attention the tensor that can be made shorter behind it.

    It is the last one before the next product with weights: behind a normalisation that the
    residual sum goes through, and before one that it passes by.
    """
    found: list[str] = []
    blocks = [node for node in view.nodes.values() if _is_attention(view, node)]
    reason = "no attention among its operators"
    reached = [_descendants(view, node) for node in blocks]
    for number in range(len(blocks)):
        later = reached[number + 1] if number + 1 < len(blocks) else set()
        chosen, seen = None, set[str]()
        for node in view.nodes.values():
            output = node.output[0]
            if output not in reached[number] or output in later:
                continue
            if chosen is not None and seen & set(node.input):
                seen.update(node.output)
                if node.op_type in _WEIGHED:
                    break
            if len(view.shapes.get(output, ())) != 3 or output not in view.floats:
                continue
            try:
                follow(view, output)
            except NotApplicable as error:
                reason = error.message
                continue
            chosen = output
            seen.add(output)
        if chosen is not None:
            found.append(chosen)
    if not found:
        raise NotApplicable(reason)
    return found


def _is_attention(view: GraphView, node: NodeProto) -> bool:
    if node.op_type != "Softmax":
        return False
    shape = view.shapes.get(node.input[0], ())
    return len(shape) == 4 and shape[2] == shape[3] and attribute(node, "axis", -1) in (-1, 3)


def _descendants(view: GraphView, node: NodeProto) -> set[str]:
    found = set(node.output)
    for other in view.nodes.values():
        if found & set(other.input):
            found.update(other.output)
    return found
