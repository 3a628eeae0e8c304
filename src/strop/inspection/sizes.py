"""The size of every input: declared, given, or assumed and said so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from strop.errors import InputError
from strop.models.sample import FREE_DIMENSION, Shapes
from strop.records import Signature, TensorSpec


def input_sizes(
    signature: Signature, shapes: Shapes | None, examples: Mapping[str, np.ndarray] | None
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """The shape of each input whose rank is known, and what had to be assumed for it.

    A symbol has one size wherever it stands: the first that is given for it.
    """
    told = {spec.name: _told(spec, shapes, examples) for spec in signature.inputs}
    symbols: dict[str, int] = {}
    for spec in signature.inputs:
        for dim, size in zip(spec.shape or (), told[spec.name], strict=False):
            if isinstance(dim, str) and size is not None:
                symbols.setdefault(dim, size)
    sizes: dict[str, tuple[int, ...]] = {}
    assumed: list[str] = []
    for spec in signature.inputs:
        declared = spec.shape
        if declared is None:
            known = [size for size in told[spec.name] if size is not None]
            if known and len(known) == len(told[spec.name]):
                sizes[spec.name] = tuple(known)
            continue
        chosen = []
        for axis, dim in enumerate(declared):
            size = dim if isinstance(dim, int) else told[spec.name][axis]
            if isinstance(dim, str):
                size = symbols.get(dim)
            if size is None:
                size = 1 if axis == 0 else FREE_DIMENSION
                name = f" ('{dim}')" if dim else ""
                assumed.append(f"{spec.name} dimension {axis}{name} = {size}")
                if isinstance(dim, str):
                    symbols[dim] = size
            chosen.append(size)
        sizes[spec.name] = tuple(chosen)
    return sizes, tuple(assumed)


def _told(
    spec: TensorSpec, shapes: Shapes | None, examples: Mapping[str, np.ndarray] | None
) -> list[int | None]:
    """What the caller says of each dimension; None where nothing."""
    rank = len(spec.shape or ())
    if shapes and spec.name in shapes:
        given = list(shapes[spec.name])
        fits = spec.shape is None or (
            len(given) == rank
            and all(
                not (isinstance(mine, int) and isinstance(theirs, int)) or mine == theirs
                for mine, theirs in zip(given, spec.shape, strict=True)
            )
        )
        if not fits:
            raise InputError(
                f"the shape {'x'.join(map(str, given))} does not fit the input {spec}",
                hint="give only dimensions that the model leaves open another size",
            )
        return [dim if isinstance(dim, int) else None for dim in given]
    if examples is not None and spec.name in examples:
        shape = np.shape(examples[spec.name])
        return [None, *shape[1:]] if spec.shape is None or len(shape) == rank else [None] * rank
    return [None] * rank
