"""The fx graph under construction: values, names, layers and constants."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import fx, nn

from strop.errors import NotApplicable
from strop.models.onnx_ops.naming import layer_path, legal_argument, legal_path
from strop.records import Dim

if TYPE_CHECKING:
    import onnx

GROUPS = (
    "elementwise",
    "integers",
    "layers",
    "pooling",
    "products",
    "recurrent",
    "reducing",
    "resampling",
    "reshaping",
    "selecting",
)
"""The files of this package that register operators."""

LOST = "distillation, pruning and quantisation-aware training need it as a module"
"""What a user loses when a graph does not convert."""


@dataclass(frozen=True)
class Constant:
    """An array that is known before the network runs.

    Attributes
    ----------
    name
        The initialiser it comes from, so that weights that the graph shares stay shared; None
        for the result of a computation.
    transposed
        Whether `array` is that initialiser's transpose.
    """

    array: np.ndarray
    name: str | None = None
    transposed: bool = False


@dataclass(frozen=True)
class Ints:
    """Integers of which some are sizes of tensors: an int64 scalar or vector of a shape chain.

    Shapes stay plain integers instead of tensors, so that `torch.export` sees how one size
    follows from another and leaves them free.
    """

    items: tuple[int | fx.Node, ...]
    scalar: bool = False


Value: TypeAlias = Constant | Ints | fx.Node


@dataclass(frozen=True)
class Call:
    """One ONNX node with its inputs' values; None where an optional input is left out."""

    kind: str
    name: str
    inputs: tuple[Value | None, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    attributes: Mapping[str, Any]

    def input(self, place: int) -> Value | None:
        return self.inputs[place] if place < len(self.inputs) else None

    def fails(self, why: str) -> NotApplicable:
        """The error for a node that cannot be written in PyTorch."""
        return NotApplicable(
            f"the graph cannot become a module: {self.kind} '{self.name}' {why} ({LOST})"
        )


Handler: TypeAlias = Callable[["Builder", Call], "Value | Sequence[Value] | None"]
_HANDLERS: dict[str, Handler] = {}
_INTEGER_HANDLERS: dict[str, Handler] = {}


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Register a function as the translation of operators (``domain.Op`` outside ONNX's own)."""

    def register(handler: Handler) -> Handler:
        _HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def integer_operator(*names: str) -> Callable[[Handler], Handler]:
    """Register a translation for inputs of which one is :class:`Ints`; None declines."""

    def register(handler: Handler) -> Handler:
        _INTEGER_HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def handlers() -> Mapping[str, Handler]:
    """All registered translations, by operator."""
    for group in GROUPS:
        importlib.import_module(f"strop.models.onnx_ops.{group}")
    return _HANDLERS


class Builder:
    """Collects fx nodes, layers and constants; operators' translations call its methods.

    Parameters
    ----------
    shapes, dtypes
        What ONNX's inference knows of each tensor; what it does not know is absent.
    readers
        The nodes that read each tensor, once an input slot.
    outputs
        The names of the graph's outputs.
    translations
        Of more operators than those of this package.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[Dim, ...]],
        dtypes: Mapping[str, str],
        readers: Mapping[str, Sequence[onnx.NodeProto]],
        outputs: Sequence[str],
        translations: Mapping[str, Handler] | None = None,
    ) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.values: dict[str, Value] = {}
        self._shapes = dict(shapes)
        self._dtypes = dict(dtypes)
        self._readers = readers
        self._outputs = frozenset(outputs)
        self._inputs: set[str] = set()
        self._layers: dict[Any, str] = {}
        self._parameters: dict[tuple[str, bool], nn.Parameter] = {}
        self._attributes: dict[Any, fx.Node] = {}
        self._sizes: dict[tuple[fx.Node, int], fx.Node] = {}
        self._known = {**handlers(), **(translations or {})}

    # What is known of a tensor.

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """The inferred shape: an int where fixed, a symbol or None where free."""
        value = self.values.get(name)
        if isinstance(value, Constant):
            return tuple(value.array.shape)
        if isinstance(value, Ints):
            return () if value.scalar else (len(value.items),)
        return self._shapes.get(name)

    def rank(self, call: Call, place: int = 0) -> int:
        """The rank of an input, for operators that need it to be written down."""
        shape = self.shape(call.input_names[place])
        if shape is None:
            raise call.fails(f"needs the rank of '{call.input_names[place]}', which is unknown")
        return len(shape)

    def dtype(self, name: str) -> str | None:
        """The numpy name of a tensor's element type."""
        value = self.values.get(name)
        if isinstance(value, Constant):
            return value.array.dtype.name
        return "int64" if isinstance(value, Ints) else self._dtypes.get(name)

    def axis(self, call: Call, axis: int, place: int = 0) -> int:
        """An axis counted from the front."""
        return axis if axis >= 0 else axis + self.rank(call, place)

    def sole_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor in one slot, or None."""
        readers = self._readers.get(name, ())
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def is_read(self, name: str) -> bool:
        """Whether anything needs a tensor: optional outputs are often named and never read."""
        return bool(name) and (name in self._outputs or bool(self._readers.get(name)))

    def constant(self, name: str) -> Constant | None:
        """The value of a tensor where it is constant."""
        value = self.values.get(name)
        return value if isinstance(value, Constant) else None

    # Emitting.

    def input(self, name: str) -> fx.Node:
        """An argument of the network's forward."""
        legal = legal_argument(name)
        while legal in self._inputs:
            legal += "_"
        self._inputs.add(legal)
        node = self.graph.placeholder(legal)
        self.name(node, name)
        return node

    def name(self, value: Value, name: str) -> None:
        """Note which ONNX tensor a value is."""
        if isinstance(value, fx.Node):
            value.meta.setdefault("onnx", name)

    def translate(self, call: Call) -> Sequence[Value]:
        """The values of a node's outputs."""
        if call.kind not in self._known:
            raise call.fails("is an operator without a translation")
        given = [value for value in call.inputs if value is not None]
        result: Value | Sequence[Value] | None = None
        if any(isinstance(value, Ints) for value in given) or call.kind == "Shape":
            handler = _INTEGER_HANDLERS.get(call.kind)
            result = handler(self, call) if handler else None
        if result is None:
            result = self._known[call.kind](self, call)
        if result is None:
            raise call.fails("takes inputs in a way without a translation")
        return [result] if isinstance(result, Constant | Ints | fx.Node) else list(result)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A call of `function` in the network's forward."""
        return self.graph.call_function(function, args, kwargs)

    def method(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of a tensor's method; the tensor comes first."""
        return self.graph.call_method(name, args, kwargs)

    def layer(
        self, call: Call, make: Callable[[], nn.Module], *args: Any, key: Any = None
    ) -> fx.Node:
        """A call of a layer of its own, named after its weights or its node.

        Calls with an equal `key` share one layer; None shares nothing.
        """
        path = self._layers.get(key) if key is not None else None
        if path is None:
            path = self._attach(layer_path(call.name or call.kind, call.input_names[1:]), make())
            if key is not None:
                self._layers[key] = path
        return self.graph.call_module(path, args)

    def tensor(self, value: Value | None) -> fx.Node:
        """A value as a tensor in the graph.

        A constant becomes a parameter where it is floating and more than one number: those are
        what a network has learned; anything else becomes a buffer.
        """
        assert value is not None
        if isinstance(value, fx.Node):
            return value
        if isinstance(value, Ints):
            return self.call(stack_integers, list(value.items), value.scalar)
        key = (value.name, value.transposed) if value.name else id(value)
        if key not in self._attributes:
            array = value.array
            learned = array.dtype.kind in "fV" and array.size > 1
            held = self.parameter(value) if learned else as_tensor(array)
            name = value.name or f"constant_{len(self._attributes)}"
            path = self._attach(legal_path(name.removesuffix(":0")), held)
            self._attributes[key] = self.graph.get_attr(path)
        return self._attributes[key]

    def operand(self, call: Call, place: int) -> Any:
        """An input of an elementwise operator: a plain number where it is a constant one."""
        value = call.inputs[place]
        if isinstance(value, Constant) and value.array.size == 1 and value.array.dtype.kind != "V":
            others = [
                self.shape(name) for at, name in enumerate(call.input_names) if at != place and name
            ]
            # A constant of more dimensions than the other operand would add dimensions to it.
            ranks = [len(shape) for shape in others if shape is not None]
            if value.array.ndim <= max(ranks, default=0):
                return value.array.item()
        if isinstance(value, Ints) and value.scalar:
            return value.items[0]
        return self.tensor(value)

    def parameter(self, constant: Constant, *, transpose: bool = False) -> nn.Parameter:
        """A constant, or its transpose, as a parameter; one for all uses of a shared matrix.

        Its attribute ``origin`` is the initialiser's name, and whether it is that one's transpose.
        """
        array = constant.array.T if transpose else constant.array
        key = (constant.name or "", constant.transposed != transpose)
        # Exporters merge vectors that happen to be equal; matrices are equal because they are tied.
        if constant.name is None or array.ndim < 2:
            made = nn.Parameter(as_tensor(array), requires_grad=array.dtype.kind in "fV")
            made.origin = key
            return made
        if key not in self._parameters:
            self._parameters[key] = nn.Parameter(as_tensor(array))
            self._parameters[key].origin = key
        return self._parameters[key]

    def size(self, tensor: fx.Node, axis: int) -> fx.Node:
        """One size of a tensor, as an integer."""
        if (tensor, axis) not in self._sizes:
            self._sizes[tensor, axis] = self.method("size", tensor, axis)
        return self._sizes[tensor, axis]

    def integers(self, value: Value | None) -> list[int | fx.Node] | None:
        """A value as integers where each is known or is a size; None for anything else."""
        if isinstance(value, Ints):
            return list(value.items)
        if isinstance(value, Constant) and value.array.dtype.kind in "iub":
            return [int(item) for item in value.array.ravel()]
        return None

    def known_integers(self, call: Call, place: int, attribute: str = "") -> list[int] | None:
        """Integers from an attribute or a constant input; None where both are left out."""
        if attribute and attribute in call.attributes:
            return [int(item) for item in np.atleast_1d(call.attributes[attribute])]
        value = call.input(place)
        if value is None:
            return None
        items = self.integers(value)
        if items is None or any(isinstance(item, fx.Node) for item in items):
            raise call.fails(f"takes '{call.input_names[place]}', which is not constant")
        return [item for item in items if isinstance(item, int)]

    def _attach(self, path: str, held: nn.Module | torch.Tensor) -> str:
        """Put a layer or a tensor into the tree under `path`, or under a free name like it."""
        parts = path.split(".")
        owner = self.root
        for part in parts[:-1]:
            child = getattr(owner, part, None)
            if child is None:
                child = nn.Module()
                owner.add_module(part, child)
            if type(child) is not nn.Module:  # a layer or a tensor has that name already
                return self._attach("_".join(parts), held)
            owner = child
        name, count = parts[-1], 1
        while hasattr(owner, name):
            count += 1
            name = f"{parts[-1]}_{count}"
        if isinstance(held, nn.Module):
            owner.add_module(name, held)
        elif isinstance(held, nn.Parameter):
            owner.register_parameter(name, held)
        else:
            owner.register_buffer(name, held)
        return ".".join([*parts[:-1], name])


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A copy of an array as a tensor, bfloat16 included."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


def fill(layer: nn.Module, **held: torch.Tensor | None) -> nn.Module:
    """A layer made on the meta device, with its parameters and buffers put in."""
    for name, tensor in held.items():
        if tensor is not None and name in layer._buffers:
            layer._buffers[name] = tensor.detach()
        elif tensor is not None:
            layer._parameters[name] = (
                tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
            )
    return layer.eval()


def stack_integers(items: Sequence[int], scalar: bool) -> torch.Tensor:
    """Integers, some of them symbolic, as an int64 tensor."""
    tensors = [torch.scalar_tensor(item, dtype=torch.int64) for item in items]
    if scalar:
        return tensors[0]
    return torch.stack(tensors) if tensors else torch.zeros(0, dtype=torch.int64)
