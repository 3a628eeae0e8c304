"""How many examples a model wants at once, where it says so."""

from __future__ import annotations

from strop.records import Signature


def fixed_batch(signature: Signature) -> int | None:
    """The batch that a model insists on; None where it takes any.

    Examples
    --------
    >>> from strop.records import TensorSpec
    >>> fixed = TensorSpec(name="x", dtype="float32", shape=(8, 3))
    >>> free = TensorSpec(name="x", dtype="float32", shape=("n", 3))
    >>> [fixed_batch(Signature(inputs=(spec,), outputs=())) for spec in (fixed, free)]
    [8, None]
    """
    leading = [spec.shape[0] for spec in signature.inputs if spec.shape]
    return next((dim for dim in leading if isinstance(dim, int)), None)
