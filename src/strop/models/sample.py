"""Seeded random inputs, for checks that only compare two versions of one model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from strop.errors import ModelError
from strop.records import Signature, TensorSpec

Shapes = Mapping[str, Sequence[int | str]]

FREE_DIMENSION = 8
"""What a free dimension other than the first becomes when nothing says more."""
_ELEMENT_LIMIT = 2**29


def random_inputs(
    signature: Signature,
    *,
    rows: int = 1,
    shapes: Shapes | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """One array an input, of the declared dtype and shape.

    Floats are standard normal; integers are 0 or 1, which every embedding table and every index
    holds; a symbol has one size wherever it occurs.

    Parameters
    ----------
    rows
        The size of a free first dimension.
    shapes
        Sizes for inputs whose declared shape leaves some open.

    Raises
    ------
    ModelError
        When an input's rank is unknown, or a declared shape has more than 2^29 elements.
    """
    rng = np.random.default_rng(seed)
    symbols: dict[str, int] = {}
    arrays = {}
    for spec in signature.inputs:
        shape = _concrete(spec, rows, (shapes or {}).get(spec.name), symbols)
        if math.prod(shape) > _ELEMENT_LIMIT:
            raise ModelError(
                f"input '{spec.name}' declares the shape {list(shape)}, more than 2^29 elements"
            )
        arrays[spec.name] = _random(rng, spec.dtype, shape)
    return arrays


def _concrete(
    spec: TensorSpec,
    rows: int,
    wanted: Sequence[int | str] | None,
    symbols: dict[str, int],
) -> tuple[int, ...]:
    declared = spec.shape if spec.shape is not None else wanted
    if declared is None:
        raise ModelError(
            f"the rank of input '{spec.name}' is unknown", hint=f"pass --shape {spec.name}=1x…"
        )
    sizes = []
    for axis, dim in enumerate(declared):
        hint = wanted[axis] if wanted is not None and axis < len(wanted) else None
        if isinstance(dim, int):
            sizes.append(dim)
            continue
        size = rows if axis == 0 else hint if isinstance(hint, int) else FREE_DIMENSION
        sizes.append(symbols.setdefault(dim, size) if dim else size)
    return tuple(sizes)


def _random(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype == "str":
        return np.full(shape, "a", dtype=object)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith(("int", "uint")) and dtype not in ("int4", "uint4", "int2", "uint2"):
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype in ("float16", "float32", "float64"):
        return rng.standard_normal(shape).astype(dtype)
    raise ModelError(f"no random values can be made for the type {dtype}")
