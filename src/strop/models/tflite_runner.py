"""A `.tflite` file in LiteRT: named arrays in, named arrays out, batch after batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop.errors import NotApplicable
from strop.models.graph import first_line
from strop.records import Signature


class TFLiteRunner:
    """One interpreter; not to be called from two threads at once.

    Parameters
    ----------
    path
        The file.
    signature
        Its inputs and outputs in the main graph's order, by the names that callers use.
    threads
        Threads of one call.
    xnnpack
        Whether XNNPACK computes what it can; False leaves all to LiteRT's own kernels.

    Raises
    ------
    NotApplicable
        When LiteRT refuses the file: the text names a custom operator that it lacks.
    """

    def __init__(
        self, path: Path, signature: Signature, *, threads: int = 1, xnnpack: bool = True
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kernels = (
            OpResolverType.BUILTIN if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        try:
            self._interpreter: Any = Interpreter(
                model_path=str(path), num_threads=threads, experimental_op_resolver_type=kernels
            )
            ends = (self._interpreter.get_input_details(), self._interpreter.get_output_details())
            self._shapes = {entry["index"]: tuple(map(int, entry["shape"])) for entry in ends[0]}
            self._allocate(any(-1 in entry["shape_signature"] for entry in ends[0]))
        except (RuntimeError, ValueError) as error:
            raise NotApplicable(f"LiteRT refuses the model: {_reason(error)}") from error
        self._inputs = _places(ends[0], signature.input_names)
        self._outputs = _places(ends[1], signature.output_names)

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for one batch, each a copy.

        Raises
        ------
        NotApplicable
            When the graph cannot take these shapes, or an operator fails.
        """
        interpreter = self._interpreter
        try:
            self._resize({index: arrays[name].shape for name, index in self._inputs})
            for name, index in self._inputs:
                interpreter.set_tensor(index, np.ascontiguousarray(arrays[name]))
            interpreter.invoke()
            return {name: interpreter.get_tensor(index) for name, index in self._outputs}
        except (RuntimeError, ValueError) as error:
            raise NotApplicable(f"LiteRT fails: {_reason(error)}") from error

    def _allocate(self, is_open: bool) -> None:
        try:
            self._interpreter.allocate_tensors()
        except RuntimeError as error:
            # What is open counts as 1 until a call tells its size, and that may be too small.
            if not is_open or "unresolved custom op" in str(error):
                raise
            self._shapes = dict.fromkeys(self._shapes, ())

    def _resize(self, shapes: Mapping[int, tuple[int, ...]]) -> None:
        changed = {index: shape for index, shape in shapes.items() if self._shapes[index] != shape}
        if not changed:
            return
        # A graph that refuses half-way would keep sizes that do not belong together.
        self._shapes = dict.fromkeys(self._shapes, ())
        for index, shape in shapes.items():
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()
        self._shapes = dict(shapes)


def _places(entries: Any, names: tuple[str, ...]) -> list[tuple[str, int]]:
    if len(entries) != len(names):
        raise NotApplicable(f"LiteRT sees {len(entries)} tensors where the model has {len(names)}")
    return [(name, int(entry["index"])) for name, entry in zip(names, entries, strict=True)]


def _reason(error: Exception) -> str:
    """What LiteRT says, less the source file and line that it says it in."""
    text = first_line(error)
    # "tflite/kernels/reshape.cc:94 num_input_elements != num_output_elements (32 != 16)Node …"
    head, _, rest = text.partition(" ")
    if rest and ("/" in head or ".cc:" in head):
        text = rest
    return text.partition("Node number")[0].rstrip(" .:") or text
