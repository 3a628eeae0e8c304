"""What the engines that compile a traced network trace it with."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator

import numpy as np

from strop.errors import NotApplicable
from strop.models.sample import random_inputs
from strop.records import Signature

_SIZES = (8, 32, 64, 320)
_STEP = 8
"""How far sizes of different names lie apart: `torch.export` takes equal sizes for one."""


def sizes(signature: Signature) -> tuple[int, ...]:
    """Sizes of free dimensions to trace at, one after the other until one suits the network.

    Of too small an image nothing is left. Where no dimension but the first is free, all would be
    the same attempt: there is one.

    Examples
    --------
    >>> from strop.records import TensorSpec
    >>> row = TensorSpec(name="x", dtype="float32", shape=("n", 4))
    >>> sizes(Signature(inputs=(row,), outputs=()))
    (8,)
    """
    free = any(
        not isinstance(dim, int) for spec in signature.inputs for dim in (spec.shape or ())[1:]
    )
    return _SIZES if free else _SIZES[:1]


def examples(
    signature: Signature, rows: int, size: int, *, step: int = _STEP
) -> dict[str, np.ndarray]:
    """Random inputs of concrete sizes, by name.

    Parameters
    ----------
    rows
        The size of a free first dimension.
    size, step
        The first of the other free dimensions has `size`, one of another name `step` more, and so
        on; 0 gives all of them the same.

    Raises
    ------
    NotApplicable
        When an input's rank is unknown.

    Examples
    --------
    >>> from strop.records import TensorSpec
    >>> ids = TensorSpec(name="ids", dtype="int64", shape=("n", "length"))
    >>> examples(Signature(inputs=(ids,), outputs=()), rows=3, size=8)["ids"].shape
    (3, 8)
    """
    known: dict[str, int] = {}
    more = itertools.count(size, step)
    shapes: dict[str, list[int | str]] = {}
    for spec in signature.inputs:
        if spec.shape is None:
            raise NotApplicable(f"the rank of input '{spec.name}' is unknown")
        shape: list[int | str] = []
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, int):
                shape.append(dim)
            elif axis == 0:
                shape.append(rows)
            else:
                shape.append(known.setdefault(dim, next(more)) if dim else next(more))
        shapes[spec.name] = shape
    return random_inputs(signature, rows=rows, shapes=shapes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what compilers log about their own steps to themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
