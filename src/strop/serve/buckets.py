"""Which requests may share a batch, and how their arrays are put together and taken apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from strop.records import Manifest, Signature, TensorSpec

Arrays = Mapping[str, np.ndarray]
_TRIM = "trim-padding"


class Buckets(ABC):
    """Requests with equal keys may be computed together."""

    @abstractmethod
    def key(self, inputs: Arrays) -> Hashable:
        """The bucket of one request's inputs."""

    def gather(
        self, parts: Sequence[Arrays], buffers: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """The inputs of several requests as one batch, in order.

        Parameters
        ----------
        buffers
            Arrays of an earlier batch by name, which are written again where they are large
            enough: a fresh array of some megabytes costs more in page faults than in copying.
        """
        return {name: _stack(name, [part[name] for part in parts], buffers) for name in parts[0]}

    def own(self, outputs: Arrays, inputs: Arrays) -> dict[str, np.ndarray]:
        """One request's outputs, already cut to its rows, as it would get them alone."""
        return dict(outputs)

    @property
    def cuts(self) -> bool:
        """Whether `own` does anything."""
        return False


class Fixed(Buckets):
    """All dimensions but the first are fixed: one bucket."""

    def key(self, inputs: Arrays) -> Hashable:
        return None


class Equal(Buckets):
    """Some dimension is free and nothing is known of padding: only equal shapes share a batch.

    Parameters
    ----------
    names
        The inputs; clients may send them in any order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    def key(self, inputs: Arrays) -> Hashable:
        return tuple([inputs[name].shape[1:] for name in self._names])


class Trimmed(Buckets):
    """A bundle made with ``trim-padding``: its graph cuts a batch to the longest mask in it.

    Requests of like length share a batch, so that a short one does not pay for a long one. The
    padding was shown not to take part in the answer when the bundle was made, so where the length
    is free, requests of different given lengths are padded with zeros to the longest; outputs that
    carry the length are cut back to the request's own.

    Parameters
    ----------
    mask
        The input, [rows, length], that is 0 where there is padding.
    padded
        The inputs that carry the length at dimension 1, the mask among them.
    carrying
        The outputs that carry it at dimension 1.
    step
        Lengths are rounded up to a multiple of this in a bundle's graph.
    free
        Whether requests may differ in the length that they give.
    """

    def __init__(
        self,
        mask: str,
        padded: Sequence[str],
        carrying: Sequence[str],
        step: int,
        free: bool,
        others: Sequence[str] = (),
    ) -> None:
        self.mask = mask
        self.padded = frozenset(padded)
        self.carrying = frozenset(carrying)
        self.step = max(step, 1)
        self.free = free
        self.others = tuple(others)

    def key(self, inputs: Arrays) -> Hashable:
        mask = inputs[self.mask]
        given = mask.shape[1]
        # A row without any token counts as full in the graph: its answer depends on the padding,
        # so that it may share a batch only with what was given the same length.
        whole = not mask.any(axis=1).all()
        length = given if whole else int(np.flatnonzero(mask.any(axis=0))[-1]) + 1
        # Powers of two of steps: few buckets, and at most twice the work that a request needs.
        rounded = 1 << (-(-length // self.step) - 1).bit_length()
        others = [inputs[name].shape[1:] for name in self.others]
        return (rounded, given if whole or not self.free else 0, *others)

    def gather(
        self, parts: Sequence[Arrays], buffers: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        if not self.free or len({part[self.mask].shape[1] for part in parts}) == 1:
            return super().gather(parts, buffers)
        longest = max(part[self.mask].shape[1] for part in parts)
        padded = [
            {
                name: _pad(array, longest) if name in self.padded else array
                for name, array in part.items()
            }
            for part in parts
        ]
        return super().gather(padded, buffers)

    def own(self, outputs: Arrays, inputs: Arrays) -> dict[str, np.ndarray]:
        length = inputs[self.mask].shape[1]
        return {
            name: array[:, :length] if name in self.carrying else array
            for name, array in outputs.items()
        }

    @property
    def cuts(self) -> bool:
        return self.free and bool(self.carrying)


def buckets_for(signature: Signature, manifest: Manifest | None = None) -> Buckets:
    """How requests for a model are put together; `manifest` is the bundle's, if it is one."""
    trimmed = None if manifest is None else _trimmed(signature, manifest)
    if trimmed is not None:
        return trimmed
    free = any(
        spec.shape is None or any(not isinstance(dim, int) for dim in spec.shape[1:])
        for spec in signature.inputs
    )
    return Equal(signature.input_names) if free else Fixed()


def _trimmed(signature: Signature, manifest: Manifest) -> Trimmed | None:
    step = next((step for step in manifest.recipe.steps if step.technique == _TRIM), None)
    meta: Any = manifest.lineage.get("meta")
    if step is None or not isinstance(meta, dict):
        return None
    padded = meta.get("trimmed_inputs") or ()
    masks = [spec for spec in signature.inputs if spec.name in padded and _is_mask(spec)]
    if len(masks) != 1:
        return None
    (mask,) = masks
    assert mask.shape is not None
    others = [
        spec.name
        for spec in signature.inputs
        if spec.name not in padded
        and any(not isinstance(dim, int) for dim in (spec.shape or (None,))[1:])
    ]
    return Trimmed(
        mask.name,
        padded,
        meta.get("restored_outputs") or (),
        int(step.params.get("bucket", 1)),
        not isinstance(mask.shape[1], int),
        others,
    )


def _is_mask(spec: TensorSpec) -> bool:
    return "mask" in spec.name.lower() and len(spec.shape or ()) == 2


def _stack(
    name: str, arrays: list[np.ndarray], buffers: dict[str, np.ndarray] | None
) -> np.ndarray:
    first = arrays[0]
    if buffers is None or first.dtype.hasobject:
        return np.concatenate(arrays)
    rows = sum([len(array) for array in arrays])
    buffer = buffers.get(name)
    if buffer is None or len(buffer) < rows or buffer.shape[1:] != first.shape[1:]:
        buffer = buffers[name] = np.empty((rows, *first.shape[1:]), first.dtype)
    batch = buffer[:rows]
    np.concatenate(arrays, out=batch)
    return batch


def _pad(array: np.ndarray, length: int) -> np.ndarray:
    missing = length - array.shape[1]
    if not missing:
        return array
    return np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))
