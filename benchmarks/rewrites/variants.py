"""One model as it is, cleaned up, cleaned up but for one pass, with fixed shapes, trimmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strop import techniques
from strop.errors import NotApplicable
from strop.measure import describe
from strop.models import graph
from strop.models.model import Model
from strop.models.onnx_importer import import_onnx
from strop.models.parity import parity
from strop.models.runner import Runner
from strop.records import Target
from strop.techniques import Context
from strop.techniques.cleanup import BASIC, PASSES, rewrite

if TYPE_CHECKING:
    from onnx import ModelProto

CLEANUP, SHAPES, PADDING = "cleanup", "shapes fixed", "trim-padding"

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Change:
    """One rewrite: the model without it, and with it.

    Attributes
    ----------
    operators
        How many there are before and after.
    relative_error
        Of the outputs after, beside those of the original, on the inputs that are timed.
    """

    name: str
    before: Model
    after: Model
    operators: tuple[int, int]
    relative_error: float

    def sides(
        self, engine: str
    ) -> tuple[tuple[Model, dict[str, Any]], tuple[Model, dict[str, Any]]]:
        """Model and options of an engine, before and after."""
        if self.name == SHAPES and engine == "openvino":
            # It fixes the shapes that come often by itself, when asked.
            return (self.before, {}), (self.before, {"shapes": "static"})
        return (self.before, {}), (self.after, {})


@dataclass(frozen=True)
class Family:
    """A model and what rewriting makes of it.

    Attributes
    ----------
    operators
        ``original`` and ``cleaned``.
    changes
        Those that change the graph.
    without_effect
        Passes without which the cleaned graph is the same.
    """

    operators: dict[str, int]
    changes: tuple[Change, ...]
    without_effect: tuple[str, ...]


def make(path: Path, folder: Path, inputs: Arrays) -> Family:
    """Everything that there is to compare for the model at `path`, below `folder`."""
    original = import_onnx(path, folder / "original")
    proto = graph.read(original.forms["onnx"])
    expected = Runner(proto).run(dict(inputs))
    cleaned_proto = rewrite(proto, folder / "scratch")
    cleaned = _seal(cleaned_proto, original, folder / "cleaned")

    def change(name: str, before: Model, after: Model) -> Change:
        protos = [graph.read(model.forms["onnx"]) for model in (before, after)]
        found = parity(expected, Runner(protos[1]).run(dict(inputs)))
        counts = (_count(protos[0]), _count(protos[1]))
        return Change(name, before, after, counts, found.max_relative_error)

    changes, idle = [], []
    for name in PASSES:
        without = rewrite(proto, folder / "scratch", {name})
        if graph.operators(without) == graph.operators(cleaned_proto):
            idle.append(name)
            continue
        model = _seal(without, original, folder / f"without-{PASSES.index(name)}")
        changes.append(change(name, model, cleaned))
    if changes:
        changes.insert(0, change(CLEANUP, original, cleaned))
    fixed = _seal(_fixed(cleaned_proto, inputs), original, folder / "fixed")
    changes.append(change(SHAPES, cleaned, fixed))
    trimmed = _trimmed(cleaned, folder / "trimmed")
    if trimmed is not None:
        changes.append(change(PADDING, cleaned, trimmed))
    counts = {"original": _count(proto), "cleaned": _count(cleaned_proto)}
    return Family(counts, tuple(changes), tuple(idle))


def label(name: str) -> str:
    """What a pass is called on the page."""
    return "ONNX Runtime's basic level, offline" if name == BASIC else name


def _fixed(proto: ModelProto, inputs: Arrays) -> ModelProto:
    """A copy whose inputs have the shapes of `inputs`; shapes inside are inferred anew."""
    copy = type(proto).FromString(proto.SerializeToString())
    for value in copy.graph.input:
        if value.name in inputs:
            for dim, size in zip(
                value.type.tensor_type.shape.dim, inputs[value.name].shape, strict=True
            ):
                dim.Clear()
                dim.dim_value = size
    for value in copy.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del copy.graph.value_info[:]
    return copy


def _trimmed(model: Model, folder: Path) -> Model | None:
    """The model with its padding trimmed as the technique does by default; None without any."""
    technique, target = techniques.get("trim-padding"), Target(machine=describe())
    if not technique.applies(model, target):
        return None
    folder.mkdir()
    params = technique.space(model, target).default
    try:
        return technique.apply(model, params, Context(folder, target))
    except NotApplicable:
        return None


def _seal(proto: ModelProto, like: Model, folder: Path) -> Model:
    graph.write(graph.infer_shapes(proto), folder / "onnx" / "model.onnx")
    return Model.seal(folder, like.signature)


def _count(proto: ModelProto) -> int:
    return sum(graph.operators(proto).values())
