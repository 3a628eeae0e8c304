"""What goes into a model and what comes out: names, dtypes and shapes."""

from __future__ import annotations

from strop.records._base import Record

Dim = int | str | None


class TensorSpec(Record):
    """One named tensor.

    Attributes
    ----------
    name
        Exactly as the model spells it (``input.1``, ``serving_default_x:0``).
    dtype
        A numpy dtype name (``float32``, ``int64``, ``bool``), ``bfloat16`` or ``str``.
    shape
        One entry a dimension: an int where it is fixed, a str where it has a symbol, None where
        it is free. None instead of a tuple when even the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.dtype}[...]"
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


class Signature(Record):
    """The named, typed inputs and outputs of a model.

    Examples
    --------
    >>> x = TensorSpec(name="x", dtype="float32", shape=("n", 3))
    >>> y = TensorSpec(name="y", dtype="float32", shape=("n", 10))
    >>> str(Signature(inputs=(x,), outputs=(y,)))
    '(x: float32[n, 3]) -> (y: float32[n, 10])'
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.outputs)

    @property
    def batch_is_dynamic(self) -> bool:
        """Whether the first dimension of every input is free."""
        return all(spec.shape and not isinstance(spec.shape[0], int) for spec in self.inputs)

    def __str__(self) -> str:
        inputs = ", ".join(map(str, self.inputs))
        outputs = ", ".join(map(str, self.outputs))
        return f"({inputs}) -> ({outputs})"
